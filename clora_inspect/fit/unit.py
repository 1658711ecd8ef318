"""Measure what the layers of a model cost one rank, from one micro-batch of one row on meta.

A short model with each kind of layer is built on one pipeline stage and run as `plan --memory` runs
a stage, cut at the borders of its layers. Every layer of the whole model costs what one of its kind
costs here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.cost.span import NOTHING, Span
from clora_inspect.sources.definition import PER_LAYER, ModelDefinition
from clora_inspect.verify.small.shrink import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA
    from clora_inspect.cost.borders import Part
    from clora_inspect.cost.static import Trained
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.workload import Workload


@dataclass(slots=True)
class Cost:
    """The costs of one part of a model (a layer, or one of its ends) on one rank for one row."""

    weights: int = 0
    """Bytes of the parameters that all ranks of ep hold, adapters included."""
    expert_weights: int = 0
    """Bytes of the parameters of routed experts."""
    buffers: int = 0
    trained: Counter[Trained] = field(default_factory=Counter)
    forward: Span = NOTHING
    """How the bytes that are alive change while it runs forward."""
    backward: Span = NOTHING
    held: int = 0
    """Bytes that stay between micro-batches."""
    behind: int = 0
    """Bytes that its backward leaves until the next forward."""
    operations: int = 0
    """Floating-point operations, forward and backward."""
    sent: dict[str, int] = field(default_factory=dict)
    """Axis -> bytes that the rank sends."""
    sent_forward: dict[str, int] = field(default_factory=dict)
    """The part of them that it sends in the forward."""

    def add_sent(self, axis: str, size: int, *, is_forward: bool) -> None:
        self.sent[axis] = self.sent.get(axis, 0) + size
        if is_forward:
            self.sent_forward[axis] = self.sent_forward.get(axis, 0) + size


@dataclass(frozen=True, slots=True)
class Unit:
    """The costs of the parts of a model for one way to split a layer."""

    kinds: tuple[Cost, ...]
    """The costs of each layer that was measured."""
    layers: tuple[int, ...]
    """For each layer of the whole model the index in `kinds` of the one that stands for it."""
    embedding: Cost
    output: Cost
    """Final norm, prediction layers, output layer and loss."""
    states: int
    """Bytes of the hidden states between two layers."""
    released: int
    """Bytes of what the embedding returns, if it is let go when the first stage's forward ends."""
    left: int
    """Bytes that a backward leaves once."""
    freed: int
    """Bytes of the states that a stage frees when it has handed them on."""
    overlap: int
    """Bytes of buffers in which messages overlap with products."""
    copied: int
    """Bytes of the embedding that the last of several stages holds as well."""


@dataclass(frozen=True, slots=True)
class Short:
    """A model with few layers that stand for all layers of another."""

    definition: ModelDefinition
    layers: tuple[int, ...]
    """For each layer of the other model, as megatron-core counts them, the one here."""


def kinds(definition: ModelDefinition) -> list[tuple[str, ...]]:
    """Return for each layer of a model what distinguishes its kind."""
    fields: dict[str, Any] = {**definition.config, **definition.model}
    number = int(fields["num_layers"])
    lists = [expanded(name, fields[name], number) for name in PER_LAYER if fields.get(name) is not None]
    return [tuple(str(values[layer]) for values in lists) for layer in range(number)]


def shortened(definition: ModelDefinition, alone: int = 1) -> Short:
    """Return the model cut behind the last layer that stands for its kind.

    Args:
        definition: the whole model.
        alone: the first layers, which stand for themselves only, where others are of their kind:
            their input needs no gradient, because nothing before it is trained.
    """
    found = kinds(definition)
    standing = [
        layer if layer < alone or kind not in found[alone:layer] else found.index(kind, alone)
        for layer, kind in enumerate(found)
    ]
    if definition.config.get("recompute_granularity") == "full" and definition.has_experts:
        # Of the last layer's output no other layer holds the gradient.
        last = next((layer for layer in range(1 + max(standing), len(found)) if found[layer] == found[-1]), None)
        standing[-1] = standing[-1] if last is None else last
    blocks = definition.kind.blocks_per_layer
    return Short(
        definition.without_split().override({"num_layers": 1 + max(standing)}),
        tuple(layer * blocks + block for layer in standing for block in range(blocks)),
    )


@dataclass(frozen=True, slots=True)
class RunFields:
    """Fields of the model's config that count only while it runs."""

    of_run: Mapping[str, Any]
    """Fields that a run of Megatron-Bridge has and no module reads."""
    written: frozenset[str]
    """Names of the fields that somebody has set. They stay as they are."""


