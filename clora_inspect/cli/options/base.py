"""click's option and command with what all of ours have: a heading in `--help`, and an environment
twin.
"""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

PREFIX = "CLORA_INSPECT_"

GROUPS = ("Job", "View", "Rules", "Snapshot", "Verify", "Output", "Configuration", "Logs")
"""The headings of `--help`, in order; options of no group come last."""


class Option(click.Option):
    """An option that `CLORA_INSPECT_<NAME>` sets as well, listed under the heading `group`."""

    def __init__(self, *args: Any, group: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group
        long = next((flag for flag in self.opts if flag.startswith("--")), self.name or "")
        self.envvar = self.envvar or PREFIX + long.lstrip("-").replace("-", "_").upper()

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Where the wrong value came from: the environment is easily forgotten."""
        if ctx is not None and self.name and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
            return f"the environment's {self.envvar}"
        return super().get_error_hint(ctx)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """A repeatable option takes one value per line from the environment: values hold blanks."""
        value = self.resolve_envvar_value(ctx)
        if value is not None and self.multiple:
            return [line.strip() for line in value.splitlines() if line.strip()]
        return super().value_from_envvar(ctx)


def written_lines(text: str | None) -> str | None:
    r"""A docstring whose `\b`, two characters in a raw string, is the one that makes click keep the
    lines below it.
    """
    return text and text.replace(r"\b", "\b")


class Command(click.Command):
    """A command whose `--help` shows its options under headings."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        attributes["help"] = written_lines(attributes.get("help"))
        super().__init__(*args, **attributes)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        by_group: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                by_group.setdefault(getattr(parameter, "group", ""), []).append(record)
        for group in (*GROUPS, ""):
            if group in by_group:
                with formatter.section(group or "Options"):
                    formatter.write_dl(by_group[group])
