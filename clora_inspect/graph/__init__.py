"""The placement graph of a plan, its folded form, and one module for each format it is written in.

Each format has a function `render(graph) -> str`; the name of the module is the name of the format
after `clora-inspect graph -f`.
"""
