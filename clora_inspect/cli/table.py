"""The commands, in the order of `--help`. To add one: a line here, and a file beside this with a
click command of that name.

`--help` prints these words and imports no command for it.
"""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("clora_inspect.cli.commands.plan", "Show what surgery would do. Touches nothing."),
    "check": ("clora_inspect.cli.commands.check", "Rules and snapshot drift, for CI. Also spelled --check."),
    "verify": ("clora_inspect.cli.commands.verify", "Apply the surgery for real and prove that it is right."),
    "diff": ("clora_inspect.cli.commands.diff", "Compare two plans, snapshots or jobs; or a job with its snapshot."),
    "snapshot": ("clora_inspect.cli.commands.snapshot", "Accept, review, list, show or prune snapshots."),
    "graph": ("clora_inspect.cli.commands.graph", "Export the placement graph."),
    "tui": ("clora_inspect.cli.commands.tui", "Walk through the model in the terminal and see the surgery."),
    "explain": (
        "clora_inspect.cli.commands.explain",
        "A rule (CL101), a key of the configuration, or a module of a job.",
    ),
    "config": ("clora_inspect.cli.commands.config", "Show, validate or write the configuration, or print its schema."),
    "info": ("clora_inspect.cli.commands.info", "Versions and what could be imported, for bug reports."),
}
"""Name -> the module that has the command under that name, and its short help."""
