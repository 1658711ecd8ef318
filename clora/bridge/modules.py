"""Let Megatron-Bridge find adapted linears where it looks for its own.

Its conversion to Hugging Face takes the base of an adapted linear from a parameter that is called
`X.to_wrap.weight`, and knows the adapters of a fused linear by its own `ModuleDict`. A linear of
which it does not see that would be exported without its adapter, and nothing would say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron.bridge.peft import canonical_lora as reference
from megatron.bridge.peft import walk_utils

from clora import wrappers
from clora.bridge.checkpoint import FACTOR
from clora.bridge.conversion import prepare_conversion, refuse_unexported
from clora.errors import MergeError
from clora.linears import chunks_of
from clora.sharding.checkpoint import adapted_sharded_state_dict
from clora.wrappers import Adapted, adapted_class, adapted_modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.linears import Model


class ModuleDict(wrappers.ModuleDict, reference.ModuleDict):
    """The adapters of a fused linear."""


class ForBridge(Adapted):
    """An adapted linear whose base Megatron-Bridge finds at `to_wrap`."""

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Yield path and module of this module and those in it: the base's below `to_wrap`."""
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        outer = f"{prefix}." if prefix else ""
        # torch names parameters by the modules that this yields.
        yield f"{outer}{wrappers.BASE}", self
        for name, child in self.named_children():
            path = f"{outer}adapter" if name == "adapter" else f"{outer}{wrappers.BASE}.{name}"
            yield from child.named_modules(memo, path, remove_duplicate)

    @property
    def to_wrap(self) -> Adapted:
        """The module itself. Megatron-Bridge's conversion reads this before it exports an adapter.

        Raises:
            MergeError: the adapter is in the weight already, or this release cannot export it.
        """
        prepare_conversion()
        refuse_unexported(self)
        return self

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return megatron-core's sharded tensors, of which each of an adapter knows its factor."""
        state = adapted_sharded_state_dict(self, prefix, sharded_offsets, metadata)
        for name, shard in state.items():
            path = name.removeprefix(prefix)
            if path.startswith("adapter."):
                setattr(shard, FACTOR, self.get_submodule(path.removesuffix(".weight")))
        return state

    def map(self, func: Any, leaf_only: bool = False, **named: Any) -> Any:
        """Apply `func` to this module and those in it, when Megatron-Bridge walks a model.

        Raises:
            MergeError: `func` is of Megatron-Bridge's LoRAMerge, which merges its own adapters only
                and would leave this one out.
        """
        if type(getattr(func, "__self__", None)).__name__ == "LoRAMerge":
            raise MergeError(
                f"{self.placements[0].module}: Megatron-Bridge's LoRAMerge knows no canonical adapters and would leave "
                "them out. Call clora.merge_and_unload(model) instead."
            )
        return walk_utils.map(self, func, leaf_only=leaf_only, _skip_map=True, **named)


class LoRALinear(ForBridge, wrappers.LoRALinear):
    pass


class LoRALinearSplitQKV(ForBridge, wrappers.LoRALinearSplitQKV):
    pass


class LoRALinearSplitFC1UpGate(ForBridge, wrappers.LoRALinearSplitFC1UpGate):
    pass


class LoRATopKRouter(ForBridge, wrappers.LoRATopKRouter):
    pass


_FOR_BRIDGE: dict[type[Adapted], type[Adapted]] = {
    cls.__bases__[1]: cls for cls in (LoRALinear, LoRALinearSplitQKV, LoRALinearSplitFC1UpGate, LoRATopKRouter)
}
"""Wrapper -> the same for Megatron-Bridge."""


def prepare_modules(model: Model) -> None:
    """Let Megatron-Bridge find every adapted linear of `model`.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.
    """
    for chunk in chunks_of(model):
        # A list, because the names of a module change while the tree is walked.
        for _, module in list(adapted_modules(chunk)):
            foreign: Any = module
            wrapper = type(module).__bases__[1]
            foreign.__class__ = adapted_class(_FOR_BRIDGE.get(wrapper, wrapper), module.base_class)
            if isinstance(module.adapter, wrappers.ModuleDict):
                module.adapter.__class__ = ModuleDict
