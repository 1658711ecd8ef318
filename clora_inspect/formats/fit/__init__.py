"""The layouts in which a job fits, as text and as JSON."""
