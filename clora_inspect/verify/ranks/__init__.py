"""Run proofs on ranks: this process alone, local processes, or the ranks of a launcher."""
