"""`clora-inspect config show | validate | schema | init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clora_inspect.cli.options.base import Command, Group, Option
from clora_inspect.cli.options.completion import complete_job
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.config.document import Document
    from clora_inspect.config.provenance import Value
    from clora_inspect.formats.look import Look


@click.group(cls=Group)
def config() -> None:
    """The configuration: clora-inspect.toml, or [tool.clora-inspect] of a pyproject.toml."""


def _subcommand(function: Callable[..., Any]) -> click.Command:
    """Make a command of this group, with the options that all of them have."""
    return config.command(name=function.__name__, cls=Command)(config_options(display_options(function)))


@_subcommand
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@output_options(("text", "json"), {".json": "json"})
@click.pass_context
def show(context: click.Context, *, keys: tuple[str, ...], output: Output) -> ExitCode:
    """Show every value in force, or those under the KEYs, and where each comes from."""
    from clora_inspect.config.provenance import values

    found = [
        value
        for value in values(configuration_of(context))
        if not keys or any(_is_under(value.key, key) for key in keys)
    ]
    if not found:
        raise click.UsageError(f"nothing is set under {', '.join(keys)}. All keys: clora-inspect config show")
    output.write(lambda look: _json(found) if output.format == "json" else _text(found, look), display_of(context))
    return ExitCode.OK


@_subcommand
@click.pass_context
def validate(context: click.Context) -> ExitCode:
    """Check the configuration and print every mistake with its line. Builds nothing."""
    from clora_inspect.check.rule_names import rule_problems
    from clora_inspect.config.errors import ConfigError
    from clora_inspect.config.jobs import configured_jobs

    configuration = configuration_of(context)
    # `configuration_of` has raised for every other mistake. It knows no rules: those are above it.
    problems = rule_problems(configuration)
    if problems:
        raise ConfigError(problems)
    if configuration.document.path is None:
        raise click.UsageError("no configuration file was found. Write one with: clora-inspect config init")
    jobs = configured_jobs(configuration)
    if not display_of(context).quiet:
        count = len(configuration.settings.jobs)
        narrate(f"{configuration.document.name} is valid. Jobs: {count}; with their layouts: {len(jobs)}.")
    return ExitCode.OK


@_subcommand
@click.option(
    "-o", "--output", cls=Option, group="Output", metavar="FILE", help="Write to FILE, completely or not at all."
)
@click.pass_context
def schema(context: click.Context, *, output: str | None) -> ExitCode:
    """Print the JSON schema of the configuration, for editors."""
    from clora_inspect.config.json_schema import rendered

    Output("json", Path(output) if output and output != "-" else None).write(
        lambda _look: rendered(), display_of(context)
    )
    return ExitCode.OK


@_subcommand
@click.argument("model", default="llama3-8b", shell_complete=complete_job)
@click.option(
    "--pyproject", is_flag=True, cls=Option, help="Add it to pyproject.toml instead of writing clora-inspect.toml."
)
@click.pass_context
def init(context: click.Context, *, model: str, pyproject: bool) -> ExitCode:
    r"""Write a configuration for MODEL, with comments, that works as it is. Overwrites nothing.

    \b
    clora-inspect config init recipes/llama3.py:build_8b
    """
    from clora_inspect.config.document import OWN_FILE, discover, text_of
    from clora_inspect.config.template import job_name, template
    from clora_inspect.machine.atomic_file import one_writer, write_atomically, write_new_file
    from clora_inspect.sources.definition import load_definition

    _refuse_second(discover(Path.cwd()))
    definition = load_definition(model)
    # The model of a function is not known before the function runs. Most models have a gate part.
    fields = {"gated_linear_unit": definition.is_user_function} | definition.config
    # A pyproject.toml has other tables, so the text is added at its end.
    path = Path("pyproject.toml" if pyproject else OWN_FILE)
    text = template(model, fields, prefix=pyproject)
    try:
        with one_writer(Path.cwd()):
            if os.path.lexists(path):
                # Read again: another process may have written it since.
                _refuse_second(discover(Path.cwd()))
                write_atomically(path, f"{text_of(path).rstrip(chr(10))}\n\n{text}".encode())
            else:
                write_new_file(path, text.encode())
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror or error}.") from error
    if not display_of(context).quiet:
        narrate(
            f"Wrote {path}. Next: clora-inspect plan {job_name(model)}; clora-inspect snapshot accept; "
            "clora-inspect --check"
        )
    return ExitCode.OK


def _refuse_second(existing: Document) -> None:
    # One in a folder above is no obstacle: the nearest configuration is the one in force.
    if existing.path is not None and existing.root == Path.cwd().resolve():
        raise click.UsageError(f"{existing.name} has a configuration already. Look at it: clora-inspect config show")


def _is_under(key: str, wanted: str) -> bool:
    return key == wanted or key.startswith((f"{wanted}.", f"{wanted}["))


def _text(values: list[Value], look: Look) -> str:
    from clora_inspect.formats.table import Column, Line, table

    columns = (Column("key"), Column("value"), Column("from", spare=1))
    lines = table(columns, [Line((value.key, value.toml, value.origin)) for value in values], look)
    return "".join(f"{line}\n" for line in lines)


def _json(values: list[Value]) -> str:
    import msgspec

    documents = [{"key": value.key, "value": value.value, "from": value.origin} for value in values]
    return msgspec.json.format(msgspec.json.encode({"schema": 1, "values": documents}), indent=1).decode() + "\n"
