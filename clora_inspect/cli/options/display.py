"""What the user set for the whole run: how much is said, and how it looks. The same options stand
before and after the command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clora_inspect.cli.options.base import Option

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Any]


@dataclass
class Settings:
    """One run's. Filled while click reads the options, so an error knows how it is to be told."""

    quiet: bool = False
    verbose: bool = False
    traceback: bool = False
    color: str = "auto"
    ascii: bool = False


def display_options(command: Command) -> Command:
    """Add the options of `Settings` to a command or to the group; they fill the context's
    `Settings` and are not passed on.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_of(context: click.Context) -> Settings:
    """The run's settings."""
    return context.ensure_object(Settings)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """What was set after the command beats what was set before it; a default beats nothing."""
    name = parameter.name or ""
    if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
        setattr(settings_of(context), name, value)


def _option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(
        *names, cls=Option, group="Logs", expose_value=False, is_eager=True, callback=_keep, **attributes
    )


_OPTIONS = (
    _option("-q", "--quiet", is_flag=True, help="Print findings only, and no narration."),
    _option("-v", "--verbose", is_flag=True, help="Print what upstream libraries said meanwhile, on stderr."),
    _option("--traceback", is_flag=True, help="Print the whole traceback of an error."),
    _option(
        "--color",
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="When to use colour; auto honours NO_COLOR, FORCE_COLOR.",
    ),
    _option("--ascii", is_flag=True, help="Print ASCII characters only; automatic where stdout is not UTF-8."),
)
