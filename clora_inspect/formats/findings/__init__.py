"""Findings in every output format of `check`."""
