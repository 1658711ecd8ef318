"""The task that gives `clora.bridge.CanonicalLoRA` to Megatron-Bridge's config, run on one rank."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import lora_models
import pytest
from bridge_job_tasks import bridge_job

import clora
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence


def configuration(folder: str, installed: Sequence[str]) -> dict[str, Any]:
    """Return what Megatron-Bridge makes of a `CanonicalLoRA`."""
    with bridge_job(installed):
        from megatron.bridge.peft.base import PEFT
        from megatron.bridge.peft.module_matcher import ModuleMatcher
        from megatron.bridge.training.config import ConfigContainer

        from clora.bridge import CanonicalLoRA

        lora = CanonicalLoRA(["linear_q", "*.layers.0.*.linear_v"], dim=8, alpha=16, dropout_position="post")
        found = {
            "is": isinstance(lora, PEFT) and isinstance(lora, ModuleMatcher) and isinstance(lora, clora.CanonicalLoRA),
            "recipe": _default_peft_config()(lora) is lora,
            "container": ConfigContainer.__dataclass_fields__["peft"].type == Optional[PEFT],  # noqa: UP045
            **_yaml(Path(folder), lora),
            **_overrides(lora),
            "clora": _fields(lora.to_clora()) == _fields(lora) and type(lora.to_clora()) is clora.CanonicalLoRA,
            "from clora": _fields(CanonicalLoRA.from_clora(lora.to_clora())) == _fields(lora),
        }
        return found | _surgery(CanonicalLoRA)


def _default_peft_config() -> Any:
    """Return the function by which recipes take a PEFT method; from 0.6 it is in another file."""
    utilities = "megatron.bridge.recipes.utils"
    is_old = find_spec(f"{utilities}.finetune_utils") is not None
    return import_module(f"{utilities}.{'finetune' if is_old else 'dataset'}_utils").default_peft_config


def _yaml(folder: Path, lora: Any) -> dict[str, Any]:
    """Write a container with `lora` as Megatron-Bridge writes its config, and read it."""
    from megatron.bridge.training.utils.config_utils import _ConfigContainerBase

    @dataclass(kw_only=True)
    class Container(_ConfigContainerBase):
        peft: Any = None

    Container.__module__ = "megatron.bridge.training.config"
    Container.__qualname__ = "TestContainer"
    import megatron.bridge.training.config as home

    home.TestContainer = Container
    path = folder / "run_config.yaml"
    Container(peft=lora).to_yaml(str(path))
    read = Container.from_yaml(str(path))
    return {"yaml": path.read_text(), "read": type(read.peft) is type(lora) and _fields(read.peft) == _fields(lora)}


def _overrides(lora: Any) -> dict[str, Any]:
    from megatron.bridge.training.utils.omegaconf_utils import apply_overrides, create_omegaconf_dict_config

    @dataclass
    class Recipe:
        peft: Any

    recipe = Recipe(lora)
    config, excluded = create_omegaconf_dict_config(recipe)
    apply_overrides(recipe, {"peft": {"dim": 12, "target_modules": ["linear_k"]}}, excluded)
    changed = (recipe.peft is lora, lora.dim, lora.target_modules)
    lora.dim, lora.target_modules = 8, ["linear_q", "*.layers.0.*.linear_v"]
    return {"excluded": sorted(excluded), "overridden": changed, "nothing in it": config == {}}


def _fields(lora: Any) -> dict[str, Any]:
    return {name: getattr(lora, name) for name, field in clora.CanonicalLoRA.__dataclass_fields__.items() if field.init}


def _surgery(bridge_class: Any) -> dict[str, Any]:
    """Adapt a model and take the adapters out again."""
    (model,) = lora_models.build("gqa", Layout())
    before = [name for name, _ in model.named_parameters()]
    lora = bridge_class(target_modules=["linear_q", "linear_proj"], dim=4)
    lora(model)
    names = [name for name, _ in model.named_parameters()]
    found = {
        "base": [name.replace(".to_wrap", "") for name in names if ".adapter." not in name] == before,
        "gets": all(model.get_parameter(name).shape for name in names),
        "saved": sorted(lora.params_to_save) == sorted(name for name in names if ".adapter." in name),
        "state": [key for key in model.state_dict() if "to_wrap" in key],
        "paths": [path for path, _ in clora.wrappers.adapted_modules(model)] == [p.module for p in _plan(model, lora)],
    }
    clora.revert(model)
    found["reverted"] = [name for name, _ in model.named_parameters()] == before
    return found


def _plan(model: Any, lora: Any) -> Any:
    seen: dict[str, Any] = {placement.module: placement for placement in lora.plan(model).placements}
    return seen.values()


def gated(folder: str, installed: Sequence[str]) -> dict[str, Any]:
    """Record a run, and let Megatron-Bridge's setup adapt its model anew, as it was and otherwise.

    Returns:
        What the gate of each run printed, and its exit status.
    """
    from clora_inspect import gate

    chunks = lora_models.build("gqa", Layout())
    fields = {"target_modules": ["linear_q", "linear_proj"], "dim": 4, "alpha": 8}
    clora.CanonicalLoRA(**fields)(chunks)
    gate(chunks, record=folder)
    clora.revert(chunks)
    with bridge_job(installed):
        from clora.bridge import CanonicalLoRA

        return {
            name: _asked(chunks, CanonicalLoRA(**{**fields, **changed}), f"{folder}/clora-run.json")
            for name, changed in {"same": {}, "other": {"dim": 8}}.items()
        }


def _asked(chunks: Any, lora: Any, file: str) -> tuple[int, str]:
    from megatron.bridge.training.setup import _apply_peft_transformation

    import clora.bridge.gate as asking

    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setenv("CLORA_INSPECT_GATE", file)
        # An installed clora-inspect has entered it; a test of its own holds that it does.
        patch.setattr(
            asking, "entry_points", lambda group: [EntryPoint("own", "clora_inspect.launch.gate:gate", group)]
        )
        try:
            _apply_peft_transformation(lora, chunks)
        except SystemExit as ended:
            status = int(ended.code or 0)
        else:
            status = 0
    clora.revert(chunks)
    return status, said.getvalue()
