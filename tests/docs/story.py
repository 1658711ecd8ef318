"""Read a page of the documentation into a story: files to write, programs and commands to run.

- A block with a title, such as ```` ```toml title="pyproject.toml" ````, is a file.
- A block of `console` has commands (`$ `, continued with `> `), each with what it prints.
- A block of `python` without a title is a program.
- `<!-- test: MARK -->` on the line before a block marks it, see `MARKS`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MARKS = {
    "slow": "run by `make nightly` only",
    "gpu": "needs a GPU: not run",
    "srun": "needs Slurm: not run",
    "upstream": "needs another release, or Megatron-Bridge: not run",
    "no": "not run, for the reason that the page gives: <!-- test: no, it downloads a checkpoint -->",
}

IN_REPOSITORY = "in repository"
"""The mark of a whole page, before its first block: its folder is a copy of this repository."""

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<info>[^`]*)$")
_MARK = re.compile(r" *<!-- *test: *(?P<mark>.*?) *-->$")
_TITLE = re.compile(r'\btitle="(?P<title>[^"]*)"')
_OF_A_SHELL = re.compile(r"(?:\$ |(?:[A-Z_]+=\S* )*(?:clora-inspect|torchrun|srun) )")
_INDENTED_COMMAND = re.compile(
    r"(?: {4}|\t)\s*(?:\$ |clora-inspect |python |python3 |make |pip |pytest |torchrun |srun )"
)
# What would change this machine, or ask the network.
_NOT_TO_RUN = re.compile(r"\b(?:pip install|git clone|git push|git pull|git fetch|curl|wget|sudo|apt|make)\b")
# Files of CI and containers: their commands are in the middle of something, and are parsed only.
_HOLDS_COMMANDS = frozenset(("yaml", "yml", "toml", "json", "dockerfile"))


class PageError(Exception):
    """A page breaks the conventions; the message names its line."""


@dataclass(frozen=True)
class File:
    """A file that the reader should have."""

    line: int
    name: str
    text: str
    mark: str


@dataclass(frozen=True)
class Program:
    """A Python program that is run for its exit status."""

    line: int
    text: str
    mark: str


@dataclass(frozen=True)
class Command:
    """A command line, and what the page shows of its output.

    The output stands in the lines `shown_from` to `shown_from + len(shown)` of the page, each
    behind `indent`.
    """

    line: int
    text: str
    shown: tuple[str, ...]
    shown_from: int
    indent: str
    mark: str


Step = File | Program | Command


@dataclass(frozen=True)
class Story:
    """The steps of a page, in their order."""

    path: Path
    name: str
    in_repository: bool
    steps: tuple[Step, ...]

    @property
    def commands(self) -> list[Command]:
        return [step for step in self.steps if isinstance(step, Command)]

    def has(self, mark: str) -> bool:
        return any(step.mark == mark for step in self.steps)


@dataclass(frozen=True)
class Block:
    """A fenced block: the number of its first line inside the fences, and these lines."""

    line: int
    language: str
    info: str
    indent: str
    lines: tuple[str, ...]
    marks: tuple[str, ...]


def read_story(path: Path, name: str) -> Story:
    """Read the page; raise `PageError` where it breaks the conventions."""
    steps: list[Step] = []
    in_repository = False
    for block in blocks_of(path.read_text(encoding="utf-8"), name):
        marks = [mark for mark in block.marks if mark != IN_REPOSITORY]
        if len(marks) < len(block.marks):
            if steps:
                raise PageError(
                    f"{name}:{block.line}: '{IN_REPOSITORY}' is for a whole page: put it before the first block"
                )
            in_repository = True
        if len(marks) > 1:
            raise PageError(f"{name}:{block.line}: several marks: {', '.join(marks)}")
        steps += _steps_of(block, name, _checked_mark(marks[0], f"{name}:{block.line}") if marks else "")
    return Story(path, name, in_repository, tuple(steps))


def blocks_of(text: str, name: str) -> list[Block]:
    """Return the fenced blocks of a page; raise `PageError` for commands outside of them."""
    blocks, marks, opened = [], [], None
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is not None:
            start, opening, its_marks = opened
            if fence and fence["ticks"].startswith(opening["ticks"]) and not fence["info"]:
                indent = opening["indent"]
                lines = tuple(each.removeprefix(indent) for each in inside)
                info = opening["info"].strip()
                blocks.append(Block(start + 1, info.partition(" ")[0], info, indent, lines, tuple(its_marks)))
                opened = None
            else:
                inside.append(line)
        elif fence:
            opened, inside, marks = (number, fence, marks), [], []
        elif mark := _MARK.match(line):
            marks.append(mark["mark"])
        elif _INDENTED_COMMAND.match(line):
            raise PageError(f"{name}:{number}: a command without a block of `console`: {line.strip()}")
        elif line.strip() and any(mark != IN_REPOSITORY for mark in marks):
            raise PageError(f"{name}:{number}: a mark that stands before no block: {', '.join(marks)}")
    if opened is not None:
        raise PageError(f"{name}:{opened[0]}: a block that does not end")
    return blocks


def _checked_mark(mark: str, where: str) -> str:
    kind, _, reason = (part.strip() for part in mark.partition(","))
    if kind not in MARKS:
        raise PageError(f"{where}: unknown mark '{mark}'; there are: {', '.join(MARKS)}, {IN_REPOSITORY}")
    if (kind == "no") != bool(reason):
        raise PageError(f"{where}: the mark 'no' has a reason, and only that one: <!-- test: no, REASON -->")
    return kind


def _steps_of(block: Block, name: str, mark: str) -> list[Step]:
    where = f"{name}:{block.line}"
    if title := _TITLE.search(block.info):
        return [File(block.line, _checked_name(title["title"], where), "\n".join(block.lines) + "\n", mark)]
    if block.language == "console":
        return list(_commands_of(block, name, mark))
    if block.language == "python":
        return [Program(block.line, "\n".join(block.lines) + "\n", mark)]
    if mark:
        raise PageError(f"{where}: the mark '{mark}' of a block that is neither console nor python nor a file")
    if block.language not in _HOLDS_COMMANDS:
        for number, line in enumerate(block.lines, block.line):
            if _OF_A_SHELL.match(line):
                raise PageError(
                    f"{name}:{number}: a command in a block of '{block.language}', not of `console`: {line}"
                )
    return []


def _checked_name(title: str, where: str) -> str:
    path = PurePosixPath(title)
    if not title or path.is_absolute() or ".." in path.parts or "\\" in title:
        raise PageError(f"{where}: the title '{title}' is no file in the story's own folder")
    return title


def _commands_of(block: Block, name: str, mark: str) -> list[Command]:
    commands: list[Command] = []
    lines = list(enumerate(block.lines, block.line))
    while lines:
        number, line = lines.pop(0)
        if not line.startswith("$ "):
            raise PageError(f"{name}:{number}: output before the first command of a block: {line}")
        text = line.removeprefix("$ ")
        while text.endswith("\\") and lines and lines[0][1].startswith("> "):
            text += "\n" + lines.pop(0)[1].removeprefix("> ")
        shown = []
        first = lines[0][0] if lines else number + 1
        while lines and not lines[0][1].startswith("$ "):
            shown.append(lines.pop(0)[1].rstrip())
        while shown and not shown[-1]:
            shown.pop()
        if not mark and _NOT_TO_RUN.search(text):
            raise PageError(f"{name}:{number}: not to be run by a test, so mark it: <!-- test: no, REASON -->")
        commands.append(Command(number, text, tuple(shown), first, block.indent, mark))
    if not commands:
        raise PageError(f"{name}:{block.line}: an empty block of console")
    return commands
