"""The command line: one file per command, listed in `commands.py`, and what they have in common.

Nothing here imports torch or megatron-core; a command imports what it needs when it runs. stdout is
data, stderr is narration.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status, an `ExitCode`. Never raises for a
    command's error.
    """
    words = rewritten(list(sys.argv[1:] if arguments is None else arguments))
    if "verify" in words:
        from clora_inspect.verify.ranks.launch import launched

        if (launch := launched()) is not None:
            from clora_inspect.cli.stdio.messages import ended_together

            return ended_together(launch, lambda: _run(words))
    return _run(words)


def _run(words: list[str]) -> int:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.cli.stdio.failure import failure_reported

    display, stdout = Display(), sys.stdout
    try:
        from clora_inspect.cli.root import root

        status = root.main(words, prog_name="clora-inspect", standalone_mode=False, obj=display)
    except BaseException as error:  # noqa: BLE001 - every end of the process has a number of ours, never Python's own 1
        return failure_reported(error, display, stdout)
    return int(status or 0)


def rewritten(words: list[str]) -> list[str]:
    """`--check ...` is `check ...`, and `help plan` is `plan --help`."""
    if words[:1] == ["--check"]:
        return ["check", *words[1:]]
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    return words
