"""`ModelUnderTest`, the argument of every proof. It makes models of one definition, as often as the
proof likes, on this rank of one layout.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model import values
from clora_inspect.verify.model.batch import ROWS, Batch, state_batch, token_batch
from clora_inspect.verify.model.building import build
from clora_inspect.verify.model.dtypes import BOUNDS
from clora_inspect.verify.model.running import unwrapped
from clora_inspect.verify.model.shapes import compare_shapes
from clora_inspect.verify.model.shards import randomise
from clora_inspect.verify.model.sites import Site, SiteKey, sites_of
from clora_inspect.verify.model.together import together
from clora_inspect.verify.model.unfed import Unfed, unfed_towers
from clora_inspect.verify.model.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA
    from clora.plan import Plan
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.implementation.protocol import Implementation

T = TypeVar("T")

LENGTH = 16
"""Tokens in a row: more than a small model's attention window, and a multiple of every tp."""

VOCABULARY = 128
"""Size of the vocabulary of a model that does not say its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModel:
    """A model with adapters on this rank, its plan, and the adapters that were found in it."""

    chunks: list[nn.Module]
    plan: Plan
    sites: list[Site]
    unfed: Unfed = field(default_factory=Unfed)
    """Towers that get no input from the tokens of a proof."""

    @property
    def planned(self) -> list[Site]:
        """The adapters that are in the plan."""
        return [site for site in self.sites if site.placement is not None]


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """One rank's view of the model that is proved. The methods that make a model are called on all
    ranks together.
    """

    definition: ModelDefinition
    layout: Layout
    lora: CanonicalLoRA
    """The job's LoRA without its dropout, which would make two runs differ."""
    implementation: Implementation
    dropout: float = 0.0
    """The job's LoRA dropout. Only the proof `dropout` switches it on (`dropping`)."""
    seed: int = 1234
    ranks: int = 1
    layers: tuple[int, ...] = ()
    """For each layer of this model, the number of the job's layer that it stands for."""
    one_layer: bool = False
    """One layer by itself at its true width, without embedding and output layer: hidden states in,
    hidden states out. Memory has room for it once.
    """
    recompute: dict[str, Any] = field(default_factory=dict)
    """The job's own config fields of activation recomputation."""
    length: int = LENGTH
    """Tokens in a row of the batch."""
    handed_on: int | None = None
    """Tokens in the states between stages, where they are others."""
    weights: Path | None = None
    """A distributed checkpoint with the base's values; drawn values when None."""
    single_rank_lora: CanonicalLoRA | None = None
    """The LoRA for the same model on one rank, if targets name layers by a stage's numbers; None if
    `lora` means the same there.
    """

    @property
    def is_megatron(self) -> bool:
        """True if all chunks are megatron-core modules. A user's function may return any module."""
        from megatron.core.transformer import MegatronModule

        return not self.definition.is_user_function or all(isinstance(chunk, MegatronModule) for chunk in self.base())

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's parameters."""
        dtype: torch.dtype = getattr(torch, self.dtype_name)
        return dtype

    @property
    def dtype_name(self) -> str:
        """Name of the parameters' dtype, for example `bfloat16`."""
        name: str = self.definition.config.get("params_dtype", "float32")
        return name

    @property
    def bound(self) -> float:
        """Largest difference that rounding explains, relative to the largest value."""
        return BOUNDS[self.dtype_name]

    @cached_property
    def unfed(self) -> Unfed:
        """Towers that get no input from the tokens of a proof. All ranks ask for it together."""
        return unfed_towers(self) if self.definition.is_user_function and not self.one_layer else Unfed()

    @cached_property
    def vocabulary(self) -> int:
        """Number of tokens that the model knows."""
        if self.definition.is_user_function:
            return min(self.everywhere(_vocabulary_of(unwrapped(self.base()[0]))))
        return int(self.definition.model.get("vocab_size", VOCABULARY))

    def batch(self, length: int | None = None, *, rows: int = ROWS) -> Batch:
        """Return this data-parallel rank's part of an input of `rows` rows of `length` tokens."""
        handed_on = self.handed_on if length is None else None
        length = length or self.length
        if self.one_layer:
            hidden = self.definition.config["hidden_size"]
            return state_batch(length, hidden, self.dtype, self.seed, rows=min(rows, 2))
        batch = token_batch(length, self.vocabulary, self.seed, rows=rows)
        return replace(batch, handed_on=handed_on)

    def base(self, **fields: Any) -> list[nn.Module]:
        """Make this rank's model without adapters.

        Args:
            fields: config fields in place of the definition's.
        """
        if self.one_layer:
            # Modules can be in reference cycles: without a collection the layer before may still be
            # in memory, which has no room for two.
            gc.collect()
        definition = self.definition
        if fields:
            definition = msgspec.structs.replace(definition, config={**definition.config, **fields})
        with quiet():
            chunks = self.together(lambda: build(definition, self.layout, one_layer=self.one_layer))
            if self.weights is not None:
                load_weights(chunks, self.weights)
            else:
                values.fill(chunks, seed=self.seed, whole=not self.one_layer)
        return chunks

    def adapted(self, *, random_a: bool = True, random_b: bool = True, **fields: Any) -> AdaptedModel:
        """Make this rank's model with adapters.

        Args:
            random_a: give A drawn values that are not small; False leaves A and B as surgery made
                them.
            random_b: give B drawn values as well.
            fields: config fields in place of the definition's.
        """
        return self.adapt(self.base(**fields), random_a=random_a, random_b=random_b)

    def adapt(self, chunks: list[nn.Module], *, random_a: bool = True, random_b: bool = True) -> AdaptedModel:
        """Adapt `chunks` in place. The arguments are those of `adapted`."""
        with quiet():
            # The plan first: after surgery the linears are wrapped. A copy of the LoRA, because an
            # implementation may keep state in it.
            plan, chunks = self.together(
                lambda: (self.lora.plan(chunks), self.implementation.apply(chunks, replace(self.lora)))
            )
        adapted = AdaptedModel(chunks=chunks, plan=plan, sites=sites_of(chunks, plan.placements), unfed=self.unfed)
        # Factors of other shapes have no place for the values that are drawn below.
        self.together(lambda: compare_shapes(adapted.sites))
        if random_a:
            randomise(adapted.planned, seed=self.seed, b=random_b)
        return adapted

    def everywhere(self, value: T) -> list[T]:
        """Return every rank's value, in rank order. Called on all ranks together."""
        if self.ranks == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value)
        return values

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` on all ranks. When it fails on one it fails on all, so that no rank waits
        forever.
        """
        return together(self.everywhere, action)

    def dropping(self) -> ModelUnderTest:
        """Return the same model with the job's LoRA dropout."""
        return replace(self, lora=replace(self.lora, dropout=self.dropout))

    def on_single_rank(self) -> ModelUnderTest:
        """Return the same model on one rank, to be used inside `single_rank`: without a pipeline,
        and so without its split.
        """
        return replace(
            self,
            layout=Layout(),
            definition=self.definition.without_split(),
            lora=self.single_rank_lora or self.lora,
        )


def all_sites(model: ModelUnderTest, sites: Iterable[Site]) -> list[tuple[int, SiteKey]]:
    """Return pipeline stage and key of the adapters of all ranks, each once, in the same order on
    every rank, so that ranks can go through the sites together.
    """
    from megatron.core import parallel_state as mpu

    stage = mpu.get_pipeline_model_parallel_rank()
    own = [(stage, site.key) for site in sites]
    return list(dict.fromkeys(key for keys in model.everywhere(own) for key in keys))


def _vocabulary_of(model: nn.Module) -> int:
    """Return the number of tokens that a user's model knows. megatron-core's language models say
    it; one of them may be anywhere inside.
    """
    sizes = [size for module in model.modules() if isinstance(size := vars(module).get("vocab_size"), int)]
    if not sizes:
        sizes = [module.num_embeddings for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    return min(sizes, default=VOCABULARY)
