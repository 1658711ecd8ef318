"""`Option`, `Command` and `Group`: click's classes with an environment variable for every option,
headings in `--help`, and a suggestion for a mistyped option.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFIX = "CLORA_INSPECT_"

GROUPS = ("Job", "Memory", "Search", "View", "Rules", "Snapshot", "Verify", "Output", "Configuration", "Display")
"""The headings of `--help`, in order. Options without a group come last, under "Options"."""


class Option(click.Option):
    """An option that `CLORA_INSPECT_<NAME>` sets as well, listed under the heading `group`."""

    def __init__(self, *args: Any, group: str = "", **attributes: Any) -> None:
        if group and group not in GROUPS:
            raise ValueError(f"GROUPS has no heading {group!r}, so --help would leave the option out")
        super().__init__(*args, **attributes)
        self.group = group
        # The long name, where there is one: -f is CLORA_INSPECT_FORMAT.
        long = next((flag for flag in self.opts if flag.startswith("--")), self.name or "")
        self.envvar = self.envvar or PREFIX + long.lstrip("-").replace("-", "_").upper()

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:
        _refuse_empty(ctx, self, opts.get(self.name or ""))
        return super().handle_parse_result(ctx, opts, args)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        # A wrong value from the environment is hard to find when the message names the option.
        if ctx is not None and self.name and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            return f"the environment's {self.envvar}"
        return super().get_error_hint(ctx)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """Return the values of the variable, one a line for a repeatable option.

        click would split them at white space, which `KEY=VALUE` may contain.
        """
        value = self.resolve_envvar_value(ctx)
        if value is not None and self.multiple:
            return [line.strip() for line in value.splitlines() if line.strip()]
        return super().value_from_envvar(ctx)


def _refuse_empty(ctx: click.Context, parameter: click.Parameter, typed: object) -> None:
    """Refuse an empty text, which an unset variable of the shell leaves: as a path it would be the
    current folder, and as a list of rules it would select none.

    Raises:
        BadParameter: `typed` is empty, or one of several that are.
    """
    texts = typed if isinstance(typed, (list, tuple)) else [typed]
    if not ctx.resilient_parsing and any(isinstance(text, str) and not text.strip() for text in texts):
        raise click.BadParameter("it is empty. Is a variable of the shell not set?", ctx, parameter)


def written_lines(text: str | None) -> str | None:
    r"""Turn each `\b` of a raw docstring, two characters there, into the control character.

    With the control character before them, click does not wrap the lines of a paragraph.
    """
    return text and text.replace(r"\b", "\b")


class _Suggesting(click.Command):
    """Names the nearest options when one does not exist.

    click's own message also names options that have little in common with the typed one.
    """

    aliases: tuple[str, ...] = ()
    """Words that are read like options and are none of click's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = [*_flags(self, ctx), *self.aliases]
            near = _nearest_anywhere(error.option_name, known, ctx)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            if near and near[0] not in known:
                from clora_inspect.job.workload import TYPED

                # What looks like it here means something else.
                field = near[0].removeprefix("--").replace("-", "_")
                here = f" Here it is --set workload.{field}=VALUE." if "--set" in known and field in TYPED else ""
                hint = f" {near[0]} is one of {', '.join(_commands_with(near[0], ctx))}.{here}"
            raise click.UsageError(f"there is no option {error.option_name}.{hint}", ctx) from None
        for parameter in self.params:
            # The words of another program may be empty.
            if isinstance(parameter, click.Argument) and parameter.type is not click.UNPROCESSED:
                name = parameter.name or ""
                typed = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
                _refuse_empty(ctx, parameter, ctx.params.get(name) if typed else None)
        return rest


def _flags(command: click.Command, ctx: click.Context) -> list[str]:
    every = [flag for each in command.get_params(ctx) for flag in (*each.opts, *each.secondary_opts)]
    return [flag for flag in every if flag[:1] == "-"]


def _nearest_anywhere(typed: str, known: list[str], ctx: click.Context) -> list[str]:
    """Return the known options that `typed` may mean, or one of another command that is nearer."""
    near = nearest_options(typed, known)
    others = nearest_options(typed, [flag for flags in _flags_by_command(ctx).values() for flag in flags])
    best = max([*near[:1], *others[:1]], key=lambda flag: _likeness(typed, flag), default=None)
    return near if best is None or best in known or _likeness(typed, best) < _LIKE else [best]


def _commands_with(flag: str, ctx: click.Context) -> list[str]:
    return [name for name, flags in _flags_by_command(ctx).items() if flag in flags]


def _flags_by_command(ctx: click.Context) -> dict[str, list[str]]:
    root = ctx.find_root().command
    if not isinstance(root, click.Group):
        return {}
    commands = {name: root.get_command(ctx, name) for name in root.list_commands(ctx)}
    return {name: _flags(each, ctx) for name, each in commands.items() if each is not None}


def nearest_options(typed: str, known: Iterable[str]) -> list[str]:
    """Return the known options that `typed` may mean, at most three, the nearest first."""
    known = list(dict.fromkeys(known))
    # Part of a name is no typo: `--target` means `--target-modules` and not `--etp`.
    begun = sorted((flag for flag in known if len(typed) > 3 and flag.startswith(typed)), key=len)
    if begun:
        return begun[:3]
    score = {flag: _likeness(typed, flag) for flag in known}
    best = max(score.values(), default=0.0)
    return sorted((f for f in known if score[f] >= max(0.6, best - 0.05)), key=score.__getitem__, reverse=True)[:3]


_LIKE = 0.8
"""Likeness of an option of another command from which on it is named: a typo, and no more."""


def _likeness(typed: str, flag: str) -> float:
    # The dashes, which all options have, would make every two of them alike.
    return SequenceMatcher(None, typed.strip("-"), flag.strip("-")).ratio()


class Group(_Suggesting, click.Group):
    """A command with commands of its own."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        attributes["help"] = written_lines(attributes.get("help"))
        super().__init__(*args, **attributes)


class Command(_Suggesting):
    """A command whose `--help` shows its options under headings."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        attributes["help"] = written_lines(attributes.get("help"))
        super().__init__(*args, **attributes)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under the headings of their groups."""
        by_group: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                # click's own --help has no group.
                by_group.setdefault(getattr(parameter, "group", ""), []).append(record)
        for group in (*GROUPS, ""):
            if group in by_group:
                with formatter.section(group or "Options"):
                    formatter.write_dl(by_group[group])
