"""Read a file with the LoRA of a job, whatever library wrote it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import CloraError, ModelError, one_line
from clora.folders.regular_file import read_regular_file
from clora_inspect.config.lora_file.bridge import bridge_arguments
from clora_inspect.config.lora_file.errors import LoRAFileError
from clora_inspect.config.lora_file.peft import peft_arguments
from clora_inspect.config.settings import LoRATable
from clora_inspect.config.working_folder import working_in
from clora_inspect.sources.definition import load_definition
from clora_inspect.sources.hf import read_config, text_part
from clora_inspect.sources.model_name import config_file
from clora_inspect.sources.run.file import SUFFIXES as RUN_SUFFIXES
from clora_inspect.sources.run.file import read_run
from clora_inspect.sources.run.recipe import is_recipe, path_of, recipe_at

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("adapter_config.json", "run_config.yaml")
"""Files that are looked for in a folder, in this order."""

SUFFIXES = (".json", ".toml", ".yaml", ".yml")

LARGEST_FILE = 512 * 1024
"""Bytes. Such files have a few thousand, and PyYAML reads some 100 kB a second."""


def is_lora_file(name: str) -> bool:
    """Return whether `name`, the value of a job's `lora`, means a file or a folder and not a LoRA
    of the configuration.
    """
    return "/" in name or "\\" in name or name.endswith(SUFFIXES) or is_recipe(name)


def lora_path(name: str) -> Path:
    """Return the path of the file or folder `name`, or the path that stands for a recipe. It is
    relative if `name` is: messages show it.
    """
    return path_of(name) if is_recipe(name) else Path(name)


def read_lora_file(
    path: Path, model: str, overrides: Mapping[str, Any], *, folder: Path, as_canonical: bool
) -> LoRATable:
    """Return the LoRA in the file at `path`, or in the folder `path`.

    Args:
        path: the file or folder.
        model: the model of the job, whose names the file may use.
        overrides: fields of the model's config that the user set.
        folder: the folder that `model` is relative to.
        as_canonical: True to plan an adapter of another form as canonical LoRA with the same
            targets.

    Raises:
        LoRAFileError: it cannot be read, or has something that canonical LoRA cannot express.
        ModelError: the model cannot be read.
    """
    file = _file(path)
    values = read_run(file) if recipe_at(file) else _values(file)
    with working_in(folder):
        definition = load_definition(model).override(overrides)
        if "peft_type" in values:
            inside = _outer_model_type(model)
            arguments = peft_arguments(values, file, definition, inside, as_canonical=as_canonical)
        else:
            # A function makes its own config, so that its MLPs may have gates.
            gated = definition.is_user_function or bool(definition.config.get("gated_linear_unit"))
            arguments = bridge_arguments(_section(values, file), file, gated=gated, as_canonical=as_canonical)
    return LoRATable(**arguments)


def _outer_model_type(model: str) -> str | None:
    """Return the `model_type` of the model of several modalities that the text model is taken from;
    None for a model that stands alone.
    """
    path = config_file(model)
    if path is None or path.suffix in RUN_SUFFIXES:
        return None
    outer = read_config(path)
    return outer.text("model_type") if text_part(outer) is not None else None


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in NAMES if (path / name).exists()), None)
    if found is None:
        raise LoRAFileError(f"{path} has no {' and no '.join(NAMES)}, so that no LoRA can be read from it.")
    return found


def _values(path: Path) -> dict[str, Any]:
    """Return the mapping in the file.

    Raises:
        LoRAFileError: it cannot be read, or holds something else.
    """
    try:
        data = read_regular_file(path, LARGEST_FILE)
    except OSError as error:
        raise LoRAFileError(f"{str(path)[:200]} cannot be read: {error.strerror or error}.") from None
    try:
        values: Any = _parsed(path.suffix, data, path)
    # A number of 4,301 digits is a ValueError.
    except (ValueError, RecursionError) as error:
        if isinstance(error, CloraError):
            raise
        raise LoRAFileError(f"{path} is not valid {path.suffix[1:].upper()}: {one_line(error)[:200]}.") from None
    if not isinstance(values, dict):
        raise LoRAFileError(f"{path} holds no mapping of keys to values.")
    return values


def _parsed(suffix: str, data: bytes, path: Path) -> Any:
    if suffix == ".json":
        return msgspec.json.decode(data)
    if suffix == ".toml":
        return tomllib.loads(data.decode())
    if suffix in (".yaml", ".yml"):
        from clora_inspect.sources.run.yaml_reader import parse_yaml

        try:
            return parse_yaml(data, path)
        except ModelError as error:
            raise LoRAFileError(str(error)) from None
    raise LoRAFileError(f"{path} is none of {', '.join(SUFFIXES)}, so that it is not read.")


def _section(values: dict[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the `peft` section: a key of a run, or the whole file."""
    section = values.get("peft", values)
    if section is None:
        raise LoRAFileError(f"{path} has peft = null: the run trains all parameters and has no adapters.")
    if isinstance(section, str):
        return {"peft_scheme": section}
    if not isinstance(section, dict):
        raise LoRAFileError(f"{path}: peft is no mapping of keys to values.")
    if section is values and not {"_target_", "peft_scheme"} & values.keys():
        raise LoRAFileError(
            f"{path} is neither an adapter_config.json (it has no peft_type) nor a run of Megatron-Bridge (it has no "
            "peft, _target_ or peft_scheme)."
        )
    return section
