"""What an adapted linear does: its own forward, plus its adapter's. Forward only; `clora.surgery`
makes and unmakes it.

An adapted linear *is* its base: the same module object with the same parameters under the same
names, in a class that derives from the base's own and has the methods of a wrapper here. So
whatever megatron-core does with a linear keeps working (reading `weight`, `config` or
`in_features`, `isinstance`, `backward_dw`, forward hooks), a base checkpoint loads as before, and
undoing it gives back the module that was there. The adapter is one more child, `adapter`.
"""

from __future__ import annotations

from types import new_class
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from clora.adapters import shared_hidden
from clora.checkpoint import adapted_sharded_state_dict, adapter_sharded_state_dict
from clora.errors import MergeError
from clora.linears import linear_class
from clora.packed import packed_sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora.adapters import Adapter, ParallelLinearAdapter
    from clora.fused import RankRows
    from clora.linears import Wiring
    from clora.plan import Placement


class ModuleDict(nn.ModuleDict):
    """The adapters of a fused linear by canonical part (`adapter_q`, ...), which a distributed
    checkpoint saves one by one.
    """

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """megatron-core's sharded tensors of all adapters."""
        return adapter_sharded_state_dict(self, prefix, sharded_offsets, metadata)


class Adapted(nn.Module):
    """What all adapted linears share. Never made by itself: `clora.surgery` gives a base module a
    class derived from it.
    """

    adapter: Any
    """One adapter, or a `ModuleDict` of them by canonical part."""
    adapter_enabled: bool
    placements: tuple[Placement, ...]
    """What the plan said of this module, one placement per adapter."""
    wiring: Wiring
    base_class: Any
    """The class that the module had before, and whose methods are the base's."""
    base_weights: dict[str, torch.Tensor | None]
    """While it is merged: copies of the base's weights by name, None for one that was not kept."""
    enabled_before_merge: bool
    """While it is merged: whether its adapters counted before."""
    post_layernorm: Any
    """The norm of the base's output, where `wiring.norm_of_output`."""

    @property
    def to_wrap(self) -> Adapted:
        """The base, for code that asks a wrapper for it: the module itself."""
        return self

    @property
    def adapters(self) -> dict[str | None, Adapter]:
        """Canonical part -> adapter; the key is None where the linear is adapted as a whole."""
        if isinstance(self.adapter, ModuleDict):
            return {key.removeprefix("adapter_"): cast("Adapter", child) for key, child in self.adapter.items()}
        return {None: self.adapter}

    @property
    def is_merged(self) -> bool:
        """Whether the adapters are folded into the base's weight."""
        return "base_weights" in self.__dict__

    def enable_adapter_layers(self) -> None:
        """Let the adapters count.

        Raises:
            MergeError: they are in the base's weight.
        """
        self.set_enabled(enabled=True)

    def disable_adapter_layers(self) -> None:
        """Let the module compute what its base computes.

        Raises:
            MergeError: the adapters are in the base's weight.
        """
        self.set_enabled(enabled=False)

    def set_enabled(self, *, enabled: bool) -> None:
        """Let the adapters count, or not; refused while they are in the base's weight."""
        if self.is_merged:
            raise MergeError(
                "The adapters are merged: they count as long as they are in the base's weights, and cannot be switched on or off. "
                "Undo it first: clora.unmerge_adapters(model)."
            )
        self.adapter_enabled = enabled

    def backward_dw(self) -> None:
        """The base's delayed weight gradients, where it has any: a frozen base has put none aside."""
        if any(parameter.requires_grad for parameter in self.parameters(recurse=False)):
            self.base_class.backward_dw(self)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """megatron-core's sharded tensors of the base, as without adapters, and of the adapters."""
        return adapted_sharded_state_dict(self, prefix, sharded_offsets, metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle (and so deepcopy) by the two classes that this one is made of, because it has no
        importable name.
        """
        base, wrapper = type(self).__bases__
        return _empty_adapted, (wrapper, base), self.__dict__

    def _base_forward(
        self, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """Run the base, up to a norm of its output.

        Returns:
            Its output; the input that the adapter shares with its weight; and what else it returns.
        """
        base = linear_class(self.base_class) if self.wiring.norm_of_output else self.base_class
        result = base.forward(self, x, *args, **kwargs)
        if isinstance(result, torch.Tensor):
            return result, x, ()
        out, *rest = result
        if not self.wiring.norm_inside:
            return out, x, tuple(rest)
        if isinstance(out, tuple):
            out, normed = out
        else:
            normed = rest.pop()
        return out, normed, tuple(rest)


class LoRALinear(Adapted):
    """A linear with one adapter: `y = W x + scale B A x`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the base returns, its output with the adapter's delta."""
        out, shared_x, rest = self._base_forward(x, *args, **kwargs)
        if self.adapter_enabled:
            delta = self.adapter(shared_x, *args)
            if delta.shape[-1] != out.shape[-1]:
                delta = self.adapter.communication.gather_output(delta)
            out = out + delta.to(out.dtype)
        if self.wiring.norm_of_output:
            out = self.post_layernorm(out)
        return (out, *rest) if rest else out


class _LoRALinearSplit(Adapted):
    """A fused linear with an adapter for each of (some of) its canonical parts."""

    rows: RankRows
    """How this rank's output rows are packed."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the base returns, the rows of each adapted part with that adapter's delta."""
        out, shared_x, rest = self._base_forward(x, *args, **kwargs)
        if self.adapter_enabled:
            out = packed_sum(out, self._deltas(shared_x), self.rows)
        return (out, *rest) if rest else out

    def _deltas(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        adapters = cast("dict[str, ParallelLinearAdapter]", self.adapters)
        hs = shared_hidden([*adapters.values()], x)
        cut = {} if self.rows.whole_blocks else {s.part: slice(s.start, s.start + s.rows) for s in self.rows.stretches}
        return {part: adapter.delta(h, cut.get(part)) for (part, adapter), h in zip(adapters.items(), hs, strict=True)}


class LoRALinearSplitQKV(_LoRALinearSplit):
    """`linear_qkv` with adapters for q, k and v, or for some of them."""


class LoRALinearSplitFC1UpGate(_LoRALinearSplit):
    """A gated `linear_fc1` with adapters for up and gate, or for one of them."""


class LoRATopKRouter(Adapted):
    """A mixture-of-experts router with an adapter on its gating logits. Routing, losses and expert
    bias stay the base's.
    """

    def gating(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., hidden]` -> logits `[..., experts]`, in the dtype that the base computes them in."""
        logits: torch.Tensor = self.base_class.gating(self, x)
        return logits + self.adapter.logits(x, logits.dtype) if self.adapter_enabled else logits


_classes: dict[tuple[type[Adapted], type[nn.Module]], type[Adapted]] = {}


def adapted_class(wrapper: type[Adapted], base: type[nn.Module]) -> type[Adapted]:
    """The class of a `base` module that is adapted as `wrapper`; it goes by the wrapper's name.

    The base comes first among its bases, for only so has an object of it the memory layout of the
    base's, which Python asks for when an object changes its class. The wrapper's methods are
    therefore the class's own.
    """
    if known := _classes.get((wrapper, base)):
        return known
    methods = {
        name: value
        for cls in reversed(wrapper.__mro__)
        if issubclass(cls, Adapted)
        for name, value in vars(cls).items()
        if callable(value) and (name == "__reduce__" or not name.startswith("__"))
    }
    own = {**methods, "base_class": base, "__module__": wrapper.__module__, "__doc__": wrapper.__doc__}
    cls = new_class(wrapper.__name__, (base, wrapper), exec_body=lambda namespace: namespace.update(own))
    _classes[wrapper, base] = made = cast("type[Adapted]", cls)
    return made


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Name and module of everything adapted in `model`."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Adapted))


def base_class_of(module: nn.Module) -> type[nn.Module]:
    """The class of `module` without surgery."""
    return cast("type[nn.Module]", module.base_class) if isinstance(module, Adapted) else type(module)


def base_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of `module` without surgery."""
    return (
        (name, child)
        for name, child in module.named_children()
        if not (isinstance(module, Adapted) and name == "adapter")
    )


def _empty_adapted(wrapper: type[Adapted], base: type[nn.Module]) -> Adapted:
    cls = adapted_class(wrapper, base)
    return cls.__new__(cls)
