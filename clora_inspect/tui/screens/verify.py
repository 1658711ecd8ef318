"""Verify, live: each proof of the surgery as soon as it is known."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

import msgspec
from textual import work

from clora_inspect.tui.job.command_lines import verify_words
from clora_inspect.tui.job.outputs import PROOFS, TEXT
from clora_inspect.tui.panes.lines import BLANK, Line, Tone, wrapped
from clora_inspect.tui.panes.proofs import caveat_lines, proof_lines, proof_totals
from clora_inspect.tui.screens.base import OverlayScreen
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.widgets.actions import BY_ID, Context
from clora_inspect.tui.widgets.key_bindings import bindings, keys_of
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.verify import proof_table
from clora_inspect.verify.report import ProofResult, ReportEnd
from clora_inspect.verify.request import MOST_PROCS
from clora_inspect.verify.small.fitting import larger_runs

if TYPE_CHECKING:
    from textual.binding import BindingType

    from clora_inspect.job.layout import Layout
    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.job.plan_request import PlanRequest
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.session import Session

ALL = "all"
"""Chosen in place of a proof's name."""

LAST_LINES = 20
"""Lines of an error that are shown: a traceback says what is wrong at its end."""


class VerifyScreen(OverlayScreen):
    """Runs proofs in a child process, which ends with the screen."""

    HEADING = "Verify"
    CONTEXTS = (Context.OVERLAY, Context.VERIFY)
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.VERIFY)]

    def __init__(self, session: Session, job: PlanRequest, proof: str = ALL) -> None:
        """Run one proof of `job`, by its name, or `ALL`."""
        super().__init__(session)
        self.job = job
        self.proof = proof
        self.proofs: list[ProofResult] = []
        self.procs = 1
        """Number of local processes that the layout is run on."""
        self.end: ReportEnd | None = None
        """Notes of the run about itself, which come when all proofs are known."""
        self.state = "running"
        self.error = ""
        """The error of a command that did not get to its end; empty if there is none."""

    def on_mount(self) -> None:
        self.run_proofs()

    @work(exclusive=True, exit_on_error=False)
    async def run_proofs(self) -> None:
        """Show each proof when it is known, until the command ends."""
        self.proofs, self.end, self.state, self.error = [], None, "running", ""
        self._refresh()
        # Leaving the screen cancels this worker, and so ends the command.
        async with self.session.processes.run(self._words()) as command:
            async for each in command.lines():
                self._add(each)
        self.error = command.message
        # A rank may be lost after the first proofs: only the last line says that all were run.
        self.state = "done" if self.end else f"ended with exit status {command.status}"
        self._refresh()

    def _words(self) -> list[str]:
        # A configured job names the implementation that it trains with.
        opening = self.session.opening
        implementation = opening.job.implementation if opening and opening.job else "clora"
        return verify_words(self.job, implementation, None if self.proof == ALL else self.proof, self.procs)

    def _add(self, each: bytes) -> None:
        try:
            self.proofs.append(msgspec.json.decode(each, type=ProofResult))
        except msgspec.DecodeError:
            # The last line is the report as a whole. A library may have printed other lines.
            with suppress(msgspec.DecodeError):
                self.end = msgspec.json.decode(each, type=ReportEnd)
        self._refresh()

    def _refresh(self) -> None:
        if self.is_mounted:
            # A user may read in the middle while proofs are added at the end.
            self.query_one("#text", TextPane).show(keep_place=True)

    def lines(self, width: int) -> list[Line]:
        """Return how far it is, the proofs, and what they do not show."""
        lines = [*self._summary(width), BLANK, *proof_lines(self.proofs, width)]
        if self.end:
            lines += [BLANK, *caveat_lines(self.end, width), *self._more_ranks(self.end, width)]
        elif self.error:
            for row in self.error.splitlines()[-LAST_LINES:]:
                lines += wrapped(row, width, Tone.BAD)
        return lines

    def _summary(self, width: int) -> list[Line]:
        if self.state == "running":
            words = f"{len(self.proofs)} known" if self.proofs else "building a shrunken model"
            only = "" if self.proof == ALL else f" {self.proof} alone"
            ranks = "" if self.procs == 1 else f" on {self.procs} ranks"
            return wrapped(f"running{only}{ranks}: {words}; esc stops it", width, Tone.WARN)
        if self.state != "done":
            which = "The other proofs" if self.proofs else "The proofs"
            return wrapped(f"{which} could not be run: {self.state}.", width, Tone.BAD)
        return proof_totals(self.proofs, width)

    def _more_ranks(self, end: ReportEnd, width: int) -> list[Line]:
        """Return how to see more of the layout; nothing if more ranks would show no more."""
        more = [(ranks, layout) for ranks, layout in self._runs() if ranks > end.ranks]
        if not more:
            return []
        ranks, layout = more[-1]
        key = keys_of(self.app, BY_ID["verify-ranks"])
        words = f"Press {key} to run more ranks: {ranks} show {layout.label}."
        return [BLANK, *wrapped(words, width)]

    def _runs(self) -> list[tuple[int, Layout]]:
        scene = self.session.scene
        return larger_runs(scene.plan.layout, MOST_PROCS) if scene else []

    def outputs(self, scene: Scene) -> list[OutputFile]:  # noqa: ARG002  # proofs are no part of a scene
        """Return what `x` can write: the proofs as data, or the text."""
        return [PROOFS, TEXT] if self.proofs else [TEXT]

    def action_verify_again(self) -> None:
        self.run_proofs()

    def action_verify_one(self) -> None:
        """Ask for a proof and run it alone."""
        self.app.push_screen(ChooseScreen("Prove", proof_choices(), typed=False), self._chosen)

    def _chosen(self, name: str | None) -> None:
        if name is not None:
            self.proof = name
            self.run_proofs()

    def action_verify_ranks(self) -> None:
        """Ask for a number of local processes and run the proofs on them."""
        runs = self._runs()
        if not runs:
            self.complain("One rank shows all of this layout that a CPU can show.")
            return
        choices = [("1", "1 rank", "without a layout"), *((str(n), f"{n} ranks", each.label) for n, each in runs)]
        self.app.push_screen(ChooseScreen("Ranks", choices, typed=False), self._chosen_ranks)

    def _chosen_ranks(self, ranks: str | None) -> None:
        if ranks is not None:
            self.procs = int(ranks)
            self.run_proofs()


def proof_choices() -> list[tuple[str, str, str]]:
    """Return the choices for `ChooseScreen`: all proofs, or one of them and what it proves."""
    return [
        (ALL, "all proofs", f"{len(proof_table.PROOFS)} of them"),
        *((proof.name, proof.name, proof.proves) for proof in proof_table.PROOFS),
    ]
