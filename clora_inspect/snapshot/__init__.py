"""Snapshots: the adapters of a job as a person last accepted them, and what changed since."""
