"""Where a model comes from: a built-in architecture, a Hugging Face `config.json`, or a callable of
the user's.
"""
