"""Read a recipe of an installed Megatron-Bridge as a run: `recipe:NAME`, or `recipe:NAME@CONFIG`.

What the recipe returns is written as the `run_config.yaml` that a training would write, and read as
such. Its path here, `recipe:NAME:run_config.yaml`, is no file: it stands for it in messages.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import DeviceError, ModelError
from clora_inspect.bridge.installed import find
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from clora.errors import CloraError
    from clora_inspect.bridge.installed import Installed

RECIPE = "recipe:"
"""Begins the name of a model that a recipe makes."""

NAME = "run_config.yaml"
"""Name of the file of a run."""

_SHOWN = 3


def is_recipe(model: str) -> bool:
    """Return whether `model` means a recipe. A user's own module may be called `recipe`, too: then
    it means a function of that.
    """
    if not model.startswith(RECIPE):
        return False
    return not (Path("recipe.py").is_file() or Path("recipe").is_dir() or find_spec("recipe"))


def path_of(model: str) -> Path:
    """Return the path that stands for the file of the recipe `model`."""
    recipe, at, place = model.partition("@")
    return Path(f"{recipe}{at}{Path(place).expanduser() if at else ''}:{NAME}")


def recipe_at(path: Path) -> str | None:
    """Return the recipe for which `path` stands; None for a file."""
    model, _, file_name = str(path).rpartition(":")
    return model if model.startswith(RECIPE) and file_name == NAME else None


def text_of(model: str, largest: int) -> bytes:
    """Return the `run_config.yaml` that the recipe `model` makes, with at most `largest` bytes.

    Raises:
        ModelError: there is no such recipe, or Megatron-Bridge refuses its model.
        DeviceError: Megatron-Bridge is not installed, or the recipe wants what is not here.
    """
    name, at, place = model.removeprefix(RECIPE).partition("@")
    made = _made(name, _config(model, place) if at else None, largest)
    if isinstance(made, bytes):
        return made
    raise type(made)(
        f"{model}: {str(made).removesuffix('.')}. Or, where the recipe runs, write what it makes, "
        f"{name}().to_yaml('run_config.yaml'), and name that file as JOB."
        if isinstance(made, DeviceError)
        else f"{model}: {made}"
    )


def _config(model: str, place: str) -> Path:
    path = Path(place).expanduser()
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(f"{model}: there is no file {file}, and a recipe takes a config.json or its folder after @.")
    return file.absolute()


@lru_cache(maxsize=4)
def _made(name: str, config: Path | None, largest: int) -> bytes | CloraError:
    """Run the recipe once for each command: it takes some ten seconds, also where it fails."""
    from clora_inspect.bridge.recipes import modules_of_recipes, run_recipe

    installed = find()
    if installed is None:
        return DeviceError(
            "a recipe is a function of Megatron-Bridge, which is not installed here (pip install --no-deps "
            "megatron-bridge==0.3.1, and what it imports: transformers<5, omegaconf>=2.4)"
        )
    modules = modules_of_recipes(installed)
    if name not in modules:
        return ModelError(_unknown(name, installed, list(modules)))
    try:
        return run_recipe(name, modules[name], config, largest)
    except (ModelError, DeviceError) as error:
        return error


def _unknown(name: str, installed: Installed, known: list[str]) -> str:
    shown = ", ".join(known[:_SHOWN])
    among = f" It has {len(known)} recipes, such as {shown}." if known else " It has none."
    return f"Megatron-Bridge {installed.release} has no recipe {name[:80]}{nearest(name, known)}{among}"
