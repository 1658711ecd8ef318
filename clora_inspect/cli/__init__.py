"""The command line: one file per command in `commands`, and a line for each in `table.py`.

A command imports what it needs when it runs, so that `--help` and completion stay fast. No module
here imports torch or megatron-core at its top. Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys


# Nothing but sys is imported before `WithoutCurrentFolder` is entered, `typing` neither.
def main(arguments: list[str] | tuple[str, ...] | None = None) -> int:
    """Run one command and return the exit status of the process, an `ExitCode`.

    It raises nothing: every error of the command is reported on stderr.
    """
    try:
        from clora_inspect.cli.stdio.standard_files import open_missing_files
        from clora_inspect.machine.import_path import WithoutCurrentFolder

        open_missing_files()
        with WithoutCurrentFolder():
            return _main(arguments)
    except KeyboardInterrupt:
        # Ctrl-C before the command began, or while it ended. `_run` reports every other one.
        sys.stderr.write("interrupted\n")
        return 130


def _main(arguments: list[str] | tuple[str, ...] | None) -> int:
    words = with_aliases(list(sys.argv[1:] if arguments is None else arguments))
    # No other command runs on several ranks. The words are only searched, not parsed: a false hit
    # costs one import.
    if "verify" in words:
        from clora_inspect.verify.ranks.launch import LaunchError, launched

        try:
            launch = launched()
        except LaunchError:
            # The command itself finds and reports it.
            return _run(words)
        if launch is not None:
            from clora_inspect.cli.stdio.rank_messages import run_together

            return run_together(launch, lambda: _run(words))
    return _run(words)


def _run(words: list[str]) -> int:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.cli.stdio.failure import report_failure

    display, stdout = Display(), sys.stdout
    try:
        from clora_inspect.cli.root import root

        status = root.main(words, prog_name="clora-inspect", standalone_mode=False, obj=display)
    except BaseException as error:  # noqa: BLE001 - every end of the process has an exit code of ours, never Python's own 1
        return report_failure(error, display, stdout)
    return int(status or 0)


def with_aliases(words: list[str]) -> list[str]:
    """Spell out two aliases: `--check ...` means `check ...`, `help plan` means `plan --help`."""
    if words[:1] == ["--check"]:
        return ["check", *words[1:]]
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    return words
