"""The commands, one file each. `cli/table.py` lists them."""