def measured(
    definition: ModelDefinition, lora: CanonicalLoRA, layout: Layout, workload: Workload, fields: RunFields
) -> Unit:
    """Return the costs of one rank of `layout`, whose pipeline is ignored.

    Call it inside `megatron_on("meta")`.

    Args:
        definition: the model.
        lora: the adapters.
        layout: of which tp, cp, ep and etp are taken.
        workload: of which the tokens of a row are taken.
        fields: of the model's config, beside those of `definition`.

    Raises:
        CloraError: the model cannot be built or adapted so.
    """
    from clora_inspect.sources.build import build_chunks
    from clora_inspect.virtual import virtual_cluster

    alone = msgspec.structs.replace(layout, pp=1, vpp=1, world_size=None)
    short = shortened(definition)
    with virtual_cluster(alone):
        [chunk] = build_chunks(short.definition, alone)
        lora([chunk])
        frozen = _frozen_at_the_start(chunk, definition.kind.blocks_per_layer)
        if frozen:
            short = shortened(definition, frozen + 1)
            [chunk] = build_chunks(short.definition, alone)
            lora([chunk])
        return _measured(chunk, short, alone, msgspec.structs.replace(workload, micro_batch_size=1), fields)


def _measured(chunk: nn.Module, short: Short, layout: Layout, workload: Workload, fields: RunFields) -> Unit:
    from clora.linears import language_model, unwrap
    from clora_inspect.cost.between_micro_batches import handed_on
    from clora_inspect.cost.borders import Borders
    from clora_inspect.cost.flops import FlopCount
    from clora_inspect.cost.fusions import run_settings, usual_fusions
    from clora_inspect.cost.memory import overlap_lines, runs_of
    from clora_inspect.cost.operations import counting
    from clora_inspect.cost.traffic import TrafficCount
    from clora_inspect.job.traffic import Phase

    model: Any = language_model(unwrap(chunk))
    layers = list(model.decoder.layers)
    parts: dict[Part, Cost] = {part: Cost() for part in ("before", *range(len(layers)), "behind")}
    _weigh(model, parts)
    borders = Borders(layers)
    flops, traffic = FlopCount(borders), TrafficCount(borders)
    with run_settings([chunk], fields.of_run), usual_fusions([chunk], fields.written):
        [run] = runs_of([chunk], workload, [counting(flops, traffic)], borders)
        frees: bool = model.config.deallocate_pipeline_outputs
        overlap = sum(line.bytes for line in overlap_lines(model.config, layout, workload))
    states = handed_on(model.config, workload, layout)
    for cost, span, held, behind in zip(parts.values(), run.forward, run.held, run.behind, strict=True):
        cost.forward, cost.held, cost.behind = span, held, behind
    for part, span in zip(reversed(list(parts)[1:]), run.backward, strict=True):
        parts[part].backward = span
    for (part, _phase), number in flops.sums.items():
        parts[part].operations += number
    for (axis, _collective, phase, part), (_bytes, sent, _calls) in traffic.sums.items():
        parts[part].add_sent(axis, sent, is_forward=phase is Phase.FORWARD)
    return Unit(
        kinds=tuple(parts[number] for number in range(len(layers))),
        layers=short.layers,
        embedding=parts["before"],
        output=parts["behind"],
        states=states,
        released=run.released,
        left=run.left,
        freed=states if frees else 0,
        overlap=overlap,
        copied=_copied(model),
    )


def _frozen_at_the_start(chunk: nn.Module, blocks: int) -> int:
    """Return the number of layers before the first one in which something is trained."""
    from clora.linears import language_model, unwrap

    model: Any = language_model(unwrap(chunk))
    for number, layer in enumerate(model.decoder.layers):
        if any(parameter.requires_grad for parameter in layer.parameters()):
            return number // blocks
    return 0


def _weigh(model: Any, parts: Mapping[Part, Cost]) -> None:
    """Add the parameters and buffers of each part."""
    from clora_inspect.cost.static import is_expert, trained_of

    for name, parameter in model.named_parameters():
        cost = parts[_part_of(name)]
        size = parameter.untyped_storage().nbytes()
        if is_expert(name, parameter):
            cost.expert_weights += size
        else:
            cost.weights += size
        if parameter.requires_grad:
            cost.trained[trained_of(name, parameter)] += 1
    for name, buffer in model.named_buffers():
        parts[_part_of(name)].buffers += buffer.untyped_storage().nbytes()


def _part_of(name: str) -> Part:
    words = name.split(".")
    if words[:2] == ["decoder", "layers"]:
        return int(words[2])
    return "before" if words[0] == "embedding" else "behind"


def _copied(model: Any) -> int:
    """Return the bytes of the embedding's weights on the last of several stages: one copy as
    output weights that are tied to it, one for prediction layers.
    """
    weight = model.embedding.word_embeddings.weight
    copies = bool(model.share_embeddings_and_output_weights) + bool(getattr(model.config, "mtp_num_layers", None))
    return copies * int(weight.untyped_storage().nbytes())
