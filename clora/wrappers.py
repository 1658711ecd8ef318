"""The classes of adapted linears: the forward of the base, plus the delta of its adapter.

An adapted linear *is* its base: the same module object, with its parameters under their old names.
Only its class changes, to one that derives from the base's class and has the methods of a wrapper
below. The adapter is one more child, `adapter`.

So whatever megatron-core does with a linear keeps working: reading `weight`, `config` or
`in_features`, `isinstance`, `backward_dw`, forward hooks. A base checkpoint loads as before, and
undoing gives back the module that was there. (A wrapper *around* the base would rename all of its
parameters and break each of these.)

`clora.surgery` adapts and restores modules; this file is what an adapted module does.
"""

from __future__ import annotations

import sys
from types import new_class
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from clora.adapters import Adapter, shared_hidden
from clora.errors import MergeError, SurgeryError
from clora.linears import chunks_of, linear_class, wants_weight_gradient
from clora.packed import packed_sum
from clora.sharding.checkpoint import adapted_sharded_state_dict, adapter_sharded_state_dict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from clora.adapters import ParallelLinearAdapter
    from clora.errors import CloraError
    from clora.fused import RankRows
    from clora.linears import Model, Wiring
    from clora.plan import Placement


BASE = "to_wrap"
"""Attribute in which Megatron-Bridge's wrappers have their base."""
_CONVERSION = "megatron.bridge.models.conversion.peft_bridge"


