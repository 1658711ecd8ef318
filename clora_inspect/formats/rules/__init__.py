"""Pages about rules: one rule for the terminal, and all of them in Markdown."""
