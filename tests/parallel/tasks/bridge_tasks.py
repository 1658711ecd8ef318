"""The tasks that the tests of checkpoints of the real Megatron-Bridge run on each rank.

Values are compared with those that belong to the names (`lora_models`), whose rules know neither
clora nor Megatron-Bridge.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import checkpoint_tasks
import lora_models
import torch

from clora import save_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PLAIN = "extra"
"""Name of a linear of torch's that a model gets beside its layers."""


def save(
    kind: str, axes: dict[str, int], folder: str, installed: Sequence[str], lora_fields: dict[str, Any], plain: bool
) -> list[str]:
    """Save the filled adapters of a model that Megatron-Bridge adapted, and return their keys."""
    from megatron.core import dist_checkpointing

    with _bridge(installed), quiet():
        _, state = _adapted_by_bridge(kind, Layout(**axes), lora_fields, plain)
        checkpoint_tasks._made(folder)
        dist_checkpointing.save(state, folder)
    return sorted(state)


def load(
    kind: str, axes: dict[str, int], folder: str, installed: Sequence[str], lora_fields: dict[str, Any], plain: bool
) -> dict[str, Any]:
    """Let Megatron-Bridge load into a model whose adapters are zero; count what came back."""
    from megatron.core import dist_checkpointing

    with _bridge(installed), quiet():
        chunks, state = _adapted_by_bridge(kind, Layout(**axes), lora_fields, plain)
        _fill(chunks, zero=True)
        loaded = dist_checkpointing.load(state, folder)
        for chunk in chunks:
            chunk.load_state_dict(loaded, strict=False)
        return _counted(chunks)


def save_by_clora(
    kind: str, axes: dict[str, int], folder: str, bridge: str | None, lora_fields: dict[str, Any], plain: bool
) -> dict[str, Any]:
    """Save with clora for a release of Megatron-Bridge; return the refusal, and what was logged."""
    from clora import CheckpointError

    chunks = _adapted(kind, Layout(**axes), lora_fields, plain)
    _fill(chunks)
    try:
        with quiet(), _heard() as said:
            save_adapters(chunks, folder, bridge=bridge)
    except CheckpointError as error:
        return {"refusal": str(error)}
    return {"refusal": "", "said": said}


def load_by_clora(
    kind: str, axes: dict[str, int], folder: str, lora_fields: dict[str, Any], plain: bool
) -> dict[str, Any]:
    """Load with clora into a model whose adapters are zero; count what came back."""
    from clora import CheckpointError, load_adapters

    chunks = _adapted(kind, Layout(**axes), lora_fields, plain)
    _fill(chunks, zero=True)
    try:
        with quiet(), _heard() as said:
            load_adapters(chunks, folder)
    except CheckpointError as error:
        return {**_counted(chunks), "message": str(error)}
    return {**_counted(chunks), "said": said}


def save_in_fp32(
    kind: str, axes: dict[str, int], folder: str, installed: Sequence[str] | None, lora_fields: dict[str, Any]
) -> None:
    """Save the filled adapters with Megatron-Bridge, or with clora where none is given.

    Fingerprints know no fp64, in which the other tasks save.
    """
    from megatron.core import dist_checkpointing

    if installed is None:
        chunks = _adapted(kind, Layout(**axes), lora_fields, plain=False, dtype=torch.float32)
        _fill(chunks)
        with quiet():
            save_adapters(chunks, folder)
        return
    with _bridge(installed), quiet():
        _, state = _adapted_by_bridge(kind, Layout(**axes), lora_fields, plain=False, dtype=torch.float32)
        checkpoint_tasks._made(folder)
        dist_checkpointing.save(state, folder)


def _adapted(
    kind: str, layout: Layout, lora_fields: dict[str, Any], plain: bool, dtype: torch.dtype = torch.float64
) -> list[Any]:
    from clora import CanonicalLoRA

    chunks = _built(kind, layout, plain, dtype)
    with quiet():
        CanonicalLoRA(**{"dim": 4, **lora_fields})(chunks)
    return chunks


