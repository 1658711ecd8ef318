"""The sources of a model: a built-in architecture, a Hugging Face config.json, or a user's
function.
"""
