"""Export from a screen: what, then where, then, over a file that is there, whether; written whole,
or not at all.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from clora_inspect.formats.verify.json import proof_line
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.tui.job.free_path import free_path
from clora_inspect.tui.job.outputs import PROOFS, TEXT, OutputFile, bytes_of
from clora_inspect.tui.screens.choose import ChooseScreen
from clora_inspect.tui.screens.path import PathScreen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.tui.app import InspectorApp
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.verify.report import ProofResult


class Exporter:
    """One export, from the key to the file. Remembers what was on the screen when the key was
    pressed.
    """

    def __init__(
        self,
        app: InspectorApp,
        scene: Scene,
        outputs: Sequence[OutputFile],
        *,
        text: str,
        proofs: Sequence[ProofResult] = (),
    ) -> None:
        """Offer `outputs` of `scene`; `text` is what the pane said, `proofs` what was proved."""
        self._app = app
        self._scene = scene
        self._outputs = {output.id: output for output in outputs}
        self._text = text
        self._proofs = tuple(proofs)

    def begin(self) -> None:
        """Ask what to write; where there is one thing only, ask where."""
        if len(self._outputs) == 1:
            self._chosen(next(iter(self._outputs)))
            return
        options = [(output.id, output.name, output.words) for output in self._outputs.values()]
        self._app.push_screen(ChooseScreen("Export", options, typed=False), self._chosen)

    def _chosen(self, name: str | None) -> None:
        if name is None:
            return
        output = self._outputs[name]
        self._app.push_screen(
            PathScreen(f"Write the {output.name} to", self._proposal(output)),
            lambda path: self._placed(output, path),
        )

    def _proposal(self, output: OutputFile) -> str:
        """A name of no file: `llama3-8b-train-plan.json`, or with a number."""
        words = f"{self._scene.name} {self._scene.layout_name}"
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-.") or "export"
        return str(free_path(Path(), stem, output.suffix))

    def _placed(self, output: OutputFile, answer: str | None) -> None:
        if answer is None:
            return
        path = Path(answer).expanduser()
        if not path.exists():
            self._write(output, path)
            return
        options = [("no", "No", "leave it as it is"), ("yes", "Yes", f"write the {output.name} over it")]
        self._app.push_screen(
            ChooseScreen(f"{path} exists. Write over it?", options, typed=False),
            lambda said: self._write(output, path) if said == "yes" else None,
        )

    def _write(self, output: OutputFile, path: Path) -> None:
        self._app.run_worker(self._written(output, path), group="export", exit_on_error=False)

    async def _written(self, output: OutputFile, path: Path) -> None:
        try:
            data = await asyncio.to_thread(self._bytes, output)
            await asyncio.to_thread(write_atomically, path, data)
        except OSError as error:
            self._app.complain(f"{path} cannot be written: {error.strerror or error}")
        else:
            self._app.tell(f"Wrote {path}.")

    def _bytes(self, output: OutputFile) -> bytes:
        if output == TEXT:
            return f"{self._text.rstrip()}\n".encode()
        if output == PROOFS:
            return "".join(map(proof_line, self._proofs)).encode()
        return bytes_of(self._scene, output)
