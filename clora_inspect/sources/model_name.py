"""Find what the name of a model means: a built-in architecture, a Hugging Face `config.json` or
its folder, a run of Megatron-Bridge or its folder, or a function. Pure.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from clora.errors import ModelError
from clora.folders.regular_file import refuse_file_in_place_of_folder
from clora_inspect.sources import architectures
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.run.file import SUFFIXES, run_in
from clora_inspect.sources.run.recipe import NAME, is_recipe, path_of

if TYPE_CHECKING:
    from clora_inspect.job.model_class import ModelClass

_FILE_SUFFIXES = (".json", ".py", ".new", *SUFFIXES)
"""Suffixes of the files that a name can be. Other dots belong to a version: `qwen2.5-0.5b`."""


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""`OWNER/MODEL`, as repositories of the Hugging Face Hub are called."""

_NOT_FETCHED = "nothing is fetched here. Download its config.json and name the folder that holds it."


BRIDGE = "bridge:"
"""Begins the name of a model that Megatron-Bridge converts and builds: `bridge:config.json`."""


HYBRID = "hybrid:"
"""Begins the name of a model that is built as a HybridModel: `hybrid:llama3-8b`."""


def with_model_class(model: str, model_class: ModelClass | None) -> str:
    """Return the name of `model`, built as `model_class`; as it is for None."""
    if model_class is None:
        return model
    plain = model.removeprefix(HYBRID)
    return f"{HYBRID}{plain}" if model_class == "hybrid" else plain


def config_file(model: str) -> Path | None:
    """Return the `config.json` or `run_config.yaml` that describes `model`; None for a function,
    which describes itself.

    Raises:
        ModelError: `model` means nothing, or its folder has no such file.
    """
    model = model.removeprefix(HYBRID)
    path = _config_file(model.removeprefix(BRIDGE))
    if path is None and model.startswith(BRIDGE):
        raise ModelError(f"{model}: Megatron-Bridge converts a config.json or its folder, and no function.")
    if path is not None and path.suffix in SUFFIXES and model.startswith(BRIDGE):
        raise ModelError(f"{model}: a run is built from its own fields. Leave out bridge: or --via bridge.")
    return path


def in_home(model: str) -> str:
    """Return `model` with a `~` at its beginning expanded. A shell leaves it in quotes, and nothing
    expands it in a TOML file.
    """
    if not model.startswith("~"):
        return model
    try:
        return str(Path(model).expanduser())
    except RuntimeError:  # there is no such user
        return model


def shown_name(model: str) -> str:
    """Return what to call a model on screen and in file names: `model` itself, or the real name of
    its folder where a path such as `.`, `../llama/` or `config.json` does not say it.
    """
    named = model.removeprefix(HYBRID).removeprefix(BRIDGE)
    if architectures.path_of(named) is not None:
        return model
    path = Path(named)
    if path.is_dir():
        folder = path
    elif path.name in ("config.json", NAME) and path.is_file():
        folder = path.parent
    else:
        return model
    is_plain = str(path) == named and ".." not in path.parts and folder.name and not folder.is_symlink()
    # The folder / has no name.
    return model if is_plain else folder.resolve().name or model


def run_file(model: str) -> Path | None:
    """Return the `run_config.yaml` that describes `model`; None if it is no run."""
    try:
        path = config_file(model)
    except (ModelError, OSError):  # planning says why
        return None
    return path if path is not None and path.suffix in SUFFIXES else None


def _config_file(model: str) -> Path | None:
    # Built-in names come first, so that they mean the same everywhere. `./NAME` means the folder.
    built_in = architectures.path_of(model)
    if built_in is not None:
        return built_in
    path = Path(model)
    if path.is_dir():
        return _file_in(path, model)
    if path.is_file() and path.suffix in (".json", *SUFFIXES):
        return path
    if _is_url(model):
        raise ModelError(f"{model}: {_NOT_FETCHED}")
    # After the files, because a path may contain a colon.
    if is_recipe(model):
        return path_of(model)
    if ":" in model:
        return None
    if path.is_file():
        raise ModelError(
            f"{model} is not a model. Give a config.json, or FILE.py:FUNCTION for a function that returns a model."
        )
    if not looks_like_file(model) and _HUB_NAME.fullmatch(model) and not path.parent.is_file():
        raise ModelError(f"{model}: no such folder. If it is a name on the Hugging Face Hub: {_NOT_FETCHED}")
    if looks_like_file(model) or "/" in model or path.exists():
        raise ModelError(f"{model}: {_why_no_file(path)}.")
    known = architectures.names()
    raise ModelError(f"'{model}' is no built-in architecture{nearest(model, known)} Known: {', '.join(known)}.")


def _why_no_file(path: Path) -> str:
    if path.exists():
        return "it is not a regular file"
    try:
        refuse_file_in_place_of_folder(path.parent)
    except NotADirectoryError as error:
        return str(error.strerror)
    return "no such file"


def _file_in(folder: Path, model: str) -> Path:
    if not model:
        # Path("") is the current folder.
        raise ModelError("The name of the model is empty.")
    if (folder / "config.json").is_file():
        return folder / "config.json"
    run = run_in(folder)
    if run is None:
        raise ModelError(f"{model} is a folder without a config.json. Nor does it hold a {NAME}.")
    return run


def _is_url(model: str) -> bool:
    return re.match(r"[a-z][a-z0-9+]*://", model, re.IGNORECASE) is not None


def runs_code(model: str) -> bool:
    """Return whether planning `model` runs a function of the user."""
    try:
        return config_file(model) is None
    except (ModelError, OSError):  # it means nothing; planning says so
        return False


def looks_like_file(model: str) -> bool:
    """Return whether `model` is written like a file or a function, existing or not."""
    return ":" in model or Path(model).suffix in _FILE_SUFFIXES
