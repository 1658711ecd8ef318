"""The commands, in the order of `--help`.

To add one, add a line here and a file in `commands` with a click command of that name. `--help`
prints these texts and imports no command.
"""

from __future__ import annotations

COMMANDS: dict[str, tuple[str, str]] = {
    "plan": ("clora_inspect.cli.commands.plan", "Show which modules get which adapters. Changes nothing."),
    "check": (
        "clora_inspect.cli.commands.check",
        "Run rules and look for drift from snapshots, for CI. Also spelled --check.",
    ),
    "fit": (
        "clora_inspect.cli.commands.fit",
        "List the layouts in which a job fits on N GPUs, cheapest first.",
    ),
    "verify": ("clora_inspect.cli.commands.verify", "Apply the surgery for real and prove that it is right."),
    "diff": ("clora_inspect.cli.commands.diff", "Compare two plans, snapshots or jobs; or a job with its snapshot."),
    "snapshot": ("clora_inspect.cli.commands.snapshot", "Accept, review, list, show or prune snapshots."),
    "graph": ("clora_inspect.cli.commands.graph", "Write the placement graph for other programs."),
    "report": (
        "clora_inspect.cli.commands.report",
        "Write one HTML page about a job: to send, and to read without this tool.",
    ),
    "fingerprint": (
        "clora_inspect.cli.commands.fingerprint",
        "Print a hash of the adapter in a PEFT folder, equal for every layout.",
    ),
    "tui": ("clora_inspect.cli.commands.tui", "Look at a job and its model in the terminal."),
    "explain": (
        "clora_inspect.cli.commands.explain",
        "Explain a rule (CL101), a key of the configuration, or a module of a job.",
    ),
    "config": ("clora_inspect.cli.commands.config", "Show, validate or write the configuration, or print its schema."),
    "gate": (
        "clora_inspect.cli.commands.gate",
        "Start a run, and end it before its first step if its ranks are not what FILE says.",
    ),
    "info": ("clora_inspect.cli.commands.info", "Show versions and which packages can be imported, for bug reports."),
}
"""Name -> module that defines the command under that name, and its line in `--help`."""
