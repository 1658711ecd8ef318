"""From what was typed to a job and its plan."""
