"""`Plan`: surgery as frozen data, a placement for each adapter and a skip for all other modules.

A *placement* is one adapter (the pair A and B) at a module, or at one canonical part of a fused
module. Shapes are `[rank, in]` for A and `[out, rank]` for B, with a leading `experts` dim when
each expert has a pair of its own. *Local* shapes are those of one rank, *global* shapes those of
the whole model. Importing this module imports neither torch nor megatron-core.
"""

from __future__ import annotations

from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn


class Fate(StrEnum):
    """The fate of a module in surgery. The values stand in JSON; `word` is for people."""

    WRAPPED = "wrapped"
    """It, or a canonical part of it, gets an adapter."""
    EXCLUDED = "excluded"
    """An entry of `exclude_modules` names it."""
    UNMATCHED = "not targeted"
    """It could be adapted, and no target names it."""
    NOT_ADAPTABLE = "not adaptable"
    """It has parameters and is neither a linear nor a router, such as an embedding or a norm."""
    NO_PARAMETERS = "no parameters"
    """It owns no parameter itself: a container, an activation, a dropout."""

    @property
    def word(self) -> str:
        """The word for it in messages and on screens."""
        # Saved plans say "not targeted", and readers of their JSON rely on it.
        return "unmatched" if self is Fate.UNMATCHED else self.value


# `clora-inspect plan -f json` writes these structs field by field, and old plans must stay
# readable. So a new field needs a default; `kw_only` lets it stand beside the fields that it
# belongs to.


class ExpertFacts(msgspec.Struct, frozen=True, kw_only=True):
    """How the experts that a placement adapts are spread over ranks, and what they share."""

    num_experts: int
    """Number of routed experts of the layer in the whole model."""
    num_local_experts: int
    """Number of routed experts of the layer on one rank."""
    per_expert: bool
    """True if each expert has an A and B of its own; otherwise all local experts share a pair."""
    ep: int
    """Expert-parallel ranks over which the experts are spread."""
    etp: int
    """Tensor-parallel ranks over which each expert is split."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter on one rank. Surgery builds what stands here and decides nothing itself."""

    module: str
    """Path of the base module in its model chunk. Its layer number is local to the chunk."""
    chunk: int = 0
    """Number of the rank's virtual pipeline chunk that holds the module."""
    global_layer: int | None
    """Number of the layer in the whole model, from 0; None outside the layers."""
    part: str | None
    """Canonical part of a fused module: q, k, v, gate, up. None when the module is adapted as a
    whole.
    """
    base_class: str
    """Class of the base module."""
    wrapper: str
    """Class in `clora.wrappers` that takes the base module's place."""
    adapter_class: str
    """Class in `clora.adapters` that holds A and B."""
    dim: int
    """LoRA rank of the adapter. With `normalize_moe_lora` routed experts have a smaller one."""
    alpha: float
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    a_global_shape: tuple[int, ...]
    b_global_shape: tuple[int, ...]
    a_axes: tuple[str | None, ...]
    """Mesh axis that splits each dim of A: "tp", "etp" or "ep"; None for a dim that each rank holds
    whole.
    """
    b_axes: tuple[str | None, ...]
    """Mesh axis that splits each dim of B, in the words of `a_axes`."""
    target: str | None
    """The entry of `target_modules` that selected it. None when all linears are adapted but the
    excluded ones.
    """
    by_number: bool = False
    """True if a pattern with layer or expert numbers decided. Then siblings of the module may be
    without this adapter, which an adapter checkpoint has to know.
    """
    experts: ExpertFacts | None = None
    """None outside routed experts."""
    copies: int = 1
    """Number of modules of the whole model that this one stands for. A sequential expert stands for
    one on each rank of ep.
    """
    params: int
    """Number of parameters of A and B on this rank."""

    @property
    def model_params(self) -> int:
        """Number of parameters of A and B in the whole model."""
        # The shapes of grouped experts have all experts in them. Sequential ones need `copies`.
        return (prod(self.a_global_shape) + prod(self.b_global_shape)) * self.copies

    @property
    def scale(self) -> float:
        """The factor of the product B A: alpha / dim."""
        return self.alpha / self.dim

    @property
    def at(self) -> str:
        """Path and canonical part: `decoder.layers.0.self_attention.linear_qkv[q]`."""
        return f"{self.module}[{self.part}]" if self.part else self.module


