"""The formats of a check's report, and `--write FORMAT=FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.output import Output
from clora_inspect.formats.findings import FORMATS, renderer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.check.report import CheckReport
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.formats.look import Look

PAGE = "html"
"""A page that only `--write` offers: the findings of all jobs, without their models."""


def write_also(assignments: Sequence[str]) -> Callable[[CheckReport, Display], None]:
    """Return a function that writes a report to every `FORMAT=FILE` of `assignments`.

    They are parsed in this call, so that a mistake is reported before the work and not after it.

    Raises:
        BadParameter: a text is no assignment, or names no format, standard output, or a file twice.
    """
    outputs = [_output(assignment) for assignment in assignments]
    paths = [output.path for output in outputs if output.path is not None]
    for path in paths:
        if paths.count(path) > 1:
            raise click.BadParameter(f"{path} is named twice, and one would replace the other.", param_hint="--write")

    def write(report: CheckReport, display: Display) -> None:
        for output in outputs:
            output.write(lambda look, form=output.format: _rendered(form, report, look), display)  # type: ignore[misc]

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
