"""The tasks of a Megatron-Bridge job that adapts its model with `clora.bridge`, run on each rank.

Models come from Megatron-Bridge's own provider, and its own functions save, load and export them.
Adapters have values that are multiples of a power of two, so that every order of summation gives
the same bits.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from abc import ABCMeta
from contextlib import contextmanager
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import lora_models
import pytest
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ABSENT = (
    "datasets",
    "diffusers",
    "hydra",
    "modelopt",
    "six",
    "torch.utils.tensorboard",
    "megatron.energon",
    "megatron.bridge.diffusion",
    "PIL",
    "webdataset",
)
"""What Megatron-Bridge's training imports and none of its functions here calls."""

IS_OLD = os.environ.get("CLORA_BRIDGE_RELEASE", "0.3.1").startswith("0.3.")
EXPERTS_FC1 = [] if IS_OLD else ["linear_fc1_up", "linear_fc1_gate"]
TARGETS = {
    "llama": ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_up", "linear_fc1_gate", "linear_fc2"],
    # Release 0.3 adapts gate and up of routed experts one by one.
    "qwen3_moe": ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc2", *EXPERTS_FC1],
    "deepseek_v3": [
        *("linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj", "linear_proj"),
        *("*.mlp.linear_fc1_up", "*.mlp.linear_fc1_gate", "linear_fc2"),
        *("*.shared_experts.linear_fc1_up", "*.shared_experts.linear_fc1_gate"),
    ],
}


def _take_anything(*_args: Any, **_named: Any) -> None:
    pass


class _AnyName(ABCMeta):
    """The class of a class whose every attribute and index is one more."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyName(name, (), {"__init__": _take_anything, "__call__": _take_anything})

    def __getitem__(cls, _: Any) -> Any:
        return cls


class _Absent(ModuleType):
    """A module whose every name is an empty class."""

    __path__ = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_AnyName("absent", (), {}), name)


class _AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname: str, *_where: Any) -> Any:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in ABSENT):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


_imported: dict[str, ModuleType] = {}
"""The modules that a job imports, kept between the tasks of a process."""


@contextmanager
def bridge_job(installed: Sequence[str]) -> Iterator[None]:
    """Import Megatron-Bridge from `installed` as a job does, and leave no trace to other tests."""
    from megatron.core import dist_checkpointing

    load = dist_checkpointing.load
    before = {**sys.modules}
    sys.modules.update(_imported)
    sys.path[:0] = installed
    finder = _AbsentFinder()
    sys.meta_path.insert(0, finder)
    try:
        with quiet():
            yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = [folder for folder in sys.path if folder not in installed]
        dist_checkpointing.load = load
        gone = ("megatron.bridge", "clora.bridge.", *ABSENT)
        for name in [name for name in sys.modules if name not in before and name.startswith(gone)]:
            _imported[name] = sys.modules.pop(name)


def built(folder: str, layout: Layout) -> tuple[Any, Any]:
    """Return Megatron-Bridge's AutoBridge of the model in `folder`, and its model on this rank."""
    from megatron.bridge import AutoBridge

    from clora_inspect.bridge import provider as providers
    from clora_inspect.bridge.canonical_lora import _let_it_see_the_stand_in

    _let_it_see_the_stand_in()
    bridge = AutoBridge.from_hf_pretrained(folder)
    provider = bridge.to_megatron_provider(load_weights=False)
    fields = {
        "tensor_model_parallel_size": layout.tp,
        "expert_model_parallel_size": layout.ep,
        "expert_tensor_parallel_size": 1,
        "sequence_parallel": layout.tp > 1,
        "params_dtype": torch.float32,
        "bf16": False,
        "fp16": False,
        # The tiny model's config leaves it out.
        "moe_router_score_function": "sigmoid" if "deepseek" in folder else "softmax",
    }
    providers.prepare(folder, provider, {}, fields, is_meta=False)
    model = provider.provide(pre_process=True, post_process=True, vp_stage=None)
    bridge.load_hf_weights([model])
    return bridge, model


@torch.no_grad()
def fill(model: Any) -> None:
    """Give all parameters values of few bits, those of an adapter by its name."""
    for name, parameter in model.named_parameters():
        if ".adapter." not in name:
            parameter.copy_((parameter * 64).round() / 64)
            continue
        place = lora_models.Place(model, name, parameter)
        values = lora_models.whole(place.name, place.shape)
        parameter.copy_(place.shard((values * 4).round() / 16))


def adapted(kind: str, folder: str, layout: Layout, by: str, **fields: Any) -> tuple[Any, Any, Any]:
    """Return AutoBridge, the model adapted through the hook of its setup, and its PEFT method."""
    from megatron.bridge.training.setup import _apply_peft_transformation

    bridge, model = built(folder, layout)
    lora = _peft(by, **{"target_modules": TARGETS[kind], "dim": 4, "alpha": 8, **fields})
    (model,) = _apply_peft_transformation(lora, [model])
    fill(model)
    return bridge, model, lora


