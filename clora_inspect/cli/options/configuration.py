"""`-C`, `--config`, `--isolated`: where the configuration comes from. They are accepted both before
and after the command.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from clora_inspect.cli.options.base import Option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.config.load import Configuration

    Command = Callable[..., Any]

_META = "clora_inspect.config"
"""Key of click's `Context.meta`, which a group and its commands share."""


def config_options(command: Command) -> Command:
    """Add the options to a command or to the group.

    Their values are kept for `configuration_of`; the command itself does not get them.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def configuration_of(context: click.Context, options: Mapping[KeyPath, tuple[str, Any]] | None = None) -> Configuration:
    """Read the configuration and return it.

    Args:
        context: has the values of `--config` and `--isolated`.
        options: keys that other options of the command set: key -> name of the option, value.

    Raises:
        ConfigError: it cannot be read or has mistakes. The message has all, with their lines.
    """
    from clora_inspect.config.load import load

    # Empty when neither the command line nor the environment sets them, see `_keep`.
    kept: dict[str, Any] = context.meta.get(_META, {})
    return load(Path.cwd(), config=kept.get("config", ()), isolated=kept.get("isolated", False), options=options)


def _directory(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    # The option is eager, so click handles it first and other paths are relative to this folder.
    if value is not None:
        os.chdir(value)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    name = parameter.name or ""
    # A default after the command must not undo what was given before it.
    if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
        context.meta.setdefault(_META, {})[name] = value


def _option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="Configuration", expose_value=False, is_eager=True, **attributes)


_OPTIONS = (
    _option(
        "-C",
        "directory",
        callback=_directory,
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False),
        help="Run in the folder DIR.",
    ),
    _option(
        "--config",
        multiple=True,
        callback=_keep,
        metavar="FILE|KEY=VALUE",
        help="Read the configuration FILE, or set one key to a TOML value. Repeatable.",
    ),
    _option(
        "--isolated",
        is_flag=True,
        callback=_keep,
        help="Ignore configuration files and the variables that set keys.",
    ),
)
