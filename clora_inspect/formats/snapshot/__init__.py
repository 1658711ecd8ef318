"""Snapshots and their drift as text."""
