"""Findings in every output format of `check`. Each file of this folder is one format.

A format is a module with a function `render(report, look) -> str`, named as the user writes it
after `-f`. To add one, add its file: nothing lists it. Code that several formats share is in
`base/`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.check.report import CheckReport
    from clora_inspect.formats.look import Look

# The names come from the folder, not from the modules, because importing all of them would slow
# down a check of cached plans.
FORMATS = ("text", *sorted(each.name for each in iter_modules(__path__) if not each.ispkg and each.name != "text"))
"""The names of the formats, the default first."""

SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".sarif": "sarif", ".xml": "junit", ".md": "markdown"}
"""Suffix of a file -> the format that `-o FILE` writes there. A format may have none."""


def renderer(name: str) -> Callable[[CheckReport, Look], str]:
    """Return the function that renders a report in the format called `name`."""
    render: Callable[[CheckReport, Look], str] = import_module(f"{__name__}.{name}").render
    return render
