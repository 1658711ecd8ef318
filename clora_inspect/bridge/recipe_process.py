"""The process that calls a recipe of Megatron-Bridge and writes what it makes. See `run_recipe`.

It is `python -m clora_inspect.bridge.recipe_process RECIPE MODULE FOLDER [CONFIG]`.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, DeviceError, ModelError, described
from clora.folders.regular_file import read_regular_file
from clora_inspect.bridge.absent_packages import AbsentPackageError, allow_absent_packages
from clora_inspect.bridge.installed import PACKAGE, part
from clora_inspect.bridge.provider import bridge_of
from clora_inspect.bridge.recipes import REFUSAL, REFUSALS, RUN
from clora_inspect.virtual.real import megatron_on

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST_CONFIG = 4 * 1024 * 1024
"""Bytes of a `config.json`."""

_CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
"""Events of Python that a use of the network causes."""


def main(words: Sequence[str]) -> None:
    """Call the recipe and write `run_config.yaml`, or the reason why there is none."""
    name, module, folder, *config = words
    try:
        with megatron_on("meta"):
            _write_run(name, module, Path(folder) / RUN, Path(config[0]) if config else None)
    except CloraError as error:
        (Path(folder) / RUN).unlink(missing_ok=True)
        kind = next((kind for kind, raised in REFUSALS.items() if isinstance(error, raised)), "model")
        (Path(folder) / REFUSAL).write_text(json.dumps({"kind": kind, "text": str(error)}))


def _write_run(name: str, module: str, file: Path, config: Path | None) -> None:
    allow_absent_packages()
    # The module that says what is converted imports no trainer.
    real = part("models.conversion.auto_bridge").AutoBridge
    sys.modules[PACKAGE].AutoBridge = _offline(real, config)  # type: ignore[attr-defined]
    _enter_recipes(module)
    recipe = getattr(part(f"recipes.{module}"), name)
    needed = [
        each.name
        for each in inspect.signature(recipe).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    ]
    if needed:
        raise ModelError(f"it needs {', '.join(needed)}, and a recipe is called without arguments")
    _forbid_network()
    try:
        settings = recipe()
        _finish(settings)
        settings.to_yaml(str(file))
    except CloraError:
        raise
    except AbsentPackageError as error:
        raise DeviceError(f"{error} (pip install {str(error.name).partition('.')[0]})") from error
    # Foreign code: it raises whatever a missing file of the Hub or a missing GPU causes.
    except Exception as error:
        raise DeviceError(f"it raises {described(error, 300)}") from error


def _finish(settings: Any) -> None:
    """Bring the model to its state in the file of a run, as the trainer does at its start."""
    precision = settings.mixed_precision
    if isinstance(precision, str):
        precision = part("training.mixed_precision").get_mixed_precision_config(precision)
    if precision is not None:
        precision.finalize()
        precision.setup(settings.model)
    model, tokenizer = settings.model, settings.tokenizer
    if hasattr(model, "vocab_size"):
        # Only a vocabulary that the tokenizer decides is padded.
        model.should_pad_vocab = model.vocab_size is None
        model.vocab_size = model.vocab_size or tokenizer.vocab_size
        if model.vocab_size is None:
            raise DeviceError(
                f"the tokenizer of the run decides the size of its vocabulary ({tokenizer.tokenizer_type} "
                f"{tokenizer.tokenizer_model}), and none is loaded"
            )
    if hasattr(model, "finalize"):
        split = getattr(model, "pipeline_model_parallel_layout", None)
        model.finalize()
        # It became an object, of which the file keeps nothing.
        if split is not None:
            model.pipeline_model_parallel_layout = split


def _offline(real: Any, config: Path | None) -> type:
    """Return an `AutoBridge` that reads the `config.json` alone, and from this machine."""

    class AutoBridge(real):  # type: ignore[misc]
        @classmethod
        def from_hf_pretrained(cls, path: Any, **options: Any) -> Any:
            file = config or _cached(str(path), options.get("revision"))
            return bridge_of(str(path), json.loads(read_regular_file(file, _LARGEST_CONFIG)))

    return AutoBridge


def _cached(repository: str, revision: str | None) -> Path:
    """Return the `config.json` of a model in the cache of the Hugging Face Hub.

    Raises:
        DeviceError: it is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision)
    if not isinstance(found, str):
        raise DeviceError(
            f"it loads the config.json of {repository} from the Hugging Face Hub. It is not in the cache of the Hub "
            "here, and nothing is fetched. Download it, and write @ and its folder after the name of the recipe"
        )
    return Path(found)


def _enter_recipes(module: str) -> None:
    """Register the packages above a recipe's module without running them, as they import all
    recipes.
    """
    package = sys.modules[PACKAGE]
    name, places = PACKAGE, list(package.__path__)
    # Packages inside of a family only list its recipes for one kind of GPU.
    for inner in ("recipes", module.partition(".")[0]):
        name, places = f"{name}.{inner}", [f"{place}/{inner}" for place in places]
        if not any(Path(place).is_dir() for place in places):
            return
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = places


def _forbid_network() -> None:
    """Raise at every attempt to open a connection. It cannot be undone, as audit hooks cannot."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in _CONNECTIONS:
            raise DeviceError(f"it opens a connection ({arguments[-1]}), and nothing is fetched")

    sys.addaudithook(refuse)


if __name__ == "__main__":
    main(sys.argv[1:])
