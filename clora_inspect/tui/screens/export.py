"""Export from a screen: ask what, then where, and before a file is replaced, whether."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import CloraError
from clora_inspect.formats.verify.json import proof_line
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.job.outputs import PROOFS, TEXT, OutputFile, bytes_of
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.screens.path import PathScreen
from clora_inspect.tui.widgets.notices import complain, tell

if TYPE_CHECKING:
    from typing import Any

    from textual.app import App

    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.screens.base import SessionScreen


class Exporter:
    """One export, from the key to the file. It keeps what the screen showed when the key was
    pressed.
    """

    def __init__(self, app: App[Any], scene: Scene, screen: SessionScreen[Any]) -> None:
        self._app = app
        # All of it now: while the questions are answered another job may be opened.
        self._scene = scene
        self._outputs = {output.id: output for output in screen.outputs(scene)}
        self._text = screen.copied_text()
        self._proofs = tuple(screen.proofs)

    def begin(self) -> None:
        """Ask what to write; if there is only one thing, ask where."""
        if len(self._outputs) == 1:
            self._ask_where(next(iter(self._outputs)))
            return
        options = [(output.id, output.name, output.words) for output in self._outputs.values()]
        self._app.push_screen(ChooseScreen("Export", options, typed=False), self._ask_where)

    def _ask_where(self, chosen: str | None) -> None:
        if chosen is not None:
            output = self._outputs[chosen]
            question = PathScreen(f"Write the {output.name} to", self._proposal(output))
            self._app.push_screen(question, lambda path: self._ask_whether(output, path))

    def _proposal(self, output: OutputFile) -> str:
        """Return a path that does not exist: `llama3-8b-train-plan.json`, or one with a number."""
        words = f"{self._scene.name} {self._scene.layout_name}"
        # Jobs may be named with slashes and blanks.
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.") or "export"
        return str(free_path(Path(), stem, output.suffix))

    def _ask_whether(self, output: OutputFile, chosen: str | None) -> None:
        if chosen is None:
            return
        path = Path(chosen).expanduser()
        if not path.exists():
            self._write(output, path)
            return
        # "No" is the first option, so that Enter alone writes nothing.
        options = [("no", "No", "leave it as it is"), ("yes", "Yes", f"write the {output.name} over it")]
        self._app.push_screen(
            ChooseScreen(f"{path} exists. Write over it?", options, typed=False),
            lambda answer: self._write(output, path) if answer == "yes" else None,
        )

    def _write(self, output: OutputFile, path: Path) -> None:
        self._app.run_worker(self._write_in_thread(output, path), group="export", exit_on_error=False)

    async def _write_in_thread(self, output: OutputFile, path: Path) -> None:
        try:
            # A graph imports networkx, and a plan may be tens of megabytes.
            data = await asyncio.to_thread(self._bytes, output)
            await asyncio.to_thread(write_atomically, path, data)
        except OSError as error:
            complain(self._app, f"{path} cannot be written: {error.strerror or error}")
        except CloraError as error:
            complain(self._app, str(error))
        else:
            tell(self._app, f"Wrote {path}.")

    def _bytes(self, output: OutputFile) -> bytes:
        if output == TEXT:
            return f"{self._text.rstrip()}\n".encode()
        if output == PROOFS:
            return "".join(map(proof_line, self._proofs)).encode()
        return bytes_of(self._scene, output)
