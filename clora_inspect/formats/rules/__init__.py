"""Rules as pages: one of them, and the catalogue."""
