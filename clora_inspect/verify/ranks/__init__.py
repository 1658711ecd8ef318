"""Proofs on several ranks: local processes, or a launcher's."""
