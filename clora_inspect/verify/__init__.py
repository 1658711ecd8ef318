"""The proofs: surgery applied for real, one file per thing that must hold."""
