"""Proofs, as text and JSON."""
