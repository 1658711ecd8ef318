"""`--select`, `--ignore`, `--extend-select`, `--fail-on`: which rules run and what fails a check.
They set keys of the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.options.base import Option
from clora_inspect.cli.options.completion import complete_rules
from clora_inspect.job.finding import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.config.key_path import KeyPath

    Command = Callable[..., Any]

RULE_KEYS: dict[str, KeyPath] = {
    "select": ("check", "select"),
    "ignore": ("check", "ignore"),
    "extend_select": ("check", "extend-select"),
    "fail_on": ("check", "fail-on"),
}
"""Option -> the key of the configuration that it sets."""


def rule_options(command: Command) -> Command:
    """Add the options; the command gets them under the names in `RULE_KEYS`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _codes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    # An empty list is allowed here: --select= runs no rules.
    return None if value is None else [word.strip() for word in value.split(",") if word.strip()]


def _option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="Rules", **attributes)


_OPTIONS = (
    _option(
        "--select",
        callback=_codes,
        metavar="LIST",
        shell_complete=complete_rules,
        help="Rules to run: codes (CL101), beginnings of codes (CL1) or names.",
    ),
    _option("--ignore", callback=_codes, metavar="LIST", shell_complete=complete_rules, help="Rules not to run."),
    _option(
        "--extend-select",
        callback=_codes,
        metavar="LIST",
        shell_complete=complete_rules,
        help="Rules to run beside those of --select.",
    ),
    _option(
        "--fail-on",
        type=click.Choice(list(map(str, Severity))),
        help="The mildest severity that fails the check; default: error.",
    ),
)
