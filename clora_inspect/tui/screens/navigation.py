"""Going places in the main screen: to a module, a rank, a finding, the details, another pane.

The screens that this needs are imported when they are opened: the first frame need not wait.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.tui.panes.coordinates import class_of
from clora_inspect.tui.panes.findings import node_of
from clora_inspect.tui.panes.lines import Link, Target
from clora_inspect.tui.screens.base import WIDE, SessionScreen
from clora_inspect.tui.tree.rows import nodes_at

if TYPE_CHECKING:
    from textual.widgets import Input

    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.widgets.details import Details
    from clora_inspect.tui.widgets.text_pane import TextPane
    from clora_inspect.tui.widgets.tree_pane import TreePane

PANES = ("tree", "details-text", "findings")
"""Ids of the panes, in the order in which Tab goes through them."""


class Navigation(SessionScreen[None]):
    """The part of the main screen that goes places."""

    model: TreePane
    details: Details
    findings: TextPane
    filter_field: Input
    finding: int | None = None
    """Index of the chosen finding."""

    def refresh_all(self, *, path: str | None = None) -> None:
        """Show the scene, with the tree's cursor on `path`; None leaves it where it is."""
        raise NotImplementedError

    def clear_filter(self) -> None:
        raise NotImplementedError

    def go(self, link: Link) -> None:
        """Go to the module, rank, finding or file of a link."""
        match link.target:
            case Target.NODE:
                self.go_to_place(link.value)
            case Target.RANK:
                self.choose_rank(int(link.value))
            case Target.FINDING:
                self.choose_finding(int(link.value))
            case Target.FILE:
                self.edit(link.value)

    def come_back(self, link: Link | None) -> None:
        """Go where the link leads with which another screen ended."""
        if link is not None:
            self.go(link)

    # Modules

    def go_to_place(self, place: str) -> None:
        """Put the tree's cursor on a module. If the filter or the chosen rank hides it, they are
        undone.
        """
        scene = self.session.scene
        if scene is None:
            return
        found = nodes_at(scene.tree.nodes, place)
        if not found and (scene := self._all_ranks(scene)):
            found = nodes_at(scene.tree.nodes, place)
        if found:
            self._go_to_node(found[0])

    def _all_ranks(self, scene: Scene) -> Scene | None:
        """Look at the whole model, and return its scene; None if it was shown already."""
        if scene.rank is None:
            return None
        self.choose_rank(None)
        return self.session.scene

    def _go_to_node(self, node: int) -> None:
        scene = self.session.scene
        if scene is None:
            return
        row = scene.tree.reveal(node)
        if row is None:
            # The filter hides it. Who follows a link wants to see where it leads.
            self.clear_filter()
            row = scene.tree.reveal(node)
        if row is not None:
            self.model.go_to(row)
            self.details.show(scene, self.model.row)

    # Ranks

    def choose_rank(self, rank: int | None) -> None:
        """Look from a rank, or at the whole model for None. The cursor stays on its module."""
        scene, row = self.session.scene, self.model.row
        if scene is None or rank == scene.rank:
            return
        self.session.look_from(rank)
        self.refresh_all(path=row.path if row else None)
        if row is not None and self.model.row is None:
            self._find_again(row.key)

    def _find_again(self, key: str) -> None:
        """Put the cursor on the module of a row's key; if this rank does not have its layer, on the
        same module of the first layer that it has.
        """
        scene = self.session.scene
        if scene is None:
            return
        nodes = scene.tree.nodes
        # The first layer is among the first nodes, and a large tree has a hundred thousand.
        layers = [name for name in nodes.names[:2000] if name.isdigit()]
        for layer in ("", *layers[:1]):
            path = ".".join(layer if layer and piece.isdigit() else piece for piece in key.split("."))
            node = nodes.index.get(path)
            if node is not None:
                self._go_to_node(node)
                return

    def step_rank(self, way: int) -> None:
        """Look from the first rank of the next rank class, or of the one before it (`way` -1). All
        ranks come between the last class and the first.
        """
        scene = self.session.scene
        if scene is None:
            return
        ranks = [None, *(rank_class.first_rank for rank_class in scene.plan.rank_classes)]
        here = 0 if scene.rank is None else 1 + class_of(scene.plan, scene.rank)
        self.choose_rank(ranks[(here + way) % len(ranks)])

    def action_next_rank(self) -> None:
        self.step_rank(1)

    def action_previous_rank(self) -> None:
        self.step_rank(-1)

    def action_all_ranks(self) -> None:
        self.choose_rank(None)

    # Findings

    def choose_finding(self, number: int) -> None:
        """Choose the finding of that index, counted round, and go to its module."""
        scene = self.session.scene
        if scene is None or not scene.findings:
            return
        self.finding = number % len(scene.findings)
        self.findings.show(keep_place=True)
        # Every finding has two links in the pane: its head and its message.
        self.findings.choose(self.finding * 2)
        finding = scene.findings[self.finding]
        node = node_of(scene.tree.nodes, finding)
        if node is None and (scene := self._all_ranks(scene)):
            node = node_of(scene.tree.nodes, finding)
        if node is not None:
            self._go_to_node(node)

    def action_next_finding(self) -> None:
        self.choose_finding(0 if self.finding is None else self.finding + 1)

    def action_previous_finding(self) -> None:
        self.choose_finding(-1 if self.finding is None else self.finding - 1)

    def action_explain(self) -> None:
        """Explain the chosen finding, or one about the chosen module; without any, show why the
        module is as it is.
        """
        scene = self.session.scene
        if scene is None:
            return
        number = self.finding if self.finding is not None else self._finding_here(scene)
        if number is None:
            self.show_details("placement")
        else:
            from clora_inspect.tui.screens.text import FindingScreen

            self.app.push_screen(FindingScreen(self.session, scene.findings[number]), self.come_back)

    def _finding_here(self, scene: Scene) -> int | None:
        row = self.model.row
        if row is None:
            return None
        nodes = scene.tree.nodes
        return next((n for n, each in enumerate(scene.findings) if node_of(nodes, each) in row.members), None)

    # Details and panes

    def show_details(self, tab: str | None = None) -> None:
        """Show a tab of the details, on a screen of their own if the terminal is narrow. Without a
        tab, put the focus on the one that is shown.
        """
        if tab is not None:
            self.details.choose(tab)
        if self.session.scene is None:
            return
        if self.size.width < WIDE:
            from clora_inspect.tui.screens.details import DetailsScreen

            self.app.push_screen(DetailsScreen(self.session, self), self.come_back)
        elif tab is None:
            self.set_focus(self.details.pane)

    def action_tab(self, name: str) -> None:
        self.show_details(name)

    def action_next_pane(self) -> None:
        self._step_pane(1)

    def action_previous_pane(self) -> None:
        self._step_pane(-1)

    def _step_pane(self, way: int) -> None:
        # On a small terminal the style sheet hides panes: those have no area.
        panes = [pane for name in PANES if (pane := self.query_one(f"#{name}")).focusable and pane.region.area]
        names = [pane.id for pane in panes]
        # From elsewhere, such as the filter, Tab goes to the first pane.
        here = names.index(self.focused.id) if self.focused is not None and self.focused.id in names else -way
        if panes:
            self.set_focus(panes[(here + way) % len(panes)])

    def jump(self) -> None:
        """Show a letter on every pane and tab; pressing it goes there."""
        from clora_inspect.tui.screens.jump import JumpScreen, places

        panes = (self.model, self.details.pane, self.findings, self.filter_field)
        self.app.push_screen(JumpScreen(places(panes, self.details.tabs)), self._jump_to)

    def _jump_to(self, name: str | None) -> None:
        if name is None:
            return
        if name.startswith("tab-"):
            self.show_details(name.removeprefix("tab-"))
        else:
            self.set_focus(self.query_one(f"#{name}"))