def _peft(by: str, **fields: Any) -> Any:
    if by == "clora":
        from clora.bridge import CanonicalLoRA
    else:
        from megatron.bridge.peft.canonical_lora import CanonicalLoRA
    return CanonicalLoRA(**fields)


def exported(bridge: Any, model: Any, lora: Any) -> dict[str, dict[str, torch.Tensor]]:
    """Return what Megatron-Bridge exports: the adapters, the merged model, the base, a folder."""
    found = {
        "adapters": bridge.export_adapter_weights([model], cpu=True, show_progress=False),
        "merged": bridge.export_hf_weights([model], cpu=True, show_progress=False),
        "base": bridge.export_hf_weights([model], cpu=True, show_progress=False, merge_adapter_weights=False),
    }
    kept = {what: {name: tensor.clone() for name, tensor in weights} for what, weights in found.items()}
    return kept | {"folder": _saved_folder(bridge, model, lora)}


def _saved_folder(bridge: Any, model: Any, lora: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of the PEFT folder that a release from 0.4 on writes; rank 0 has them."""
    from safetensors.torch import load_file

    if not hasattr(bridge, "save_hf_adapter"):
        return {}
    with TemporaryDirectory() as folder:
        bridge.save_hf_adapter([model], folder, lora, base_model_name_or_path="base", show_progress=False)
        file = Path(folder, "adapter_model.safetensors")
        if not file.exists():
            return {}
        config = json.loads(Path(folder, "adapter_config.json").read_text())
        scale = torch.tensor([float(config["lora_alpha"]), float(config["r"])])
        return {**load_file(file), "alpha and rank": scale}


def exports(axes: dict[str, int], cases: list[tuple[str, str, dict[str, Any]]], installed: Sequence[str]) -> list[Any]:
    """Compare the exports of models that clora adapted with those of its own adapters.

    Args:
        axes: the layout.
        cases: kind, folder of the Hugging Face model, and fields of the LoRA. With targets of its
            own a case is one that Megatron-Bridge exports wrong or not at all.
        installed: folders with Megatron-Bridge.
    """
    with bridge_job(installed):
        return [_compared(kind, folder, Layout(**axes), fields) for kind, folder, fields in cases]


def _compared(kind: str, folder: str, layout: Layout, fields: dict[str, Any]) -> dict[str, Any]:
    import clora

    bridge, model, lora = adapted(kind, folder, layout, "clora", **fields)
    ours = exported(bridge, model, lora)
    theirs = ours
    if "target_modules" not in fields:
        theirs = exported(*adapted(kind, folder, layout, "bridge", **fields))
    base = {name.replace(".base_layer", ""): tensor for name, tensor in ours["base"].items()}
    clora.merge_and_unload(model)
    merged = dict(bridge.export_hf_weights([model], cpu=True, show_progress=False))
    return {
        "unlike theirs": [name for what in ours for name in different(ours[what], theirs[what])],
        "unlike the merge": different(ours["merged"], merged),
        "with an adapter": len(different(ours["merged"], base)),
        "named as a base": sum(".base_layer." in name for name in ours["base"]),
        "pairs": len(ours["adapters"]) // 2,
        "folder": len(ours["folder"]),
    }


def different(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Return the names that only one has, and those whose tensors differ in any bit."""
    return sorted(
        name for name in {*one, *other} if not (name in one and name in other and torch.equal(one[name], other[name]))
    )


def refusals(folder: str, with_experts: str, installed: Sequence[str]) -> dict[str, str]:
    """Return what is said where a merged export would lack adapters."""
    import clora

    said = {}
    with bridge_job(installed):
        bridge, model = built(folder, Layout())
        tasks = bridge._model_bridge.build_conversion_tasks(bridge.hf_pretrained, [model])
        clora.CanonicalLoRA(target_modules=["linear_proj"], dim=4)(model)
        said["plain"] = _said(lambda: list(bridge.export_hf_weights([model], show_progress=False)))
        clora.revert(model)
        lora = _peft("clora", target_modules=["linear_q", "linear_proj"], dim=4)
        lora([model])
        fill(model)
        said["old tasks"] = _said(
            lambda: list(bridge.export_hf_weights([model], show_progress=False, conversion_tasks=tasks))
        )
        clora.merge_adapters(model)
        said["merged"] = _said(lambda: list(bridge.export_hf_weights([model], show_progress=False)))
        clora.unmerge_adapters(model)
        from megatron.bridge.peft import lora as reference

        # From 0.5 it merges single tensors and walks no model.
        if "transform" in vars(vars(reference).get("LoRAMerge", object)):
            said["LoRAMerge"] = _said(lambda: reference.LoRAMerge()([model], training=False))
        said["none"] = _said(lambda: list(bridge.export_hf_weights([model], show_progress=False)))
        said["not walked"] = str(_not_walked(model))
        clora.revert(model)
        model.config.share_embeddings_and_output_weights = True
        _peft("clora", target_modules=["output_layer"], dim=4)([model])
        said["tied"] = _said(lambda: list(bridge.export_hf_weights([model], show_progress=False)))
        bridge, model, _ = adapted("qwen3_moe", with_experts, Layout(), "clora", share_expert_adapters=False)
        said["per expert"] = _said(lambda: list(bridge.export_adapter_weights([model], show_progress=False)))
    return said


def _not_walked(model: Any) -> list[str]:
    """Return the modules of `model`, no lists and dicts, that a walk of Megatron-Bridge misses."""
    from megatron.bridge.peft.walk_utils import walk

    walked: list[Any] = []
    walk(model, lambda module, **_: walked.append(module) or module)
    containers = (torch.nn.ModuleList, torch.nn.ModuleDict)
    modules = {name: module for name, module in model.named_modules() if not isinstance(module, containers)}
    return [name for name, module in modules.items() if all(module is not other for other in walked)]


def _said(call: Any) -> str:
    from clora import CloraError

    try:
        call()
    except CloraError as error:
        return str(error)
    return ""


def saves(kind: str, axes: dict[str, int], folder: str, installed: Sequence[str], out: str) -> None:
    """Save the adapters of both as Megatron-Bridge's trainer does, and those of clora."""
    import checkpoint_tasks
    from megatron.core import dist_checkpointing

    with bridge_job(installed):
        for by in ("bridge", "clora"):
            _, model, lora = adapted(kind, folder, Layout(**axes), by)
            Path(out, by).mkdir(exist_ok=True)
            checkpoint_tasks._made(f"{out}/{by}/iter_0000001")
            dist_checkpointing.save(_saved_state(model, lora), f"{out}/{by}/iter_0000001")


def resumes(kind: str, axes: dict[str, int], folder: str, installed: Sequence[str], out: str) -> dict[str, Any]:
    """Load both by Megatron-Bridge's loader into a model that clora adapted; name what is wrong."""
    found: dict[str, Any] = {}
    with bridge_job(installed):
        _, model, lora = adapted(kind, folder, Layout(**axes), "clora")
        expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        for by in ("bridge", "clora"):
            for name, parameter in model.named_parameters():
                if ".adapter." in name:
                    parameter.data.zero_()
            loaded = _loaded(_saved_state(model, lora), f"{out}/{by}")
            model.load_state_dict(loaded["model"], strict=False)
            found[by] = [name for name, value in model.named_parameters() if not torch.equal(value, expected[name])]
        found["unextended"] = _mixed_up(model, lora, f"{out}/bridge", expected)
        optimizer = {**_saved_state(model, lora), "optimizer": {"step": 1}}
        found["optimizer"] = _said(lambda: _loaded(optimizer, f"{out}/bridge"))
        lora = _peft("clora", target_modules=["linear_q", "linear_fc2"], dim=2)
        import clora

        clora.revert(model)
        lora([model])
        found["other"] = _said(lambda: _loaded(_saved_state(model, lora), f"{out}/bridge"))
    return found


def _mixed_up(model: Any, lora: Any, folder: str, expected: dict[str, torch.Tensor]) -> list[str]:
    """Return the adapters that megatron-core's own `load` puts in another order."""
    from megatron.core import dist_checkpointing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist_checkpointing, "load", unwrap(dist_checkpointing.load))
        loaded = _loaded(_saved_state(model, lora), folder)["model"]
    return [name for name, value in loaded.items() if not torch.equal(value, expected[name])]


def _saved_state(model: Any, lora: Any) -> dict[str, Any]:
    from megatron.bridge.training.checkpointing import (
        _generate_model_state_dict,
        apply_peft_adapter_filter_to_state_dict,
    )

    return apply_peft_adapter_filter_to_state_dict(
        {"checkpoint_version": 3.0, **_generate_model_state_dict([model], None, "torch_dist")}, lora
    )


def _loaded(state: dict[str, Any], folder: str) -> dict[str, Any]:
    from types import SimpleNamespace

    from megatron.bridge.training.checkpointing import _load_global_dist_base_checkpoint
    from megatron.core.process_groups_config import ProcessGroupCollection

    settings = SimpleNamespace(
        fully_parallel_load=False, dist_ckpt_strictness="assume_ok_unexpected", ckpt_format="torch_dist"
    )
    groups = ProcessGroupCollection.use_mpu_process_groups()
    loaded = _load_global_dist_base_checkpoint(folder, settings, False, state, 1, False, pg_collection=groups)
    return loaded[0]
