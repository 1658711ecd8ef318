"""Measure what the layers of a model cost one rank, from one micro-batch of one row on meta.

A short model with each kind of layer is built on one pipeline stage. Every layer of the whole model
costs what the first of its kind costs here.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.verify.small.shrink import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA
    from clora_inspect.job.layout import Layout


@dataclass(slots=True)
class Cost:
    """The costs of one part of a model (a layer, or one of its ends) on one rank for one row."""

    weights: int = 0
    """Bytes of all parameters, adapters included."""
    trained: int = 0
    """Parameters that are trained, without those of experts."""
    trained_experts: int = 0
    activations: int = 0
    """Bytes that autograd keeps for the backward."""
    largest: int = 0
    """Bytes of the largest tensor that appears."""
    forward: int = 0
    """Floating-point operations."""
    backward: int = 0
    sent_forward: dict[str, int] = field(default_factory=dict)
    """Axis -> bytes that the rank sends."""
    sent_backward: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """The costs of the parts of a model for one way to split a layer."""

    layers: tuple[Cost, ...]
    """One for each layer of the whole model."""
    embedding: Cost
    output: Cost
    """Final norm, prediction layers, output layer and loss."""
    states: int
    """Bytes of the hidden states between two layers."""
    loss_peak: int
    """Bytes that are alive at the peak of the last stage, beside what its layers keep."""


def kinds(definition: ModelDefinition) -> list[tuple[str, ...]]:
    """Return for each layer of a model what distinguishes its kind."""
    fields: dict[str, Any] = {**definition.config, **definition.model}
    number = int(fields["num_layers"])
    lists = [expanded(name, fields[name], number) for name in PER_LAYER if fields.get(name) is not None]
    return [tuple(str(values[layer]) for values in lists) for layer in range(number)]


def short_definition(definition: ModelDefinition) -> ModelDefinition:
    """Return the model cut after the last layer that stands for its kind."""
    return definition.without_split().override({"num_layers": 1 + max(_standing_for(kinds(definition)))})


def _standing_for(found: list[tuple[str, ...]]) -> list[int]:
    """Return for each layer of a model the layer that is measured for it: the first of its kind.

    Layer 0 stands for itself only, where another is of its kind: its input needs no gradient.
    """
    return [0 if not layer else found.index(kind, 1) for layer, kind in enumerate(found)]


def measured(
    definition: ModelDefinition,
    lora: CanonicalLoRA,
    layout: Layout,
    seq_length: int,
    overrides: Mapping[str, Any],
) -> Unit:
    """Return the costs of one rank of `layout`, whose pipeline is ignored.

    Call it inside `megatron_on("meta")`.

    Args:
        definition: the model.
        lora: the adapters.
        layout: of which tp, cp, ep and etp are taken.
        seq_length: tokens of a row.
        overrides: the fields of the model's config that the user set.
    """
    from clora_inspect.cost.fusions import usual_fusions
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster

    alone = msgspec.structs.replace(layout, pp=1, vpp=1, world_size=None)
    short = short_definition(definition)
    with virtual_cluster(alone):
        [chunk] = build_chunks(short, alone)
        lora([chunk])
        with usual_fusions([chunk], overrides):
            parts, states, loss_peak = _run(chunk, seq_length)
    blocks = definition.kind.blocks_per_layer
    layers = tuple(
        parts[layer * blocks + block] for layer in _standing_for(kinds(definition)) for block in range(blocks)
    )
    return Unit(layers, parts["embedding"], parts["output"], states, loss_peak)


def _run(chunk: nn.Module, seq_length: int) -> tuple[dict[Any, Cost], int, int]:
    """Run a row of `seq_length` tokens forward and backward; return what each part costs, the
    bytes of the states between layers, and the peak beside what layers keep.
    """
    from clora.linears import language_model, unwrap
    from clora_inspect.cost.flops import FlopCount
    from clora_inspect.cost.live import LiveBytes
    from clora_inspect.cost.microbatch import MicroBatch, backward, forward
    from clora_inspect.cost.operations import counting
    from clora_inspect.cost.ownership import Ownership, during_forward
    from clora_inspect.cost.traffic import TrafficCount

    model: Any = language_model(unwrap(chunk))
    parts: dict[Any, Cost] = {"embedding": Cost(), "output": Cost()}
    owner: Ownership[Any] = Ownership("output")
    flops, traffic = FlopCount(owner), TrafficCount(owner)
    states: list[int] = []
    with ExitStack() as stack:
        during_forward(stack, owner, model.embedding, "embedding")
        for number, layer in enumerate(model.decoder.layers):
            parts[number] = Cost()
            during_forward(stack, owner, layer, number)
        hook = model.embedding.register_forward_hook(lambda _module, _args, output: states.append(output.nbytes))
        stack.callback(hook.remove)
        _weigh(model, parts)
        stack.enter_context(_kept(chunk, owner, parts))
        stack.enter_context(counting(flops, traffic, _Largest(owner, parts)))
        for parameter in chunk.parameters():
            if parameter.requires_grad:
                # megatron-core adds a gradient to its buffer and drops it.
                stack.callback(parameter.register_post_accumulate_grad_hook(_drop_gradient).remove)  # type: ignore[no-untyped-call]
        live = LiveBytes([*chunk.parameters(), *chunk.buffers()])
        passed = forward(chunk, MicroBatch(seq_length), observers=[live])
        backward(passed, observers=[live])
        end = live.moment
        del passed
    for (part, phase), number in flops.sums.items():
        setattr(parts[part], phase.value, number)
    for (axis, _collective, phase, part), (_bytes, sent, _calls) in traffic.sums.items():
        by_axis: dict[str, int] = getattr(parts[part], f"sent_{phase}")
        by_axis[axis] = by_axis.get(axis, 0) + sent
    kept = sum(cost.activations for part, cost in parts.items() if isinstance(part, int))
    return parts, states[0], max(live.peak(0, end) - kept, 0)


def _drop_gradient(parameter: Any) -> None:
    parameter.grad = None


def _weigh(model: Any, parts: dict[Any, Cost]) -> None:
    """Add the parameters of each part."""
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part: Any = int(words[2]) if words[:2] == ["decoder", "layers"] else "output"
        cost = parts["embedding" if words[0] == "embedding" else part]
        cost.weights += parameter.numel() * parameter.element_size()
        if parameter.requires_grad and vars(parameter).get("allreduce", True):
            cost.trained += parameter.numel()
        elif parameter.requires_grad:
            cost.trained_experts += parameter.numel()


@contextmanager
def _kept(chunk: nn.Module, owner: Any, parts: dict[Any, Cost]) -> Iterator[None]:
    """Add what autograd keeps for the backward: each storage once, and no parameter."""
    from torch.autograd.graph import saved_tensors_hooks

    # A storage is known by its address as long as it lives, so all of them are held.
    seen = {p.untyped_storage()._cdata: p.untyped_storage() for p in chunk.parameters()}  # noqa: SLF001

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:  # noqa: SLF001 - meta storages have no address of data
            seen[storage._cdata] = storage  # noqa: SLF001
            parts[owner.now()[0]].activations += storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


class _Largest:
    """Finds the largest tensor that an operation returns in each part."""

    def __init__(self, owner: Any, parts: dict[Any, Cost]) -> None:
        self._owner = owner
        self._parts = parts

    def count_of(self, _operation: Any) -> Callable[..., None]:
        import torch

        def count(_args: Any, _options: Any, result: Any) -> None:
            if isinstance(result, torch.Tensor):
                size = result.numel() * result.element_size()
                part = self._parts[self._owner.now()[0]]
                part.largest = max(part.largest, size)

        return count
