"""A report as one HTML page to send: `clora-inspect report`. Read `document` first.

The page loads nothing and is whole without its script, which filters, sorts and folds.
"""
