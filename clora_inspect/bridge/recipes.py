"""Find the recipes of the installed Megatron-Bridge in its source, without importing it, and let
one write its run in a process of its own.

A recipe is a function that returns all settings of a training run. Its module imports the trainer
with its libraries, so that none of that must stay in this process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from clora.errors import CloraError, DeviceError, ModelError
from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.bridge.installed import DISTRIBUTION, Installed

_DEFINED = re.compile(r"^def ([a-z]\w*_config)\(|^ +\w+ as ([a-z]\w*_config)\b", re.MULTILINE)
"""A recipe, or a second name of one, as newer releases give the names of older ones."""

_HELPERS = frozenset({"common.py", "utils", "run_plugins.py"})
"""Files and folders beside those of the families. They hold no recipe."""

_LONGEST_WAIT = 600
"""Seconds. Importing the trainer takes some ten."""

RUN, REFUSAL = "run_config.yaml", "refusal.json"
"""Files that the process writes: what the recipe made, or the kind and the text of an error."""

REFUSALS: dict[str, type[CloraError]] = {"model": ModelError, "device": DeviceError}
"""Kind of an error of the process -> its class here."""


def modules_of_recipes(installed: Installed) -> dict[str, str]:
    """Return recipe -> the module that defines it, below `megatron.bridge.recipes`."""
    folder = installed.folder / "recipes"
    found: dict[str, str] = {}
    # Where two modules have a name, the one of the family goes before those for one kind of GPU.
    for path in sorted(folder.rglob("*.py"), key=lambda path: (len(path.parts), path)):
        inside = path.relative_to(folder)
        if inside.parts[0] in _HELPERS or path.name == "__init__.py":
            continue
        try:
            source = read_regular_file(path, LARGEST_SOURCE).decode()
        except (OSError, UnicodeDecodeError):
            continue
        for defined, renamed in _DEFINED.findall(source):
            found.setdefault(defined or renamed, ".".join(inside.with_suffix("").parts))
    return found


def run_recipe(name: str, module: str, config: Path | None, largest: int) -> bytes:
    """Call a recipe without arguments, and return the `run_config.yaml` that it makes.

    Args:
        name: the recipe.
        module: its module, from `modules_of_recipes`.
        config: the `config.json` of the model that it loads from Hugging Face; None for that in the
            cache of the Hub.
        largest: the bytes that the file may have.

    Raises:
        DeviceError: it wants something that is not here: a package, a file of the Hub, a GPU.
        ModelError: Megatron-Bridge refuses the model.
    """
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)  # noqa: PTH100  # the zip of Python is no file
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    with TemporaryDirectory(prefix="clora-recipe-") as folder:
        # Recipes name folders for results below the current one.
        words = [sys.executable, "-m", "clora_inspect.bridge.recipe_process", name, module, folder, *_text(config)]
        try:
            done = subprocess.run(  # noqa: S603  # our own module
                words,
                cwd=folder,
                env={**os.environ, **offline, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_LONGEST_WAIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeviceError(f"it did not return within {_LONGEST_WAIT} s") from None
        if (Path(folder) / RUN).exists():
            return read_regular_file(Path(folder) / RUN, largest)
        if (Path(folder) / REFUSAL).exists():
            refusal = json.loads(read_regular_file(Path(folder) / REFUSAL, largest))
            raise REFUSALS[refusal["kind"]](refusal["text"])
    last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
    raise DeviceError(f"{DISTRIBUTION}: its process ended with {done.returncode}: {last[:200]}")


def _text(config: Path | None) -> list[str]:
    return [] if config is None else [str(config)]