def _adapted_by_bridge(
    kind: str, layout: Layout, lora_fields: dict[str, Any], plain: bool, dtype: torch.dtype = torch.float64
) -> tuple[list[Any], dict[str, Any]]:
    """Return the chunks, filled, and what Megatron-Bridge's trainer saves of them."""
    from clora.linears import sharded_state
    from clora_inspect.bridge.canonical_lora import _let_it_see_the_stand_in
    from clora_inspect.bridge.installed import part

    _let_it_see_the_stand_in()
    chunks = _built(kind, layout, plain, dtype)
    lora = part("peft.canonical_lora").CanonicalLoRA(**{"dim": 4, **lora_fields})
    chunks = lora(chunks)
    _fill(chunks)
    lora.set_params_to_save(chunks)
    state = {name: value for name, value in sharded_state(chunks[0]).items() if lora.adapter_key_filter(name)}
    return chunks, state


def _built(kind: str, layout: Layout, plain: bool, dtype: torch.dtype = torch.float64) -> list[Any]:
    chunks = lora_models.build(kind, layout, num_layers=2, dtype=dtype)
    if plain:
        for chunk in chunks:
            chunk.add_module(PLAIN, torch.nn.Linear(6, 10, dtype=torch.float64))
    return chunks


def _adapters(chunk: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and parameter of each factor."""
    for name, parameter in chunk.named_parameters():
        if name.endswith((".linear_in.weight", ".linear_out.weight")):
            yield name, parameter


def _expected(chunk: Any, name: str, parameter: torch.Tensor) -> torch.Tensor:
    if name.startswith(f"{PLAIN}."):
        return lora_models.whole(name.replace(".adapter.", "."), tuple(parameter.shape), 0.2)
    place = lora_models.Place(chunk, name, parameter)
    return place.shard(lora_models.whole(place.name, place.shape, 0.2))


@torch.no_grad()
def _fill(chunks: Sequence[Any], *, zero: bool = False) -> None:
    for chunk in chunks:
        for name, parameter in _adapters(chunk):
            parameter.copy_(torch.zeros_like(parameter) if zero else _expected(chunk, name, parameter))


def _counted(chunks: Sequence[Any]) -> dict[str, Any]:
    wrong: list[str] = []
    equal = zero = 0
    for chunk in chunks:
        for name, parameter in _adapters(chunk):
            if torch.equal(parameter.detach(), _expected(chunk, name, parameter)):
                equal += 1
            else:
                wrong.append(name)
            zero += not parameter.detach().any()
    return {"equal": equal, "zero": zero, "wrong": wrong, "message": ""}


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Yield what clora logs in the block."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("clora")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def _bridge(installed: Sequence[str]) -> Iterator[None]:
    """Let Megatron-Bridge be imported from the folders in `installed`, and leave no trace."""
    sys.path[:0] = installed
    try:
        yield
    finally:
        sys.path[:] = [folder for folder in sys.path if folder not in installed]
        for name in [name for name in sys.modules if name.startswith("megatron.bridge")]:
            del sys.modules[name]


def parallelism(kind: str, axes: dict[str, int], installed: Sequence[str]) -> dict[str, list[str]]:
    """Return path of each linear and factor -> how Megatron-Bridge's conversion takes it to be
    split: before it was adapted, if it was there, and afterwards.
    """
    from clora.linears import describe
    from clora.wrappers import adapted_modules

    layout = Layout(**axes)
    with _bridge(installed), quiet():
        mapping = _auto_mapping_class()
        chunk = _built(kind, layout, plain=False)[0]

        def taken_for(name: str) -> str:
            module = chunk.get_submodule(name)
            return str(mapping(f"{name}.weight", "weight")._detect_parallelism_type(module))

        before = {name: [taken_for(name)] for name, module in chunk.named_modules() if name and describe(module, name)}
        _adapt(chunk)
        found = {name: [*before[name], taken_for(name)] for name, _ in adapted_modules(chunk)}
        for name, _ in _adapters(chunk):
            path = name.removesuffix(".weight")
            found[path] = [taken_for(path)]
        return found


def _adapt(chunk: Any) -> None:
    from clora import CanonicalLoRA

    CanonicalLoRA(target_modules=lora_models.TARGETS, dim=4)(chunk)


def _auto_mapping_class() -> Any:
    """Import the one file that has it: its packages would import every model."""
    from types import ModuleType

    from clora_inspect.bridge.installed import part

    outer = part("peft").__path__[0].removesuffix("peft")
    for name, folder in (("models", "models"), ("models.conversion", "models/conversion")):
        package = ModuleType(f"megatron.bridge.{name}")
        package.__path__ = [f"{outer}{folder}"]
        sys.modules[package.__name__] = package
    return part("models.conversion.param_mapping").AutoMapping
