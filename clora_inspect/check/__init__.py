"""A check of configured jobs. `run.py` has all of its steps: plans (cached) -> findings, and drift
from the snapshots -> allow-list -> `CheckReport`.
"""
