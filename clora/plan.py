"""What surgery will do, as frozen data: a placement for every adapter, and for every other module
the reason why not.

Words: a *placement* is one adapter (the pair A and B) at one module, or at one canonical part of a
fused one. Shapes are written `[rank, in]` for A and `[out, rank]` for B, with a leading `experts`
dim when every expert has a pair of its own. *Local* shapes are one rank's; *global* shapes are the
whole model's. Importing this module imports neither torch nor megatron-core.
"""

from __future__ import annotations

from enum import StrEnum
from math import prod

import msgspec


class Fate(StrEnum):
    """What becomes of a module. The values stand in JSON; `word` is for people."""

    WRAPPED = "wrapped"
    """It, or a canonical part of it, gets an adapter."""
    EXCLUDED = "excluded"
    """An entry of `exclude_modules` names it."""
    UNMATCHED = "not targeted"
    """It could be adapted, and no target names it."""
    NOT_ADAPTABLE = "not adaptable"
    """It has parameters and is neither a linear nor a router: an embedding, a norm, a convolution."""
    NO_PARAMETERS = "no parameters"
    """It owns no parameter itself: a container, an activation, a dropout."""

    @property
    def word(self) -> str:
        """The word for it in messages and on screens."""
        # Plans that were saved before the vocabulary settled say "not targeted".
        return "unmatched" if self is Fate.UNMATCHED else self.value


class ExpertFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a placement inside routed experts shares, and with whom."""

    num_experts: int
    """Routed experts of the layer, all ranks together."""
    num_local_experts: int
    """Routed experts of the layer on one rank."""
    per_expert: bool
    """True when every expert has an A and B of its own; False when the local experts share one
    pair.
    """
    ep: int
    etp: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter, as one rank holds it. Everything surgery needs is here; it decides nothing
    itself.
    """

    module: str
    """Path of the base module inside its model chunk; layer numbers in it are local to the chunk."""
    chunk: int = 0
    """Virtual pipeline chunk of the rank that holds the module."""
    global_layer: int | None
    """Zero-based number of the decoder layer in the whole model; None outside the layers."""
    part: str | None
    """Canonical part of a fused base: q, k, v, up, gate; None when the module is adapted as a
    whole.
    """
    base_class: str
    wrapper: str
    adapter_class: str
    dim: int
    """LoRA rank of this adapter."""
    alpha: float
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    a_global_shape: tuple[int, ...]
    b_global_shape: tuple[int, ...]
    a_axes: tuple[str | None, ...]
    """Mesh axis that splits each dim of A ("tp", "etp", "ep"), None for a dim that every rank holds
    whole.
    """
    b_axes: tuple[str | None, ...]
    target: str | None
    """The string of `target_modules` that chose it; None when all linears are wrapped but the
    excluded ones.
    """
    by_number: bool = False
    """A target (or exclusion) that names layers or experts by number decided: their siblings may
    have no such adapter.
    """
    experts: ExpertFacts | None = None
    copies: int = 1
    """Modules of the whole model that this one stands for: a sequential expert stands for one on
    every ep rank.
    """
    params: int
    """Parameters of A and B on this rank."""

    @property
    def model_params(self) -> int:
        """Parameters of A and B in the whole model, each counted once."""
        return (prod(self.a_global_shape) + prod(self.b_global_shape)) * self.copies

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by: alpha / dim."""
        return self.alpha / self.dim

    @property
    def at(self) -> str:
        """Path and canonical part in one word: `decoder.layers.0.self_attention.linear_qkv[q]`."""
        return f"{self.module}[{self.part}]" if self.part else self.module


class Skip(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """One module (or one canonical part of a partly adapted module) that gets no adapter, and why."""

    module: str
    chunk: int = 0
    global_layer: int | None
    part: str | None = None
    class_name: str
    reason: Fate
    """Never `Fate.WRAPPED`."""
    by: str | None = None
    """The pattern that excluded it, or what is in the way."""
    linears: int = 0
    """Canonical linears that go unadapted here: 3 for a whole `linear_qkv`, 0 for what is no
    linear.
    """
    params: int = 0
    """Base parameters that the module itself holds on this rank (not its children's)."""
    copies: int = 1


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All placements of one rank, and every other module with its reason."""

    placements: tuple[Placement, ...]
    skipped: tuple[Skip, ...]
    matches: dict[str, int]
    """Target -> how many canonical linears it selects on this rank; 0 for one that selects none
    here.
    """
    base_params: int
    """Parameters of the base model on this rank."""
    model_params: int
    """Parameters of the whole model that this rank has a share of, each counted once (tied copies
    left out).
    """

    @property
    def trainable_params(self) -> int:
        """Adapter parameters on this rank."""
        return sum(placement.params for placement in self.placements)

    @property
    def wrapped_modules(self) -> int:
        """Base modules with at least one adapter on this rank."""
        return len({(placement.chunk, placement.module) for placement in self.placements})

    @property
    def unmatched_targets(self) -> tuple[str, ...]:
        """Targets that select nothing on this rank. On a pipeline stage that may be right; over all
        stages it is not.
        """
        return tuple(target for target, count in self.matches.items() if not count)
