"""Smaller models of the same kinds of layers."""
