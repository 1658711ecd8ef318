"""What the files of `clora.families` are made of: `Family` itself, a checked reader of config.json,
and the parts of a decoder's config that many families share.
"""
