"""The formats of a check's report, and `--write FORMAT=FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.output import Output, refuse_replacing
from clora_inspect.cli.options.same_file import is_same_file
from clora_inspect.formats.findings import FORMATS, renderer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.check.report import CheckReport
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.formats.look import Look

PAGE = "html"
"""A page that only `--write` offers: the findings of all jobs, without their models."""


def write_also(
    assignments: Sequence[str], output: Output, sources: Sequence[str]
) -> Callable[[CheckReport, Display], None]:
    """Return a function that writes a report to every `FORMAT=FILE` of `assignments`.

    They are parsed in this call, so that a mistake is reported before the work and not after it.

    Args:
        assignments: the values of `--write`.
        output: what `-o` says.
        sources: files that the check reads.

    Raises:
        BadParameter: a text is no assignment, or names no format or standard output.
        UsageError: two outputs are one file, or one is a source.
    """
    others = [_output(assignment) for assignment in assignments]
    named = [(f"--write {each.format}=", each.path) for each in others]
    outputs = [(option, path) for option, path in (("-o ", output.path), *named) if path is not None]
    for number, (option, path) in enumerate(outputs):
        for before, taken in outputs[:number]:
            if is_same_file(path, taken):
                raise click.UsageError(
                    f"{before}{taken} and {option}{path} are one file, and one would replace the other."
                )
    refuse_replacing([(option.strip(), path) for option, path in outputs], *sources)

    def write(report: CheckReport, display: Display) -> None:
        for each in others:
            each.write(lambda look, form=each.format: _rendered(form, report, look), display)  # type: ignore[misc]

    return write


def _rendered(form: str, report: CheckReport, look: Look) -> str:
    if form != PAGE:
        return renderer(form)(report, look)
    from clora_inspect.page.document import render

    return render(report)


def _output(assignment: str) -> Output:
    form, equals, path = assignment.partition("=")
    if not equals or not path or form not in (*FORMATS, PAGE):
        raise click.BadParameter(
            f"{assignment!r}: write FORMAT=FILE; formats: {', '.join((*FORMATS, PAGE))}.", param_hint="--write"
        )
    if path == "-":
        raise click.BadParameter(f"{assignment!r}: name a file; -f says what is printed.", param_hint="--write")
    return Output(form, Path(path))