class Skip(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """A module that gets no adapter, or such a part of a partly wrapped module, and why."""

    module: str
    chunk: int = 0
    global_layer: int | None
    part: str | None = None
    class_name: str
    reason: Fate
    """Never `Fate.WRAPPED`."""
    by: str | None = None
    """The entry of `exclude_modules` that excluded it."""
    linears: int = 0
    """Number of canonical linears that get no adapter here: 3 for a whole `linear_qkv`, 0 for a
    module that is no linear.
    """
    params: int = 0
    """Number of base parameters of the module itself on this rank, without its children's."""
    own_parameters: tuple[str, ...] = ()
    """Names of these parameters if the module has others below it, which may well be adapted: the
    gate of shared experts, `A_log` of a Mamba mixer. Empty for a module without children.
    """
    copies: int = 1
    """Number of modules of the whole model that this one stands for, see `Placement.copies`."""
    weight_params: int = 0
    """Number of elements of the weight of these linears in the whole model, each counted once; 0
    for a module that is no linear.
    """


class TowerKind(StrEnum):
    """The kind of data that a tower reads or writes."""

    LANGUAGE = "language"
    VISION = "vision"
    AUDIO = "audio"
    PROJECTOR = "projector"
    """Between a vision or audio tower and the language model."""


class Tower(msgspec.Struct, frozen=True, kw_only=True):
    """One of the models that a model of several modalities is made of."""

    path: str
    """Path of its module in the model; empty for the model itself. A module belongs to the tower
    with the longest path above it.
    """
    kind: TowerKind
    blocks: tuple[str, ...] = ()
    """Paths of its stacks of layers, such as `language_model.decoder`. T5 has two of them."""
    gated: bool | None = None
    """True if its MLPs have a gate; None where it has no megatron-core config that tells."""

    @property
    def label(self) -> str:
        """The words for it in tables: `vision_model (vision)`, or `language model` for the model
        itself.
        """
        return f"{self.path} ({self.kind})" if self.path else f"{self.kind} model"


ALONE = (Tower(path="", kind=TowerKind.LANGUAGE, blocks=("decoder",)),)
"""The towers of most models: a language model alone, with its layers in `decoder`."""


def merged_towers(stages: Iterable[tuple[Tower, ...]]) -> tuple[Tower, ...]:
    """Return the towers of the whole model from those that each pipeline stage holds."""
    by_path: dict[str, Tower] = {}
    for tower in (tower for towers in stages for tower in towers):
        known = by_path.get(tower.path, tower)
        blocks = tuple(dict.fromkeys((*known.blocks, *tower.blocks)))
        by_path[tower.path] = Tower(path=known.path, kind=known.kind, blocks=blocks, gated=known.gated)
    return tuple(by_path.values())


def is_prediction(path: str) -> bool:
    """Return whether the module at `path` stands in a block of multi-token prediction, whose layers
    are numbered behind those of the decoder.
    """
    return path.startswith("mtp.") or ".mtp." in path


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one rank: together, placements and skips cover each of its modules."""

    placements: tuple[Placement, ...]
    skipped: tuple[Skip, ...]
    matches: dict[str, int]
    """Target -> number of canonical linears that it selects on this rank, which may be 0."""
    base_params: int
    """Number of parameters of the base model on this rank."""
    model_params: int
    """Number of parameters of the whole model that this rank has a share of. A tied copy does not
    count, so that the sum over all pipeline stages is the model's size.
    """
    towers: tuple[Tower, ...] = ALONE
    """The towers of which this rank holds anything, see `clora.towers`."""

    @property
    def trainable_params(self) -> int:
        """Number of adapter parameters on this rank."""
        return sum(placement.params for placement in self.placements)

    @property
    def wrapped_modules(self) -> int:
        """Number of base modules with at least one adapter on this rank."""
        return len({(placement.chunk, placement.module) for placement in self.placements})

    def check(self, chunks: Sequence[nn.Module]) -> None:
        """Raise when `chunks` are not the ones that the plan is of, before anything is changed.

        A plan of `CanonicalLoRA.plan` is of a model at hand. One that was read from a file
        overrides this.

        Args:
            chunks: the model of this rank without its wrappers, by virtual pipeline chunk.
        """

    @property
    def unmatched_targets(self) -> tuple[str, ...]:
        """Targets that select nothing on this rank.

        Another pipeline stage may have what they select.
        """
        return tuple(target for target, count in self.matches.items() if not count)
