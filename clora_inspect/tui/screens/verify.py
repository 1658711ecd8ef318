"""Verify, live: the proofs of the surgery as they become known, each a row."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, ClassVar

import msgspec
from textual import work

from clora_inspect.formats.quantities import count
from clora_inspect.tui.job.outputs import PROOFS, TEXT
from clora_inspect.tui.panes.lines import BLANK, Line, Link, Span, Target, Tone, keep_end, line, wrapped
from clora_inspect.tui.screens.base import SecondScreen
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.widgets.actions import Context
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.verify import proof_table
from clora_inspect.verify.report import ProofResult, ProofStatus

if TYPE_CHECKING:
    from textual.binding import BindingType

    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene

MARKS = {
    ProofStatus.PASSED: ("✔", Tone.GOOD),
    ProofStatus.FAILED: ("✖", Tone.BAD),
    ProofStatus.SKIPPED: ("○", Tone.DIM),
}
LONGEST_LINE = 1 << 20
ALL = "all"


class VerifyScreen(SecondScreen):
    """Runs the proofs in a process of their own, which ends with the screen."""

    HEADING = "Verify"
    CONTEXTS = (Context.SECOND, Context.VERIFY)
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.VERIFY)]

    def __init__(self, command: list[str], proof: str | None = None) -> None:
        """Run `command`, whose stdout has one proof a line: all proofs, or `proof` alone."""
        super().__init__()
        self._command = command
        self.proof = proof
        self.proofs: list[ProofResult] = []
        self.state = "running"
        self.said = ""

    def on_mount(self) -> None:
        """Begin."""
        self.run_proofs()

    @work(exclusive=True, exit_on_error=False)
    async def run_proofs(self) -> None:
        """Read proofs until the process ends."""
        self.proofs, self.state, self.said = [], "running", ""
        self._refresh()
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *(("--proof", self.proof) if self.proof else ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LONGEST_LINE,
        )
        try:
            said = asyncio.create_task(process.stderr.read()) if process.stderr else None
            while process.stdout is not None and (each := await process.stdout.readline()):
                self._add(each)
            self.said = (await said).decode(errors="replace").strip() if said else ""
            code = await process.wait()
            self.state = "done" if self.proofs else f"ended with exit status {code}"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        self._refresh()

    def _add(self, each: bytes) -> None:
        try:
            self.proofs.append(msgspec.json.decode(each, type=ProofResult))
        except msgspec.DecodeError:
            # A line that is no proof, such as the closing one of a report.
            return
        self._refresh()

    def _refresh(self) -> None:
        if self.is_mounted:
            self.query_one("#text", TextPane).show(keep_place=True)

    def lines(self, width: int) -> list[Line]:
        """The table of proofs."""
        lines = [*self._summary(width), BLANK]
        longest = max((len(proof.proof) for proof in self.proofs), default=0)
        for proof in self.proofs:
            glyph, tone = MARKS[proof.status]
            compared = f"{count(proof.tensors)} tensors" if proof.tensors else ""
            lines.append(
                line(
                    Span(f"{glyph} {proof.status:<8}", tone),
                    Span(proof.proof.ljust(longest), Tone.TITLE),
                    f"  {_closeness(proof):<22}",
                    Span(compared, Tone.DIM),
                )
            )
            lines += wrapped(
                proof.detail, width, Tone.BAD if proof.status is ProofStatus.FAILED else Tone.DIM, lead=" " * 11
            )
            if proof.where:
                lines.append(
                    line(" " * 11, Span(keep_end(proof.where, width - 11), Tone.LINK, Link(Target.NODE, proof.where)))
                )
        if self.said and not self.proofs:
            for row in self.said.splitlines()[-20:]:
                lines += wrapped(row, width, Tone.BAD)
        return lines

    def _summary(self, width: int) -> list[Line]:
        if self.state == "running":
            words = f"{len(self.proofs)} known" if self.proofs else "building a shrunken model"
            only = f" {self.proof} alone" if self.proof else ""
            return wrapped(f"running{only}: {words}; esc stops it", width, Tone.WARN)
        if self.state != "done":
            return wrapped(f"The proofs could not be run: {self.state}.", width, Tone.BAD)
        statuses = [proof.status for proof in self.proofs]
        failed = statuses.count(ProofStatus.FAILED)
        passed, skipped = statuses.count(ProofStatus.PASSED), statuses.count(ProofStatus.SKIPPED)
        words = f"{passed} passed, {failed} failed, {skipped} skipped"
        return wrapped(words, width, Tone.BAD if failed else Tone.GOOD)

    def outputs(self, _scene: Scene) -> list[OutputFile]:
        """The proofs as data, or as text."""
        return [PROOFS, TEXT] if self.proofs else [TEXT]

    def action_verify_again(self) -> None:
        """Run the proofs again."""
        self.run_proofs()

    def action_verify_one(self) -> None:
        """Choose a proof and run it alone."""
        self.app.push_screen(ChooseScreen("Prove", proof_choices(), typed=False), self._chosen)

    def _chosen(self, name: str | None) -> None:
        if name is not None:
            self.proof = None if name == ALL else name
            self.run_proofs()


def proof_choices() -> list[tuple[str, str, str]]:
    """Return the choices for `ChooseScreen`: all proofs, or one of them and what it proves."""
    return [
        (ALL, "all proofs", f"{len(proof_table.PROOFS)} of them"),
        *((proof.name, proof.name, proof.proves) for proof in proof_table.PROOFS),
    ]


def _closeness(proof: ProofResult) -> str:
    if proof.largest_error is None:
        return ""
    if proof.largest_error == 0:
        return "bit-identical"
    return f"largest error {proof.largest_error:.1e}"
