"""A check of configured jobs. `run.py` tells the story: plans (cached) -> findings and drift from
the snapshots -> allow-list -> `CheckReport`.
"""
