"""Act on the job of the main screen: change, compare, prove and accept it, or open another one.

The screens that this needs are imported when they are opened: the first frame need not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.tui.job.opening import choices
from clora_inspect.tui.panes.findings import place_of
from clora_inspect.tui.panes.lines import keep_end
from clora_inspect.tui.panes.snapshot import drift_of, places_below, whole_job_drift
from clora_inspect.tui.screens.navigation import Navigation
from clora_inspect.tui.session import NOTHING_OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class JobActions(Navigation):
    """The part of the main screen that does something with the job."""

    def say_busy(self, words: str) -> None:
        """Show what is being done; with no words, that it has ended."""
        raise NotImplementedError

    def _ask(self, title: str, options: Sequence[tuple[str, str, str]], then: Callable[[str], None]) -> None:
        """Let the user choose one of `options`, and call `then` with its id. Who goes back instead
        has chosen nothing.
        """
        from clora_inspect.tui.screens.choose import ChooseScreen

        question = ChooseScreen(title, options, typed=False)
        self.app.push_screen(question, lambda answer: then(answer) if answer is not None else None)

    # Change, compare, prove, edit

    def action_what_if(self) -> None:
        """Open the form, filled with the job."""
        scene, request = self.session.scene, self.session.request
        if scene is None:
            self.complain("There is no plan to change yet.")
        elif request is None:
            self.complain("A snapshot does not say which model it is of: open the job to change it.")
        else:
            from clora_inspect.tui.screens.what_if import WhatIfScreen

            self.app.push_screen(WhatIfScreen(self.session, request, scene.plan), self.come_back)

    def action_memory(self) -> None:
        """Count the peak memory of each rank, and go where it is shown."""
        self.session.count_memory()
        self.show_details("ranks")

    def action_diff(self) -> None:
        if self.session.scene is not None:
            from clora_inspect.tui.screens.text import DiffScreen

            self.app.push_screen(DiffScreen(self.session), self.come_back)

    def action_verify(self) -> None:
        """Ask for a proof, or all of them, and run it."""
        if self.session.request is None:
            self.complain("There is no job to verify.")
        else:
            from clora_inspect.tui.screens.verify import proof_choices

            self._ask("Prove", proof_choices(), self._prove)

    def _prove(self, name: str) -> None:
        from clora_inspect.tui.screens.verify import VerifyScreen

        request = self.session.request
        if request is not None:
            self.app.push_screen(VerifyScreen(self.session, request, name), self.come_back)

    def action_edit(self) -> None:
        """Open the configuration at the chosen finding, or where the job's targets are written."""
        scene = self.session.scene
        if scene is None:
            return
        place = place_of(scene.findings[self.finding].location) if self.finding is not None else ""
        place = place or place_of(scene.location_of("lora.target_modules"))
        if place:
            self.edit(place)
        else:
            self.complain("Nothing of this is written in a configuration file.")

    # Accept as the snapshot

    def action_accept(self) -> None:
        """Accept what changed at the chosen module, after asking. Without a snapshot, or with the
        model itself chosen, that is everything.
        """
        scene, row = self.session.scene, self.model.row
        if scene is None:
            return
        if scene.drift is None or row is None:
            self.action_accept_all()
            return
        changes = drift_of(scene, row)
        of_whole_job = whole_job_drift(scene.drift)
        if not changes:
            self.complain(f"Nothing changed at {row.path} since the snapshot.")
        elif of_whole_job:
            self.complain(f"{of_whole_job} That is the whole job's: press A to accept all.")
        else:
            number = ", ".join(f"{count(each.count)} {each.change}" for each in changes)
            places = places_below(scene, row)
            self._ask_to_accept(
                f"Accept at {keep_end(row.path, 60)}?",
                f"accept {number}; elsewhere the snapshot stays as it is",
                lambda: self.session.accept(places),
            )

    def action_accept_all(self) -> None:
        """Accept the plan as the snapshot, after asking."""
        scene = self.session.scene
        if scene is None:
            return
        changes = "the first snapshot" if scene.drift is None else "no change" if scene.drift.is_clean else "the drift"
        self._ask_to_accept(
            "Accept as snapshot?",
            f"accept {changes} of {scene.name} {scene.layout_name}".strip(),
            self.session.accept,
        )

    def _ask_to_accept(self, question: str, yes: str, accept: Callable[[], None]) -> None:
        # "No" is the first option, so that Enter alone writes nothing.
        options = [("no", "No", "leave the snapshot as it is"), ("yes", "Yes", yes)]
        self._ask(question, options, lambda answer: accept() if answer == "yes" else None)

    # Open another one

    def action_layout(self) -> None:
        """Ask for another layout of the job."""
        opening = self.session.opening
        if opening is None or len(opening.siblings) < 2:
            self.complain("This job has no other layout. Press w to try one.")
            return
        jobs = {job.layout_name: job for job in opening.siblings}
        options = [(name, name, job.axes) for name, job in jobs.items()]
        self._ask("Layout", options, lambda name: self.session.open(opening.on_layout(jobs[name])))

    def action_open_job(self) -> None:
        self.ask_for_job()

    def ask_for_job(self) -> None:
        """Ask for another job, architecture or saved plan, and open it."""
        from clora_inspect.tui.screens.choose import ChooseScreen

        options = [(choice.name, choice.name, choice.words) for choice in choices(self.session.configuration)]
        question = ChooseScreen("Open a job, an architecture or a saved plan", options, free=True)
        self.app.push_screen(question, self._open_answered)

    def _open_answered(self, name: str | None) -> None:
        if name is not None:
            self.session.open_named(name)
        elif self.session.scene is None:
            self.say_busy(NOTHING_OPEN)