class ModuleDict(nn.ModuleDict):
    """The adapters of a fused linear: `adapter_` and a canonical part -> adapter.

    A part that is not targeted has no entry. As an attribute it is None, as in Megatron-Bridge.

    Args:
        modules: the adapters.
        parts: all canonical parts of the linear.
    """

    def __init__(self, modules: Mapping[str, nn.Module] | None = None, parts: Sequence[str] = ()) -> None:
        super().__init__(modules)
        self.parts = tuple(parts)

    def __getattr__(self, name: str) -> Any:
        # torch keeps children in a dict of their own, so Python comes here for each of them.
        if name not in self.__dict__["_modules"] and name.removeprefix("adapter_") in self.__dict__.get("parts", ()):
            return None
        return super().__getattr__(name)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return megatron-core's sharded tensors of the adapters; see `clora.sharding.checkpoint`.

        A child of another kind, which somebody else put here, describes its own.
        """
        state: dict[str, Any] = {}
        for key, child in self.items():
            path, foreign = f"{prefix}{key}.", cast("Any", child)
            state |= (
                adapter_sharded_state_dict(child, path, sharded_offsets, metadata)
                if isinstance(child, Adapter)
                else foreign.sharded_state_dict(path, sharded_offsets, metadata)
            )
        return state


class Adapted(nn.Module):
    """Base class of all adapted linears. It is never constructed: `clora.surgery` changes the class
    of a base module to one that derives from it and sets the attributes.
    """

    adapter: Any
    """One adapter, or a `ModuleDict` of adapters by canonical part."""
    adapter_enabled: bool
    placements: tuple[Placement, ...]
    """The placements that the plan has for this module, one per adapter."""
    wiring: Wiring
    base_class: Any
    """The class that the module had before."""
    base_weights: dict[str, torch.Tensor | None]
    """Name -> copy of a base weight on the CPU, or None when no copy was kept. Exists only while
    the adapters are merged.
    """
    enabled_before_merge: bool
    """`adapter_enabled` before merging. Exists only while the adapters are merged."""
    post_layernorm: Any
    """The norm of the base's output. Exists only with `wiring.norm_of_output`."""

    def __init__(self, *_arguments: Any, **_named: Any) -> None:
        raise TypeError(
            f"{type(self).__name__} is not constructed: an adapted linear is the module that was there, with another "
            "class. Use clora.CanonicalLoRA(...)(model), or .transform(linear, name, prefix) for one linear."
        )

    def _get_name(self) -> str:
        # The class has the name of the base; `print(model)` shows what was done to it.
        return type(self).__bases__[1].__name__

    def __repr__(self) -> str:
        base: str = self.base_class.__repr__(self)
        if base.startswith(self._get_name()):
            return base
        # megatron-core's linears write one line without their children.
        adapter = repr(self.adapter).replace("\n", "\n  ")
        return f"{self._get_name()}(\n  {base}\n  (adapter): {adapter}\n)"

    @property
    def to_wrap(self) -> Adapted:
        """The module itself. Megatron-Bridge's wrappers have their base under this name.

        Raises:
            SurgeryError: Megatron-Bridge's conversion to Hugging Face is imported. It asks for this
                before it exports a model, and would then export the base without this adapter.
        """
        if _CONVERSION in sys.modules:
            raise SurgeryError(
                f"{self.placements[0].module} was adapted by clora.CanonicalLoRA, and Megatron-Bridge would export it "
                "without its adapter. Adapt the model with clora.bridge.CanonicalLoRA, which takes the same fields; "
                "or export it with clora.export_hf, or merge it first with clora.merge_and_unload."
            )
        return self

    @property
    def _adapter_enabled(self) -> bool:
        """Megatron-Bridge's name for `adapter_enabled`."""
        return self.adapter_enabled

    @_adapter_enabled.setter
    def _adapter_enabled(self, enabled: bool) -> None:
        self.set_enabled(enabled=enabled)

    @property
    def adapters(self) -> dict[str | None, Adapter]:
        """Canonical part -> adapter. The only key is None when the linear is adapted as a whole."""
        if isinstance(self.adapter, ModuleDict):
            return {key.removeprefix("adapter_"): cast("Adapter", child) for key, child in self.adapter.items()}
        return {None: self.adapter}

    @property
    def is_merged(self) -> bool:
        """True if the adapters are folded into the base weights."""
        return "base_weights" in self.__dict__

    def enable_adapter_layers(self) -> None:
        """Switch the adapters on.

        Raises:
            MergeError: they are merged into the base weights.
        """
        self.set_enabled(enabled=True)

    def disable_adapter_layers(self) -> None:
        """Switch the adapters off, so that the module computes what its base computes.

        Raises:
            MergeError: they are merged into the base weights.
        """
        self.set_enabled(enabled=False)

    def set_enabled(self, *, enabled: bool) -> None:
        """Switch the adapters on or off.

        Raises:
            MergeError: they are merged into the base weights.
        """
        if self.is_merged:
            raise MergeError(
                "The adapters are merged into the base weights and cannot be switched on or off there. "
                "Undo it first: clora.unmerge_adapters(model)."
            )
        self.adapter_enabled = enabled

    def backward_dw(self) -> None:
        """Compute the base's delayed weight gradients, if it has any."""
        # megatron-core calls this with `delay_wgrad_compute`. Transformer Engine's own method fails
        # on a frozen linear, which has put no gradient aside.
        if wants_weight_gradient(self):
            self.base_class.backward_dw(self)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return megatron-core's sharded tensors of base and adapters; see
        `clora.sharding.checkpoint`.
        """
        return adapted_sharded_state_dict(self, prefix, sharded_offsets, metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        # For pickle and deepcopy: the class was made at run time, so nothing can import it by name.
        # Store the two classes that it was made from.
        base, wrapper = type(self).__bases__
        return _empty_adapted, (wrapper, base), self.__dict__

    def base_linear_forward(
        self, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Run the base alone, as Megatron-Bridge's method of this name does.

        Returns:
            The base's output `[..., out]`; its bias, None unless it returns one; and the input that
            the adapter multiplies, `[..., in]`.
        """
        out, shared_x, rest = self._base_forward(x, *args, **kwargs)
        if self.wiring.norm_of_output:
            out = self.post_layernorm(out)
        return out, rest[0] if rest else None, shared_x

    def _base_forward(
        self, x: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[Any, ...]]:
        """Run the base, without the norm of its output if it has one.

        Returns:
            The output `[..., out]`; the input that the adapter multiplies, `[..., in]`; and what
            else the base returns, such as the bias.
        """
        # A delta has to be added before the norm. The forward of the linear's own class ends there.
        base = linear_class(self.base_class) if self.wiring.norm_of_output else self.base_class
        result = base.forward(self, x, *args, **kwargs)
        if isinstance(result, torch.Tensor):
            return result, x, ()
        out, *rest = result
        if not self.wiring.norm_inside:
            return out, x, tuple(rest)
        # Surgery sets `return_layernorm_output`, and Transformer Engine then returns the output of
        # its norm last: (out, bias, normed) with the bias apart, which megatron-core passes on, or
        # (out, normed), which megatron-core returns as ((out, normed), None).
        if isinstance(out, tuple):
            out, normed = out
        else:
            normed = rest.pop()
        return out, normed, tuple(rest)


class LoRALinear(Adapted):
    """A linear with one adapter: `y = W x + scale B A x`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the base returns, with the delta added to its output.

        Args:
            x: input of the base, `[..., in]`.
            args: other arguments of the base. Grouped experts get the number of rows per expert.
            kwargs: keyword arguments of the base.
        """
        out, shared_x, rest = self._base_forward(x, *args, **kwargs)
        if self.adapter_enabled:
            delta = self.adapter(shared_x, *args, **kwargs)
            # An output layer may gather its output on request, which only its forward knows.
            if delta.shape[-1] != out.shape[-1]:
                delta = self.adapter.communication.gather_output(delta)
            out = out + delta.to(out.dtype)
        if self.wiring.norm_of_output:
            out = self.post_layernorm(out)
        return (out, *rest) if rest else out


