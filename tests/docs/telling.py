"""Run a story and compare what it prints with its page; with `UPDATE_GOLDENS=1`, rewrite it."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from output import aligned, difference, lines_of, rewritten
from shell import Shell
from story import Command, File, Program, Story

if TYPE_CHECKING:
    from shell import Ran

UPDATE = bool(os.environ.get("UPDATE_GOLDENS"))
TIMEOUT, SLOW_TIMEOUT = 300, 1800


class Telling:
    """One run of a story: `faults` are the sentences of what is not as the page says."""

    def __init__(self, story: Story, *, slow: bool, upstream: bool = False, update: bool = UPDATE) -> None:
        self._story = story
        self._run = ("", *(["slow"] if slow else []), *(["upstream"] if upstream else []))
        self._timeout = SLOW_TIMEOUT if slow else TIMEOUT
        self._update = update
        self._new_output: list[tuple[Command, list[str]]] = []
        self.commands = 0
        self.faults: list[str] = []

    def tell(self, folder: Path, programs: Path | None) -> None:
        """Run the story in `folder`, with the folder `programs` first in PATH."""
        steps = self._story.steps
        with Shell(folder, programs, in_repository=self._story.in_repository) as shell:
            for step, following in zip(steps, [*steps, None][1:], strict=True):
                if isinstance(step, File):
                    if step.mark != "no":
                        _write(shell.folder / step.name, step.text)
                elif step.mark in self._run:
                    self.commands += 1
                    if isinstance(step, Program):
                        self._run_program(step, shell)
                    else:
                        self._run_command(step, following, shell)
        if self._update:
            write_output(self._story.path, self._new_output)

    def _run_program(self, program: Program, shell: Shell) -> None:
        path = shell.folder / f".program_{program.line}.py"
        _write(path, program.text)
        ran = shell.run(f"python {shlex.quote(str(path))}", self._timeout)
        path.unlink()
        if ran.status:
            self._blame(program.line, f"the program ended with {ran.status}", ran.output)

    def _run_command(self, command: Command, following: object, shell: Shell) -> None:
        ran = shell.run(command.text, self._timeout)
        asked = isinstance(following, Command) and following.text.startswith("echo $?")
        if ran.status and not asked:
            self._blame(
                command.line, f"`{command.text}` ended with {ran.status}, and no `$ echo $?` follows", ran.output
            )
        if command.shown:
            self._compare(command, ran, shell)

    def _compare(self, command: Command, ran: Ran, shell: Shell) -> None:
        pairs = aligned(command.shown, lines_of(ran.output))
        differs = difference(pairs, self._story.name, command.shown_from)
        if differs is None:
            return
        if self._update:
            self._new_output.append((command, [_without_chance(line, shell.folder) for line in rewritten(pairs)]))
        else:
            self._blame(command.line, f"`{command.text}` prints something else", differs)

    def _blame(self, line: int, what: str, details: str) -> None:
        self.faults.append(f"{self._story.name}:{line}: {what}\n{details.rstrip()}")


def write_output(page: Path, new_output: list[tuple[Command, list[str]]]) -> None:
    """Replace what the page shows below these commands."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for command, shown in reversed(new_output):
        first = command.shown_from - 1
        lines[first : first + len(command.shown)] = [(command.indent + line).rstrip() for line in shown]
    if new_output:
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _without_chance(line: str, folder: Path) -> str:
    """Write `...` for what is another time and another folder in each run."""
    return re.sub(r"\b(in|after) \d+(\.\d+)? s\b", r"\1 ... s", line.replace(str(folder), "..."))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
