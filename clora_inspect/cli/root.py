"""`root`, the click group of all commands. A command is imported when it runs."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from clora_inspect.cli.options.base import Command, Group
from clora_inspect.cli.options.configuration import config_options
from clora_inspect.cli.options.display import display_options
from clora_inspect.cli.table import COMMANDS


class LazyGroup(Group):
    """A group that knows the names and texts of its commands without importing them."""

    aliases = ("--check",)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[cmd_name][0]), cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # click's own message for an unknown command names no similar one.
        # (resilient_parsing: the shell completes a line that need not be right yet.)
        if args and args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"no command '{args[0]}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # A group is not a `Command`, but the method needs nothing that a group does not have.
        Command.format_options(self, ctx, formatter)  # type: ignore[arg-type]
        self.format_commands(ctx, formatter)


def _version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"clora-inspect {version('clora-inspect')}")
        context.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-V", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@config_options
@display_options
def root() -> None:
    r"""Plan, check and prove canonical LoRA on megatron-core models, with no GPU.

    \b
    JOB   a configured job (JOB or JOB/LAYOUT), a built-in architecture (llama3-8b,
          deepseek-v3, ...), a Hugging Face folder or config.json,
          package.module:function, file.py:function, or a saved plan (.json)

    \b
    clora-inspect plan llama3-8b         see what LoRA would change, and what is wrong with that
    clora-inspect config init            write a configuration with a first job
    clora-inspect --check                check all configured jobs, for CI

    Every option can be set in the environment: CLORA_INSPECT_TP=8 means --tp 8.
    """
