"""`-f` and `-o`: the format of a command's data, and the file to write it to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.options.base import Option
from clora_inspect.cli.options.same_file import is_same_file
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.cli.stdio.terminal import look_of_file, look_of_stdout, print_data
from clora_inspect.formats.glyphs import JSON, harmless_json
from clora_inspect.formats.look import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from clora_inspect.cli.stdio.display import Display

    Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Output:
    """The format and the destination of a command's data."""

    format: str
    path: Path | None
    """None for stdout."""

    def keep(self, *sources: str | None) -> None:
        """Make sure that the output does not replace what it is made from.

        Args:
            *sources: what is read: files, or FILE.py:FUNCTION.

        Raises:
            UsageError: one of them is the file to write.
        """
        if self.path is not None:
            refuse_replacing([("-o", self.path)], *sources)

    def write(self, render: Callable[[Look], str], display: Display) -> None:
        """Render the data for its destination and write it there.

        Args:
            render: returns the text for a given look; a terminal has colour and a width.
            display: how much is printed, and in which colours.

        Raises:
            ClickException: the file cannot be written.
        """
        if self.path is None:
            print_data(self._harmless(render(look_of_stdout(display))))
            return
        from clora_inspect.machine.atomic_file import write_atomically

        # Names of files and modules may have bytes that are not UTF-8, which Python keeps as lone
        # surrogates; they cannot be encoded.
        data = self._harmless(render(look_of_file(display))).encode(errors="backslashreplace")
        try:
            write_atomically(self.path, data)
        except OSError as error:
            raise click.ClickException(f"{self.path} cannot be written: {error.strerror or error}.") from error
        if not display.quiet:
            narrate(f"Wrote {self.path}")

    def _harmless(self, text: str) -> str:
        return harmless_json(text) if self.format in JSON else text


def refuse_replacing(outputs: Iterable[tuple[str, Path]], *sources: str | None) -> None:
    """Refuse an output that is also read.

    Args:
        outputs: option and file.
        *sources: what is read: files, or FILE.py:FUNCTION.

    Raises:
        UsageError: with the option and both names.
    """
    for option, path in outputs:
        for source in filter(None, sources):
            for file in (Path(source), Path(source.partition(":")[0])):
                if _is_file(file) and is_same_file(path, file):
                    raise click.UsageError(f"{option} {path} would replace {file}, which is read for it.")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long for a file, or has a null character
        return False


def output_options(formats: Sequence[str], suffixes: dict[str, str]) -> Callable[[Command], Command]:
    """Add `-f` and `-o`; the command gets them as one `Output` named `output`.

    Args:
        formats: all formats; the first is the default.
        suffixes: suffix of the file -> the format to write when the user names none.
    """
    by_suffix = ", ".join(f"{form} when FILE ends in {suffix}" for suffix, form in suffixes.items())

    def add(command: Command) -> Command:
        @wraps(command)
        def collected(*, format_: str | None, output: str | None, **others: Any) -> Any:
            # `-o -` is stdout, as in other programs.
            path = None if output is None or output == "-" else Path(output)
            chosen = format_ or (suffixes.get(path.suffix) if path else None) or formats[0]
            return command(output=Output(chosen, path), **others)

        # The decorator that is applied last comes first in `--help`.
        collected = click.option(
            "-o",
            "--output",
            cls=Option,
            group="Output",
            metavar="FILE",
            help="Write to FILE, completely or not at all.",
        )(collected)
        return click.option(
            "-f",
            "--format",
            "format_",
            cls=Option,
            group="Output",
            type=click.Choice(list(formats)),
            help=f"Default: {formats[0]}" + (f"; {by_suffix}." if by_suffix else "."),
        )(collected)

    return add
