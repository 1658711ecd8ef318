"""The pages of the commands, from click's own objects: whatever `--help` shows, and the variable
that sets each option.
"""

from __future__ import annotations

import re
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import GROUPS
from clora_inspect.cli.root import root
from clora_inspect.cli.table import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = "reference/command-line/index.md"
PROGRAM = "clora-inspect"

SPECIAL = re.compile(r"([\\`*_<>\[\]|])")
EXAMPLE = re.compile(r"\s*(clora-inspect|torchrun|srun|eval) ")
OPTION = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


def pages() -> dict[str, str]:
    """Return path in `docs/` -> Markdown, of every command."""
    return {_path(context): _page(context) for context in _below(_top())}


def nav() -> list[str | dict[str, str]]:
    """Return the entries of the navigation: the index, then all commands, as in `--help`."""
    commands = _below(_top())
    return [INDEX, *({str(context.info_name): _path(context)} for context in commands)]


def table() -> str:
    """Return the list of all commands, and the options that stand before a command."""
    rows = [f"| [{name}]({name}.md) | {_prose(words)} |" for name, (_, words) in COMMANDS.items()]
    lines = ["| command | does |", "|---|---|", *rows, "", "## Options before the command\n"]
    return "\n".join([*lines, *_options(_top(), "")])


def _top() -> click.Context:
    return click.Context(root, info_name=PROGRAM, **root.context_settings)


def _below(group: click.Context) -> Iterator[click.Context]:
    """Yield a context of each command of a group. Commands are imported for it."""
    if isinstance(group.command, click.Group):
        for name in group.command.list_commands(group):
            if (command := group.command.get_command(group, name)) is not None:
                yield click.Context(command, info_name=name, parent=group, **command.context_settings)


def _path(context: click.Context) -> str:
    return f"reference/command-line/{context.info_name}.md"


def _page(context: click.Context) -> str:
    lines = [f"# {context.command_path}\n", *_described(context), *_options(context, "##")]
    for below in _below(context):
        words = below.command_path.removeprefix(f"{PROGRAM} ")
        lines += [f"## {words}\n", *_described(below), *_options(below, "###")]
    return "\n".join([*lines, "[Exit status](index.md#exit-status)\n"])


def _described(context: click.Context) -> Iterator[str]:
    """Yield the usage and the paragraphs of the command's help, examples as commands."""
    yield f"```text\n{context.command_path} {' '.join(context.command.collect_usage_pieces(context))}\n```\n"
    for paragraph in cleandoc(context.command.help or "").split("\n\n"):
        # The control character is click's mark of a paragraph that is not to be wrapped.
        lines = paragraph.replace("\b", "").strip("\n").splitlines()
        if "\b" not in paragraph:
            yield _prose(" ".join(lines)) + "\n"
        elif all(EXAMPLE.match(line) for line in lines):
            yield "\n".join(["```console", *(f"$ {line.strip()}" for line in lines), "```\n"])
        else:
            yield "\n".join(["```text", *lines, "```\n"])


def _options(context: click.Context, level: str) -> Iterator[str]:
    """Yield the options under the headings of `--help`, or without headings where `level` is ""."""
    by_group: dict[str, list[click.Option]] = {}
    for parameter in context.command.get_params(context):
        # Every command has --help: it is named once, before the commands.
        if isinstance(parameter, click.Option) and (parameter.name != "help" or not level):
            # click's own --help has no group.
            by_group.setdefault(getattr(parameter, "group", ""), []).append(parameter)
    for group in (*GROUPS, ""):
        if level and group in by_group:
            yield f"{level} {group or 'Options'}\n"
        for option in by_group.get(group, ()):
            yield from _entry(option, context)


def _entry(option: click.Option, context: click.Context) -> Iterator[str]:
    """Yield an entry of a definition list: the spelling, what it does, its default, its variable.

    A hidden option has none.
    """
    spelling, words = option.get_help_record(context) or ("", "")
    if not spelling:
        return
    default = option.to_info_dict()["default"]
    if default not in (None, False, ()) and "default" not in words.lower():
        words += f" Default: {default}."
    command = context.command_path.removeprefix(PROGRAM).strip().replace(" ", "-") or "root"
    yield f"`{spelling}`{{ #{command}-{max(option.opts, key=len).lstrip('-')} }}"
    yield f":   {_prose(words)}"
    if option.envvar:
        yield f"    `{option.envvar}`{{ .variable }}"
    yield ""


def _prose(text: str) -> str:
    """Return `text` as Markdown in which options are code and nothing else is special."""
    return OPTION.sub(r"`\1`", SPECIAL.sub(r"\\\1", text))