class _LoRALinearSplit(Adapted):
    """A fused linear with one adapter for each of its canonical parts, or for some of them."""

    rows: RankRows
    """How the output rows of this rank are packed."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the base returns, with each adapter's delta added to the rows of its part.

        Args:
            x: input of the base, `[..., in]`.
            args: other arguments of the base.
            kwargs: keyword arguments of the base.
        """
        out, shared_x, rest = self._base_forward(x, *args, **kwargs)
        if self.adapter_enabled:
            out = packed_sum(out, self._deltas(shared_x), self.rows)
        return (out, *rest) if rest else out

    def _deltas(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        adapters = cast("dict[str, ParallelLinearAdapter]", self.adapters)
        hs = shared_hidden([*adapters.values()], x)
        # When a key-value group is cut over ranks, this rank uses some rows of a full B.
        cut = {} if self.rows.whole_blocks else {s.part: slice(s.start, s.start + s.rows) for s in self.rows.stretches}
        return {part: adapter.delta(h, cut.get(part)) for (part, adapter), h in zip(adapters.items(), hs, strict=True)}


class LoRALinearSplitQKV(_LoRALinearSplit):
    """`linear_qkv` with adapters for q, k and v or for some of them."""


class LoRALinearSplitFC1UpGate(_LoRALinearSplit):
    """A gated `linear_fc1` with adapters for up and gate or for one of them."""


class LoRATopKRouter(Adapted):
    """A mixture-of-experts router with an adapter of its logits.

    Routing, auxiliary losses and expert bias are the base's; they see the changed logits.
    """

    def gating(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits `[..., experts]` of `x` `[..., hidden]`, in the base's dtype."""
        logits: torch.Tensor = self.base_class.gating(self, x)
        return logits + self.adapter.logits(x, logits.dtype) if self.adapter_enabled else logits


# The classes are cached, so that two linears adapted alike have one class.
_classes: dict[tuple[type[Adapted], type[nn.Module]], type[Adapted]] = {}


def adapted_class(wrapper: type[Adapted], base: type[nn.Module]) -> type[Adapted]:
    """Return the class of a module of class `base` that is adapted as `wrapper`.

    There is one for each pair of classes. It has the name of the base: Megatron-FSDP and
    Megatron-Bridge's conversion look up the name of a linear's class to know how its weight is
    split over ranks.
    """
    if known := _classes.get((wrapper, base)):
        return known
    # Python lets an object change its class only when the memory layouts agree, so `base` has to
    # come first among the bases. Its methods would then win over those of the wrapper: copy the
    # wrapper's into the class itself.
    methods = {
        name: value
        for cls in reversed(wrapper.__mro__)
        if issubclass(cls, Adapted)
        for name, value in vars(cls).items()
        if callable(value) and (name in ("__reduce__", "__repr__") or not name.startswith("__"))
    }
    own = {
        **methods,
        "base_class": base,
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": wrapper.__doc__,
    }
    cls = new_class(base.__name__, (base, wrapper), exec_body=lambda namespace: namespace.update(own))
    _classes[wrapper, base] = made = cast("type[Adapted]", cls)
    return made


def adapted_modules(model: nn.Module) -> Iterator[tuple[str, Adapted]]:
    """Yield path and module of every adapted module in `model`."""
    return ((plain_path(name), module) for name, module in model.named_modules() if isinstance(module, Adapted))


def plain_path(path: str) -> str:
    """Return `path` as it is in an unadapted model: `clora.bridge` puts `to_wrap` into it."""
    return ".".join(name for name in path.split(".") if name != BASE)


def refuse_merged(model: Model, error: type[CloraError]) -> None:
    """Raise unless every adapter of `model` can be given other values.

    Raises:
        CloraError: in the class `error`: a base weight holds the product of the present values,
            which could not be taken out again.
    """
    for chunk in chunks_of(model):
        for path, module in adapted_modules(chunk):
            if module.is_merged:
                raise error(
                    f"{path} is merged: the adapter that is in its weight could not be taken out again. Undo it first: "
                    "clora.unmerge_adapters(model)."
                )


def base_class_of(module: nn.Module) -> type[nn.Module]:
    """Return the class that `module` has, or had before it was adapted."""
    return cast("type[nn.Module]", module.base_class) if isinstance(module, Adapted) else type(module)


def base_children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and module of the children of `module`, without its adapter."""
    return (
        (name, child)
        for name, child in module.named_children()
        if not (isinstance(module, Adapted) and name == "adapter")
    )


def _empty_adapted(wrapper: type[Adapted], base: type[nn.Module]) -> Adapted:
    cls = adapted_class(wrapper, base)
    return cls.__new__(cls)
