"""Find the command lines of clora-inspect in a text, and ask click whether they could be typed."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click

from clora_inspect.cli import with_aliases
from clora_inspect.cli.root import root
from clora_inspect.cli.table import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDS = frozenset(("|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "(", ")", "`"))
_PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_./:-]*")


def words_of_lines(lines: str) -> list[list[str]]:
    """Return the words after each `clora-inspect` or `-m clora_inspect` of a shell's lines."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        words = _shell_words(line)
        for number, word in enumerate(words):
            name = word.rpartition("/")[2]
            if name == "clora-inspect" or (name == "clora_inspect" and words[number - 1 : number] == ["-m"]):
                found.append(_until_the_end(words[number + 1 :]))
    return found


def _shell_words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        # An apostrophe in prose.
        return line.split()


def _until_the_end(words: list[str]) -> list[str]:
    kept: list[str] = []
    for word in words:
        if word in _ENDS:
            # The 2 of `2>` and `2>&1` is a word of its own here.
            return kept[:-1] if word.startswith(">") and kept[-1:] in (["1"], ["2"]) else kept
        kept.append(word)
    return kept


def fault_of(words: Iterable[str]) -> str | None:
    """Return what click says against these words behind `clora-inspect`, or None.

    What depends on files is not looked at, nor a value in capitals (`--tp N`).
    """
    given = [word for word in with_aliases(list(words)) if word != "..."]
    if given[:1] == ["COMMAND"]:
        given[0] = "plan"
    try:
        _parse(root, given, None)
    except click.exceptions.Exit:
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


def _parse(command: click.Command, words: list[str], parent: click.Context | None) -> None:
    context = click.Context(command, parent=parent, info_name=command.name, **command.context_settings)
    if not isinstance(command, click.Group) and "--" in words:
        # What follows is a command of its own (`gate FILE -- COMMAND`).
        words = [*words[: words.index("--")], "--", "command"]
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    asks_for_help = bool(set(words) & {"--help", "-h", "--version", "-V"})
    for parameter in command.params:
        _convert(parameter, values.get(parameter.name or ""), context)
    if isinstance(command, click.Group):
        if rest:
            name, chosen, behind = command.resolve_command(context, rest)
            assert name is not None
            assert chosen is not None
            _parse(chosen, behind, context)
        elif not asks_for_help and not command.invoke_without_command and parent is not None:
            raise click.UsageError(f"no command of {command.name}", context)
    elif rest:
        raise click.UsageError(f"unexpected: {' '.join(rest)}", context)


def _convert(parameter: click.Parameter, value: object, context: click.Context) -> None:
    values = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(each, str) and _PLACEHOLDER.fullmatch(each) for each in values):
        return
    if isinstance(parameter.type, (click.Choice, click.types.IntParamType, click.types.FloatParamType)) and value:
        parameter.type_cast_value(context, value)


def options_of(command: click.Command) -> frozenset[str]:
    """Return the options of a command and of all commands below it."""
    # A command keeps the help option that its first context gives it.
    context = click.Context(command, **command.context_settings)
    below = (
        [command.get_command(context, name) for name in command.list_commands(context)]
        if isinstance(command, click.Group)
        else []
    )
    own = {flag for each in command.get_params(context) for flag in (*each.opts, *each.secondary_opts)}
    return frozenset(own).union(*(options_of(each) for each in below if each is not None))


def is_command(words: list[str]) -> bool:
    return bool(words) and words[0] in COMMANDS
