"""Families with mixtures of experts, some of which have dense relatives in the same file."""
