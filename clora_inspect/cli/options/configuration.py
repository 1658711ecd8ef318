"""`-C`, `--config`, `--isolated`: where the configuration comes from. The same options stand before
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


def config_options(command: Command) -> Command:
    """Add the options to a command or to the group; they are kept for `configuration_of` and not
    passed on.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def configuration_of(context: click.Context, options: Mapping[KeyPath, tuple[str, Any]] | None = None) -> Configuration:
    """The configuration in force; `options` are keys that other options set: key -> the option's
    name and its value.

    Raises:
        ConfigError: it cannot be read or means nothing; every problem has its place.
    """
    from clora_inspect.config.load import load

    kept: dict[str, Any] = context.meta.get(_META, {})
    return load(Path.cwd(), config=kept.get("config", ()), isolated=kept.get("isolated", False), options=options)


def _directory(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        os.chdir(value)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    name = parameter.name or ""
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
        help="Run in DIR.",
    ),
    _option(
        "--config",
        multiple=True,
        callback=_keep,
        metavar="FILE|KEY=VALUE",
        help="Read FILE; or set one key, as in TOML. Repeatable.",
    ),
    _option(
        "--isolated",
        is_flag=True,
        callback=_keep,
        help="Look for no configuration file, and for no variable that sets a key.",
    ),
)
