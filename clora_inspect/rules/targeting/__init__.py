"""CL1, targeting: what the entries of `target_modules` and `exclude_modules` select, and what they
do not.
"""
