"""Families whose layers all have a dense MLP, one file for each family or close relatives."""
