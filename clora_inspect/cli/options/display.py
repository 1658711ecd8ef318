"""`--quiet`, `--verbose`, `--traceback`, `--color`, `--ascii`. They are accepted both before and
after the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clora_inspect.cli.options.base import Option
from clora_inspect.cli.stdio.display import Display

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]


def display_options(command: Command) -> Command:
    """Add the display options to a command or to the group.

    The values go into the context's `Display`; the command itself does not get them.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def display_of(context: click.Context) -> Display:
    """Return the `Display` that all commands of this run share."""
    return context.ensure_object(Display)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # An option may stand before and after the command. The later one wins, but only if it was
    # given: its default must not undo what the first one set.
    name = parameter.name or ""
    if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
        setattr(display_of(context), name, value)


def _option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(
        *names, cls=Option, group="Display", expose_value=False, is_eager=True, callback=_keep, **attributes
    )


_OPTIONS = (
    _option("-q", "--quiet", is_flag=True, help="Print findings only, and no messages beside them."),
    _option("-v", "--verbose", is_flag=True, help="Print what libraries printed meanwhile, on stderr."),
    _option("--traceback", is_flag=True, help="Print the Python traceback of an error."),
    _option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="When to use colour; auto follows the terminal, NO_COLOR and FORCE_COLOR.",
    ),
    _option("--ascii", is_flag=True, help="Print ASCII characters only; default when stdout is not UTF-8."),
)
