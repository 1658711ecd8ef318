"""The proofs of `clora-inspect verify`: adapt a model for real, run it, and check what must hold.
Start reading in `job.py`.
"""
