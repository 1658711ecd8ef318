"""The tool's configuration: `[tool.clora-inspect]` of the nearest `pyproject.toml`, or
`clora-inspect.toml`.

    document = read the file, remember where every key stands
    settings = the document, environment and command line laid over each other, checked, as frozen
    structs jobs     = what the settings ask to be planned: model + LoRA + one layout each

Importing it imports neither torch nor megatron-core.
"""
