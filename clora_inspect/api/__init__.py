"""The Python API: `inspect` makes a `Report` of a job, with the nouns of the command line.

`clora_inspect` exports both; docs/python-api.md describes them.
"""
