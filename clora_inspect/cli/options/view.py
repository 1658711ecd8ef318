"""The options that choose which part of a plan is shown, and in which detail."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.options.base import Option

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.formats.plan.view import View

    Command = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRequest:
    """The values of the options, as the user gave them."""

    columns: str | None
    expand: bool
    pattern: str | None
    only: str | None

    def resolved(self, *, findings_only: bool) -> View:
        """Check the columns and return the view.

        Raises:
            BadParameter: a column that does not exist.
        """
        # Imported here: `--help` shows these options and needs no tables.
        from clora_inspect.formats.plan.placement_table import COLUMNS
        from clora_inspect.formats.plan.view import ShownModules, View

        columns = tuple(name.strip() for name in self.columns.split(",")) if self.columns else None
        for name in columns or ():
            if name not in COLUMNS:
                raise click.BadParameter(
                    f"no column '{name}'. There are: {', '.join(COLUMNS)}.", param_hint="--columns"
                )
        return View(
            columns=columns,
            expand=self.expand,
            pattern=self.pattern,
            only=ShownModules(self.only) if self.only else None,
            findings_only=findings_only,
        )


def view_options(command: Command) -> Command:
    """Add the options; the command gets them as one `ViewRequest` named `view`."""

    @wraps(command)
    def collected(*, columns: str | None, expand: bool, filter_: str | None, only: str | None, **others: Any) -> Any:
        return command(view=ViewRequest(columns=columns, expand=expand, pattern=filter_, only=only), **others)

    optioned: Command = collected
    for option in reversed(_OPTIONS):
        optioned = option(optioned)
    return optioned


def _view_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="View", **attributes)


_OPTIONS = (
    _view_option("--columns", metavar="LIST", help="Columns of the table, separated by commas."),
    _view_option("--expand", is_flag=True, help="Show one row for every layer: do not fold equal layers."),
    _view_option(
        "--filter",
        "filter_",
        metavar="PATTERN",
        help="Show only rows that a target pattern, or a part of a path, matches.",
    ),
    _view_option(
        "--only",
        type=click.Choice(["adapted", "missed"]),
        help="Show only modules with an adapter, or only those without, and why.",
    ),
)
