"""The configuration: `clora-inspect.toml`, or `[tool.clora-inspect]` of the nearest
`pyproject.toml`.

It is read in three steps:

1. `document`: read the file. It remembers the line and column of every key.
2. `load` and `validation`: lay the command line and the environment over the document, check the
   result, and make it the frozen structs of `settings`.
3. `jobs`: make one job, a model with a LoRA, for every layout that the settings name.

Nothing here imports torch or megatron-core.
"""
