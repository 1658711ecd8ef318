"""The main screen: header, filter, model tree, details, findings, footer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.containers import Horizontal
from textual.geometry import Offset
from textual.screen import Screen
from textual.widgets import Input, Label

from clora.errors import TargetError
from clora.plan import Fate
from clora_inspect.formats.quantities import count, short_count
from clora_inspect.job.finding import Severity
from clora_inspect.tui.job.examine import verify_command
from clora_inspect.tui.job.outputs import outputs_of
from clora_inspect.tui.panes.coordinates import class_of, coordinates
from clora_inspect.tui.panes.findings import GLYPHS, TONES, finding_lines, node_of, place_of
from clora_inspect.tui.panes.lines import Line, Link, Span, Target, Tone, keep_end, keep_start
from clora_inspect.tui.panes.overview import layout_words
from clora_inspect.tui.panes.python_snippet import python_snippet
from clora_inspect.tui.panes.snapshot import drift_of, places_below, whole_job_drift
from clora_inspect.tui.screens.base import SecondScreen
from clora_inspect.tui.tree.build import model_nodes
from clora_inspect.tui.tree.rows import TreeFilter, TreeModel, nodes_at
from clora_inspect.tui.widgets.actions import BY_ID, Context, footer_of
from clora_inspect.tui.widgets.details import Details
from clora_inspect.tui.widgets.key_bindings import bindings
from clora_inspect.tui.widgets.one_line import Footer, Header, OneLine
from clora_inspect.tui.widgets.styles import TONE_CLASSES
from clora_inspect.tui.widgets.text_pane import TextPane
from clora_inspect.tui.widgets.tree_pane import TreePane

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from clora_inspect.tui.app import InspectorApp
    from clora_inspect.tui.job.outputs import OutputFile
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.nodes import ModelNodes

PANES = ("tree", "details-text", "findings")


class MainScreen(Screen[None]):
    """One job, seen from one rank or from all."""

    COMPONENT_CLASSES: ClassVar[set[str]] = TONE_CLASSES
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.MAIN)]

    def __init__(self) -> None:
        """Nothing is open yet."""
        super().__init__()
        self.model = TreePane(id="tree")
        self.details = Details(id="details")
        self.findings = TextPane(self._finding_lines, id="findings")
        self.header = Header(id="header")
        self.finding: int | None = None
        """Number of the chosen finding."""
        self._trees: dict[int | None, ModelNodes] = {}
        """Module trees that were made already: of a rank class, or of all."""

    @property
    def inspector(self) -> InspectorApp:
        """The app, by its own type."""
        from clora_inspect.tui.app import InspectorApp

        if not isinstance(self.app, InspectorApp):
            raise TypeError("the main screen belongs to InspectorApp")
        return self.app

    @property
    def scene(self) -> Scene | None:
        """What is shown."""
        return self.inspector.scene

    def compose(self) -> ComposeResult:
        """All panes."""
        yield self.header
        with Horizontal(id="filter-line"):
            yield Label(" / ", id="filter-mark", markup=False)
            yield Input(
                id="filter", compact=True, placeholder="filter: a part of a name, or a pattern", select_on_focus=False
            )
            yield Label("", id="filter-words", markup=False)
        with Horizontal(id="body"):
            yield self.model
            yield self.details
        yield self.findings
        yield Label("", id="busy", markup=False)
        yield Footer(footer_of(Context.MAIN, Context.ANYWHERE), id="footer")

    def on_mount(self) -> None:
        """Titles, and the focus on the tree."""
        self.model.border_title = "Model"
        self.details.border_title = "Details"
        self.findings.border_title = "Findings"
        self.query_one("#filter", Input).cursor_blink = False
        self.set_focus(self.model)
        self.refresh_all()

    # What is shown

    def open_nodes(self, nodes: ModelNodes) -> None:
        """Forget the last job's trees; `nodes` is the whole tree of the new one."""
        self._trees = {None: nodes}
        self.finding = None
        if self.is_there:
            self.query_one("#filter", Input).value = ""

    def refresh_all(self, *, path: str | None = None) -> None:
        """Everything anew, after the scene changed."""
        scene = self.scene
        self._refresh_header()
        if scene is None:
            return
        self.model.show(scene, path)
        self.details.show(scene, self.model.row)
        self.findings.show(keep_place=True)
        self._refresh_filter()
        screen = self.app.screen
        if isinstance(screen, SecondScreen):
            screen.scene_changed()

    def busy(self, words: str) -> None:
        """Say what is being done; nothing when `words` are empty."""
        for label in self.query("#busy").results(Label):
            label.update(f" … {words}" if words else "")
            label.display = bool(words)

    @property
    def is_there(self) -> bool:
        """Whether its panes are: before they are made, and while the interface ends, nothing can be
        shown.
        """
        return bool(self.query("#busy"))

    def _refresh_header(self) -> None:
        scene = self.scene
        if scene is None:
            self.header.show((self.inspector.opening.name if self.inspector.opening else "clora-inspect",), ())
            return
        layout = scene.plan.layout
        if scene.rank is None:
            where = f"all {count(layout.world)} ranks" if layout.world > 1 else "1 rank"
        else:
            place = coordinates(layout, scene.rank).described(layout)
            where = f"rank {scene.rank} of {count(layout.world)}" + (f" ({place})" if place else "")
        self.header.show((scene.name, layout_words(scene), where), self._counts(scene))

    def _counts(self, scene: Scene) -> tuple[Span, ...]:
        spans: list[Span] = []
        for severity in Severity:
            number = sum(finding.severity is severity for finding in scene.findings)
            if number or severity is Severity.ERROR:
                word = severity.value + ("s" if number != 1 and severity is not Severity.INFO else "")
                tone = TONES[severity] if number else Tone.GOOD
                spans.append(
                    Span(
                        f"{GLYPHS[severity] if number else '●'} {number} {word}  ",
                        tone,
                        Link(Target.ACTION, "next-finding"),
                    )
                )
        if scene.drift is not None and not scene.drift.is_clean:
            drifted = scene.drift.added + scene.drift.removed + scene.drift.changed
            spans.append(Span(f"↕ {count(drifted)} drifted", Tone.WARN, Link(Target.ACTION, "diff")))
        return tuple(spans)

    def _refresh_filter(self) -> None:
        scene = self.scene
        if scene is None:
            return
        tree = scene.tree
        totals = scene.plan.totals
        words = []
        if tree.only is not TreeFilter.ALL:
            words.append(f"only {tree.only}")
        if tree.is_filtered:
            words.append(f"{count(tree.hits)} module{'s' if tree.hits != 1 else ''}")
        else:
            share = 100 * totals.trainable_params / max(totals.base_params + totals.trainable_params, 1)
            words.append(
                f"{count(totals.placements)} adapters · {short_count(totals.trainable_params)} · {share:.2f} %"
            )
        self.query_one("#filter-words", Label).update(f"{' · '.join(words)} ")

    def _finding_lines(self, width: int) -> list[Line]:
        scene = self.scene
        return finding_lines(scene.findings, self.finding, width) if scene else []

    # Messages of the panes

    @on(TreePane.Moved)
    def tree_moved(self) -> None:
        """The details follow the cursor."""
        if self.scene is not None:
            self.details.show(self.scene, self.model.row)

    @on(TreePane.Entered)
    def tree_entered(self) -> None:
        """Go to the details."""
        self.show_details()

    @on(TextPane.Followed)
    def followed(self, event: TextPane.Followed) -> None:
        """A link of a pane."""
        event.stop()
        self.go(event.link)

    @on(OneLine.Clicked)
    async def clicked(self, event: OneLine.Clicked) -> None:
        """A tab, a key of the footer, or a count of the header."""
        event.stop()
        if event.link.target is Target.ACTION:
            await self.run_action(BY_ID[event.link.value].call)

    @on(Input.Changed, "#filter")
    def filter_typed(self, event: Input.Changed) -> None:
        """Narrow the tree as the user types."""
        self._filter(event.value)

    @on(Input.Submitted, "#filter")
    def filter_done(self) -> None:
        """Back to the tree."""
        self.set_focus(self.model)
        if self.scene is not None and self.scene.tree.rows() and self.model.row is None:
            self.action_first_hit()

    def action_first_hit(self) -> None:
        """Put the cursor on the first module that the filter hits."""
        scene = self.scene
        if scene is None:
            return
        fates = scene.tree.nodes.fates
        found = next((row for row in scene.tree.rows() if fates[row.node] is not Fate.NO_PARAMETERS), None)
        if found is not None:
            self.model.go_to(found)

    def _filter(self, text: str, only: TreeFilter | None = None) -> None:
        scene = self.scene
        if scene is None:
            return
        row = self.model.row
        try:
            scene.tree.filter(text, scene.tree.only if only is None else only)
        except TargetError as error:
            said = str(error).partition(": ")[2].partition(". ")[0]
            self.query_one("#filter-words", Label).update(f"{keep_start(said, 60)} ")
            return
        self.model.show(scene, row.path if row else None)
        self._refresh_filter()
        self.details.show(scene, self.model.row)

    # Going places

    def go(self, link: Link) -> None:
        """To a module, a rank, a finding, a file."""
        match link.target:
            case Target.NODE:
                self.go_to_place(link.value)
            case Target.RANK:
                self.choose_rank(int(link.value))
            case Target.FINDING:
                self.choose_finding(int(link.value))
            case Target.FILE:
                self.inspector.edit(link.value)
            case Target.ACTION:
                pass

    def go_to_place(self, place: str) -> None:
        """Put the tree's cursor on a module; where a filter or the chosen rank hides it they are
        undone.
        """
        scene = self.scene
        if scene is None:
            return
        found = nodes_at(scene.tree.nodes, place)
        if not found and scene.rank is not None:
            self.choose_rank(None)
            scene = self.inspector.scene or scene
            found = nodes_at(scene.tree.nodes, place)
        self._go_to_node(scene, found[0] if found else None)

    def _go_to_node(self, scene: Scene, node: int | None) -> None:
        if node is None:
            return
        row = scene.tree.reveal(node)
        if row is None:
            self._undo_filter(scene)
            row = scene.tree.reveal(node)
        if row is not None:
            self.model.go_to(row)
            self.details.show(scene, self.model.row)

    def _undo_filter(self, scene: Scene) -> None:
        scene.tree.filter("", TreeFilter.ALL)
        with self.prevent(Input.Changed):
            self.query_one("#filter", Input).value = ""
        self._refresh_filter()

    def choose_rank(self, rank: int | None) -> None:
        """Look from a rank, or at the whole model."""
        scene = self.scene
        if scene is None or rank == scene.rank:
            return
        number = None if rank is None else class_of(scene.plan, rank)
        before = None if scene.rank is None else class_of(scene.plan, scene.rank)
        row = self.model.row
        if number != before or number not in self._trees:
            nodes = self._trees.get(number)
            if nodes is None:
                nodes = self._trees[number] = model_nodes(scene.plan, None if number is None else [number])
            tree = TreeModel(nodes)
            tree.mark(*self.inspector.marks())
            tree.copy_state(scene.tree)
        else:
            tree = scene.tree
        self.inspector.scene = replace(scene, tree=tree, rank=rank)
        self.refresh_all(path=row.path if row else None)
        if row is not None and self.model.row is None:
            self._follow(row.key)

    def _follow(self, key: str) -> None:
        """Put the cursor on the module that was chosen before, or on the same in the first layer
        that is here.
        """
        scene = self.scene
        if scene is None:
            return
        nodes = scene.tree.nodes
        pieces = key.split(".")
        layers = [name for name in nodes.names[:2000] if name.isdigit()]
        for layer in ("", *layers[:1]):
            path = ".".join(layer if layer and piece.isdigit() else piece for piece in pieces)
            node = nodes.index.get(path)
            if node is not None:
                self._go_to_node(scene, node)
                return

    def choose_finding(self, number: int) -> None:
        """Choose a finding and go to its place."""
        scene = self.scene
        if scene is None or not scene.findings:
            return
        self.finding = number % len(scene.findings)
        self.findings.show(keep_place=True)
        self.findings.choose(self.finding * 2)
        finding = scene.findings[self.finding]
        node = node_of(scene.tree.nodes, finding)
        if node is None and scene.rank is not None:
            self.choose_rank(None)
            scene = self.inspector.scene or scene
            node = node_of(scene.tree.nodes, finding)
        self._go_to_node(scene, node)

    def show_details(self, tab: str | None = None) -> None:
        """Go to the details: beside the tree, or on a screen of their own where the terminal is
        narrow.
        """
        if tab is not None:
            self.details.choose(tab)
        if self.scene is None:
            return
        if self.size.width >= self.inspector.WIDE:
            if tab is None:
                self.set_focus(self.details.pane)
        else:
            from clora_inspect.tui.screens.text import DetailsScreen

            self.app.push_screen(DetailsScreen(self.model.row, self.details.tab), self._back_from)

    def choose_tab(self, tab: str) -> None:
        """Choose a tab of the details beside the tree."""
        self.details.choose(tab)

    def _back_from(self, link: Link | None) -> None:
        if link is not None:
            self.go(link)

    # Actions, in the order of `keys`

    def action_filter(self) -> None:
        """Go to the filter."""
        self.set_focus(self.query_one("#filter", Input))

    def action_clear(self) -> None:
        """Clear the filter, or stop what is being done."""
        if self.inspector.stop():
            return
        field = self.query_one("#filter", Input)
        if self.scene is not None and (field.value or self.scene.tree.is_filtered):
            with self.prevent(Input.Changed):
                field.value = ""
            self._filter("", TreeFilter.ALL)
        self.set_focus(self.model)

    def action_only(self) -> None:
        """All, only adapted, missed, drifted, findings, all."""
        scene = self.scene
        if scene is not None:
            order = [
                only
                for only in TreeFilter
                if (only is not TreeFilter.DRIFTED or scene.drift is not None)
                and (only is not TreeFilter.FINDINGS or scene.findings)
            ]
            here = order.index(scene.tree.only) if scene.tree.only in order else 0
            self._filter(scene.tree.text, order[(here + 1) % len(order)])

    def action_empty(self) -> None:
        """Show modules without parameters, or hide them."""
        scene = self.scene
        if scene is not None:
            row = self.model.row
            scene.tree.show_empty(on=not scene.tree.with_empty)
            self.model.show(scene, row.path if row else None)
            self.tree_moved()

    def action_next_finding(self) -> None:
        """Go to the next finding."""
        self.choose_finding(0 if self.finding is None else self.finding + 1)

    def action_previous_finding(self) -> None:
        """Go to the previous finding."""
        self.choose_finding(-1 if self.finding is None else self.finding - 1)

    def action_next_rank(self) -> None:
        """All, then the first rank of every class."""
        self._step_rank(1)

    def action_previous_rank(self) -> None:
        """The same backwards."""
        self._step_rank(-1)

    def _step_rank(self, way: int) -> None:
        scene = self.scene
        if scene is None:
            return
        ranks = [None, *(rank_class.first_rank for rank_class in scene.plan.rank_classes)]
        here = 0 if scene.rank is None else 1 + class_of(scene.plan, scene.rank)
        self.choose_rank(ranks[(here + way) % len(ranks)])

    def action_all_ranks(self) -> None:
        """Look at the whole model."""
        self.choose_rank(None)

    def action_what_if(self) -> None:
        """Open the form."""
        scene = self.scene
        request = self.inspector.opening.request(scene.plan) if scene and self.inspector.opening else None
        if scene is None or request is None:
            self.inspector.complain("There is no plan to change yet.")
        elif not request.model:
            self.inspector.complain("A snapshot does not say which model it is of: open the job to change it.")
        else:
            from clora_inspect.tui.screens.what_if import WhatIfScreen

            self.app.push_screen(WhatIfScreen(request, scene.plan), self._back_from)

    def action_diff(self) -> None:
        """Show what changed since the snapshot."""
        if self.scene is not None:
            from clora_inspect.tui.screens.text import DiffScreen

            self.app.push_screen(DiffScreen(), self._back_from)

    def action_verify(self) -> None:
        """Choose a proof, or all of them, and run it."""
        scene = self.scene
        opening = self.inspector.opening
        request = opening.request(scene.plan) if scene and opening else None
        if request is None or not request.model:
            self.inspector.complain("There is no job to verify.")
        else:
            from clora_inspect.tui.screens.choose import ChooseScreen
            from clora_inspect.tui.screens.verify import proof_choices

            command = verify_command(request)
            self.app.push_screen(
                ChooseScreen("Prove", proof_choices(), typed=False), lambda name: self._prove(command, name)
            )

    def _prove(self, command: list[str], name: str | None) -> None:
        from clora_inspect.tui.screens.verify import ALL, VerifyScreen

        if name is not None:
            self.app.push_screen(VerifyScreen(command, None if name == ALL else name), self._back_from)

    def action_layout(self) -> None:
        """Choose another layout of the job."""
        opening = self.inspector.opening
        if opening is None or len(opening.siblings) < 2:
            self.inspector.complain("This job has no other layout. Press w to try one.")
            return
        from clora_inspect.tui.screens.choose import ChooseScreen

        options = [(job.layout_name, job.layout_name, job.job.layout.label) for job in opening.siblings]
        self.app.push_screen(ChooseScreen("Layout", options, typed=False), self._layout_chosen)

    def _layout_chosen(self, name: str | None) -> None:
        opening = self.inspector.opening
        if opening is not None and name is not None:
            chosen = next(job for job in opening.siblings if job.layout_name == name)
            self.inspector.open(opening.on_layout(chosen))

    def action_open_job(self) -> None:
        """Choose another job."""
        self.inspector.choose_job()

    def action_explain(self) -> None:
        """Explain the chosen finding, or the module."""
        scene = self.scene
        if scene is None:
            return
        number = self.finding
        if number is None:
            row = self.model.row
            about = (
                n
                for n, each in enumerate(scene.findings)
                if row is not None and node_of(scene.tree.nodes, each) in row.members
            )
            number = next(about, None)
        if number is None:
            self.show_details("placement")
        else:
            from clora_inspect.tui.screens.text import FindingScreen

            self.app.push_screen(FindingScreen(scene.findings[number]), self._back_from)

    def action_accept(self) -> None:
        """Accept what changed at the chosen module, after asking; without a snapshot, or on the
        model itself, accept all.
        """
        scene, row = self.scene, self.model.row
        if scene is None:
            return
        if scene.drift is None or row is None:
            self.action_accept_all()
            return
        found = drift_of(scene, row)
        whole = whole_job_drift(scene.drift)
        if not found:
            self.inspector.complain(f"Nothing changed at {row.path} since the snapshot.")
        elif whole:
            self.inspector.complain(f"{whole} That is the whole job's: press A to accept all.")
        else:
            from clora_inspect.tui.screens.choose import ChooseScreen

            changes = ", ".join(f"{count(each.count)} {each.change}" for each in found)
            options = [
                ("no", "No", "leave the snapshot as it is"),
                ("yes", "Yes", f"accept {changes}; elsewhere the snapshot stays as it is"),
            ]
            places = places_below(scene, row)
            self.app.push_screen(
                ChooseScreen(f"Accept at {keep_end(row.path, 60)}?", options, typed=False),
                lambda answer: self.inspector.accept(places) if answer == "yes" else None,
            )

    def action_accept_all(self) -> None:
        """Accept the plan as the snapshot, after asking."""
        scene = self.scene
        if scene is None:
            return
        from clora_inspect.tui.screens.choose import ChooseScreen

        changes = "the first snapshot" if scene.drift is None else "no change" if scene.drift.is_clean else "the drift"
        options = [
            ("no", "No", "leave the snapshot as it is"),
            ("yes", "Yes", f"accept {changes} of {scene.name} {scene.layout_name}".strip()),
        ]
        self.app.push_screen(ChooseScreen("Accept as snapshot?", options, typed=False), self._accept_answered)

    def _accept_answered(self, answer: str | None) -> None:
        if answer == "yes":
            self.inspector.accept()

    def action_edit(self) -> None:
        """Open the line of the configuration."""
        scene = self.scene
        if scene is None:
            return
        finding = scene.findings[self.finding] if self.finding is not None else None
        place = place_of(finding.location) if finding else ""
        if not place:
            location = scene.location_of("lora.target_modules")
            place = f"{location.file}:{location.line or 1}" if location else ""
        if place:
            self.inspector.edit(place)
        else:
            self.inspector.complain("Nothing of this is written in a configuration file.")

    def outputs(self, scene: Scene) -> list[OutputFile]:
        """What `x` can write here."""
        return outputs_of(scene, "findings" if self.focused is self.findings else self.details.tab)

    def copied_text(self) -> str:
        """The text of the pane that has the focus."""
        focused = self.focused
        return focused.text if isinstance(focused, TreePane | TextPane) else self.details.pane.text

    def action_copy(self) -> None:
        """Copy the text of the pane that has the focus."""
        self.inspector.copy(self.copied_text())

    def action_copy_python(self) -> None:
        """Copy the job's LoRA as Python."""
        if self.scene is not None:
            self.inspector.copy(python_snippet(self.scene.plan.lora.fields()))

    def action_copy_path(self) -> None:
        """Copy the path of the chosen module."""
        row = self.model.row
        self.inspector.copy(row.path if row else (self.scene.name if self.scene else ""))

    def action_tab(self, name: str) -> None:
        """Show a tab of the details."""
        self.show_details(name)

    def action_next_pane(self) -> None:
        """Go to the next pane."""
        self._step_pane(1)

    def action_previous_pane(self) -> None:
        """Go to the previous pane."""
        self._step_pane(-1)

    def _step_pane(self, way: int) -> None:
        panes = [pane for name in PANES if (pane := self.query_one(f"#{name}")).focusable and pane.region.area]
        names = [pane.id for pane in panes]
        here = names.index(self.focused.id) if self.focused is not None and self.focused.id in names else -way
        if panes:
            self.set_focus(panes[(here + way) % len(panes)])

    def jump_places(self) -> list[tuple[str, Any]]:
        """What jump mode can go to: name and position."""
        panes = [
            (str(widget.id), widget.region.offset)
            for widget in (self.model, self.details.pane, self.findings)
            if widget.region.area
        ]
        places = [*panes, ("filter", self.query_one("#filter").region.offset)]
        if self.details.tabs.region.area:
            corner = self.details.tabs.region.offset
            places += [(f"tab-{name}", corner + Offset(cell)) for name, cell in self.details.tabs.first_cells().items()]
        return places

    def jump(self) -> None:
        """Show the letters."""
        from clora_inspect.tui.screens.jump import JumpScreen

        self.app.push_screen(JumpScreen(self.jump_places()), self._jumped)

    def _jumped(self, name: str | None) -> None:
        if name is None:
            return
        if name.startswith("tab-"):
            self.show_details(name.removeprefix("tab-"))
        else:
            self.set_focus(self.query_one(f"#{name}"))
