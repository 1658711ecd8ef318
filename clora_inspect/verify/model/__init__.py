"""The model under test: built, given values, run, and taken apart into shards."""
