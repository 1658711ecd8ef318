"""The nouns of the tool: a job, its layout, its plan, and what is found in it. Pure data."""
