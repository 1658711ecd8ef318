"""`InspectorApp`: the interface. It owns the session and the main screen, and has the actions that
are at hand on every screen.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App
from textual.filter import Monochrome
from textual.worker import Worker, WorkerState

from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.tui.job.child import ChildProcesses
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.screens.base import WIDE, SessionScreen
from clora_inspect.tui.screens.main import MainScreen
from clora_inspect.tui.session import Session
from clora_inspect.tui.widgets.actions import BY_ID, Context, keymap_problems
from clora_inspect.tui.widgets.filters import AsciiOnly, Colourless
from clora_inspect.tui.widgets.key_bindings import bindings, keys_of
from clora_inspect.tui.widgets.notices import complain, tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from textual.app import SystemCommand
    from textual.binding import BindingType
    from textual.command import Provider
    from textual.filter import LineFilter
    from textual.screen import Screen

    from clora_inspect.config.load import Configuration
    from clora_inspect.tui.job.opening import Opening
    from clora_inspect.tui.panes.scene import Scene


def _action_provider() -> type[Provider]:
    """Return the palette's actions. Textual takes a function, so that they are imported when the
    palette is opened.
    """
    from clora_inspect.tui.screens.palette import ActionProvider

    return ActionProvider


class InspectorApp(App[None]):
    TITLE = "clora-inspect"
    CSS_PATH = "app.tcss"
    # Textual gives the screens these classes from so many columns or rows on; app.tcss lays out by
    # them.
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (80, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012  # Textual annotates it as an instance variable
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (16, "-low"), (30, "-high")]  # noqa: RUF012
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {_action_provider}
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(Context.ANYWHERE)]
    ENABLE_COMMAND_PALETTE = True
    # Text is copied with y, or selected by the terminal. Textual's own selection keeps panes of
    # screens that have ended, and crashes on them.
    ALLOW_SELECT = False

    def __init__(
        self,
        opening: Opening | None,
        *,
        configuration: Configuration | None = None,
        keymap: Mapping[str, str] | None = None,
        processes: ChildProcesses | None = None,
        ascii_only: bool = False,
        no_color: bool = False,
        counts_memory: bool = False,
    ) -> None:
        """Open `opening`; None asks the user what to open.

        Args:
            opening: a job or a saved file.
            configuration: the user's.
            keymap: the user's own keys, by action.
            processes: what runs the command lines that plan and prove.
            ascii_only: show no character beyond ASCII.
            no_color: show no colour, as `NO_COLOR` in the environment asks for.
            counts_memory: count the peak memory of each rank of what is opened.
        """
        super().__init__()
        self.no_color = self.no_color or no_color
        self._line_filters: list[LineFilter] = []
        if self.no_color:
            # The style sheet shows by other means then where the cursor and the focus are.
            self.add_class("-no-color")
            self._line_filters.append(Colourless())
        if ascii_only:
            self._line_filters.append(AsciiOnly())
        self._keymap_problems = keymap_problems(keymap or {})
        self.keymap = {name: keys for name, keys in (keymap or {}).items() if not keymap_problems([name])}
        self.session = Session(opening, configuration, processes or ChildProcesses(), counts_memory=counts_memory)
        self.main = MainScreen(self.session)
        self.session.show_on(self.main)

    @property
    def scene(self) -> Scene | None:
        """The scene that is shown; None until something has been opened."""
        return self.session.scene

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return Textual's filters, then ours."""
        filters = super().get_line_filters()
        if self.no_color:
            # Textual's own filter for NO_COLOR leaves greys.
            filters = [each for each in filters if not isinstance(each, Monochrome)]
        return [*filters, *self._line_filters]

    def action_command_palette(self) -> None:
        """Open the palette, as Textual does; ours holds in the smallest terminals."""
        from clora_inspect.tui.screens.palette import ActionPalette

        if self.use_command_palette and not isinstance(self.screen, ActionPalette):
            self.push_screen(ActionPalette(id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return Textual's own commands for the palette, without those that our table has, too."""
        ours = {"Keys", "Quit", "Screenshot"}
        # Ours takes the next theme, Textual's lists them: two commands need two names.
        renamed = {"Theme": "Choose a theme"}
        return [
            command._replace(title=renamed.get(command.title, command.title))
            for command in super().get_system_commands(screen)
            if command.title not in ours
        ]

    def on_mount(self) -> None:
        """Show the first screen, a small plan on it; what takes longer follows after a frame."""
        self.set_keymap(self.keymap)
        self.session.read_before_first_frame()
        self.push_screen(self.main)
        for problem in self._keymap_problems:
            complain(self, problem)
        self.call_after_refresh(self.session.begin)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """Tell the user that a worker has failed. The interface goes on."""
        # Textual sends this to the owner of the worker only: here, to what opens and writes files.
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.session.tell_failure(event.worker.error)

    def action_help(self) -> None:
        from clora_inspect.tui.screens.text import HelpScreen

        # The key works on the help, too, and would put another one over it.
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.session))

    def action_jump(self) -> None:
        # The letters stand on the panes of the main screen; other screens have one pane.
        if self.screen is self.main:
            self.main.jump()

    def action_screenshot(self, filename: str | None = None, path: str | None = None) -> None:
        """Save the screen as an SVG file, by default in the working directory, under a name that no
        file has.

        Textual has an action of this name, so its parameters are given.
        """
        folder = Path(path or ".")
        target = folder / filename if filename else free_path(folder, "clora-inspect", ".svg")
        try:
            write_atomically(target, self.export_screenshot().encode())
        except OSError as error:
            complain(self, f"{target} cannot be written: {error.strerror or error}")
        else:
            tell(self, f"Saved {target}.")

    def action_export(self) -> None:
        """Ask what of the screen to write, and where."""
        from clora_inspect.tui.screens.export import Exporter

        if self.scene is None:
            complain(self, "Nothing is open yet that could be written.")
        elif isinstance(self.screen, SessionScreen):
            Exporter(self, self.scene, self.screen).begin()

    def action_next_theme(self) -> None:
        names = sorted(self.available_themes)
        self.theme = names[(names.index(self.theme) + 1) % len(names)]
        tell(self, f"Theme: {self.theme}")

    def action_help_quit(self) -> None:
        """Tell the keys that leave: ctrl+c does not, and is what many people press.

        Textual's own message names the last of the keys, and the footer the first.
        """
        tell(self, f"To leave press {keys_of(self, BY_ID['quit'])}.")

    async def action_quit(self) -> None:
        """Leave, and end the child processes."""
        # While the event loop runs: it cannot wait for a process afterwards.
        await self.session.processes.close()
        self.exit()

    async def on_unmount(self) -> None:
        """End the child processes, however the interface ends."""
        await self.session.processes.close()
