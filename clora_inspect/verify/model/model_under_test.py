"""`ModelUnderTest`: what a proof is about: models of one definition, made afresh as often as a proof
likes, on this rank of one layout.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import torch

from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.model import batch, values
from clora_inspect.verify.model.dtypes import BOUNDS
from clora_inspect.verify.model.running import unwrapped
from clora_inspect.verify.model.shards import randomise
from clora_inspect.verify.model.sites import Site, sites_of
from clora_inspect.verify.model.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA
    from clora.plan import Plan
    from clora_inspect.job.layout import Layout
    from clora_inspect.sources.definition import ModelDefinition
    from clora_inspect.verify.implementation.protocol import Implementation
    from clora_inspect.verify.model.batch import Batch

T = TypeVar("T")

LENGTH = 16
"""Tokens in a row: more than a small model's attention window, a multiple of every tp."""

VOCABULARY = 128
"""Tokens of a model that does not say how many it knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptedModel:
    """A model with adapters, what was planned for it, and the adapters that were found in it."""

    chunks: list[nn.Module]
    plan: Plan
    sites: list[Site]

    @property
    def planned(self) -> list[Site]:
        """The adapters that the plan knows."""
        return [site for site in self.sites if site.placement is not None]


@dataclass(frozen=True, kw_only=True)
class ModelUnderTest:
    """One rank's view of what is proved."""

    definition: ModelDefinition
    layout: Layout
    lora: CanonicalLoRA
    implementation: Implementation
    seed: int = 1234
    ranks: int = 1
    layers: tuple[int, ...] = ()
    """The job's layer for each of the model's."""
    ends: bool = True
    """Whether the model has its embedding and output layer; False for a layer by itself, which gets
    states and gives states.
    """
    streamed: bool = False
    """At true width: values are drawn in place, and what costs several copies of the model is left
    out.
    """
    recompute: dict[str, Any] = field(default_factory=dict)
    """The job's own settings of activation recomputation."""
    weights: Path | None = None
    """A distributed checkpoint for the base's values; drawn ones when None."""
    whole_lora: CanonicalLoRA | None = None
    """The same LoRA for the model on one rank, where targets name layers by the numbers of a stage;
    None: `lora` says it there as well.
    """

    @property
    def is_megatron(self) -> bool:
        """Whether megatron-core can save the model and wrap it; a user's function may return any
        module.
        """
        from megatron.core.transformer import MegatronModule

        return not self.definition.is_user_function or all(isinstance(chunk, MegatronModule) for chunk in self.base())

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's parameters."""
        dtype: torch.dtype = getattr(torch, self.dtype_name)
        return dtype

    @property
    def dtype_name(self) -> str:
        """As the definition has it."""
        name: str = self.definition.config.get("params_dtype", "float32")
        return name

    @property
    def bound(self) -> float:
        """What rounding explains, relative to the largest value."""
        return BOUNDS[self.dtype_name]

    @cached_property
    def vocabulary(self) -> int:
        """Tokens that there are. What a function makes says it itself, as megatron-core's language
        models do.
        """
        if self.definition.is_user_function:
            return int(getattr(unwrapped(self.base()[0]), "vocab_size", VOCABULARY))
        return int(self.definition.model.get("vocab_size", VOCABULARY))

    def batch(self, length: int = LENGTH, *, rows: int = batch.ROWS) -> Batch:
        """What goes into the model."""
        if self.ends:
            return batch.tokens(length, self.vocabulary, self.seed, rows=rows)
        return batch.states(length, self.definition.config["hidden_size"], self.dtype, self.seed, rows=min(rows, 2))

    def base(self, **fields: Any) -> list[nn.Module]:
        """This rank's model, without adapters.

        Args:
            fields: of the model's config, in place of the definition's.
        """
        from clora_inspect.verify.model.building import built

        if self.streamed:
            gc.collect()  # the last layer, before this one is built
        with quiet():
            chunks = self.together(lambda: built(self._definition(fields), self.layout, ends=self.ends))
            if self.weights is not None:
                load_weights(chunks, self.weights)
            else:
                values.fill(chunks, seed=self.seed, whole=not self.streamed)
        return chunks

    def adapted(self, *, random_a: bool = True, random_b: bool = True, **fields: Any) -> AdaptedModel:
        """This rank's model, adapted; A and B as the implementation leaves them, or with values
        that are not small.
        """
        chunks = self.base(**fields)
        return self.adapt(chunks, random_a=random_a, random_b=random_b)

    def adapt(self, chunks: list[nn.Module], *, random_a: bool = True, random_b: bool = True) -> AdaptedModel:
        """`chunks`, adapted in place."""
        with quiet():
            plan, adapted = self.together(
                lambda: (self.lora.plan(chunks), self.implementation.apply(chunks, replace(self.lora)))
            )
        made = AdaptedModel(chunks=adapted, plan=plan, sites=sites_of(adapted, plan.placements))
        if random_a:
            randomise(made.planned, seed=self.seed, b=random_b)
        return made

    def everywhere(self, value: T) -> list[T]:
        """Every rank's value, in rank order. Called on all ranks together."""
        if self.ranks == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value)
        return values

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` on all ranks; when it fails on one, it fails on all, and none waits for
        another forever.
        """
        from clora_inspect.verify.model.together import together

        return together(self.everywhere, action)

    def alone(self) -> ModelUnderTest:
        """The same on one rank, while `serial.alone` makes this rank the only one of its model:
        without a pipeline, and so without its split.
        """
        from clora_inspect.job.layout import Layout

        return replace(
            self, layout=Layout(), definition=self.definition.without_split(), lora=self.whole_lora or self.lora
        )

    def _definition(self, fields: dict[str, Any]) -> ModelDefinition:
        if not fields:
            return self.definition
        return msgspec.structs.replace(self.definition, config={**self.definition.config, **fields})


def all_sites(subject: ModelUnderTest, sites: Iterable[Site]) -> list[tuple[int, int, str, str]]:
    """(stage, chunk, module, part) of the adapters of all ranks, each once, in one order for all:
    what is done site by site is done together.
    """
    from megatron.core import parallel_state as mpu

    stage = mpu.get_pipeline_model_parallel_rank()
    own = [(stage, *site.key) for site in sites]
    return list(dict.fromkeys(key for keys in subject.everywhere(own) for key in keys))
