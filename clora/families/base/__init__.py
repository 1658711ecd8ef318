"""The parts of the files in `clora.families`: `Family` itself, a checked reader of config.json, and
the fields of a decoder's config that many families share.
"""
