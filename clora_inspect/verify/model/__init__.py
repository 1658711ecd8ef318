"""The model that is proved: built, given values, run and sharded."""
