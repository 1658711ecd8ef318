"""`CanonicalLoRA`: the settings of canonical LoRA, and what can be done with them.

The class checks the settings. `clora.planner` plans the adapters, `clora.surgery` puts them into a
model and `clora.merge` folds them into its weights. Those three need torch and are imported when
they are called, so that a tool can read and check settings without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from clora.errors import LoRAConfigError, TargetError, short
from clora.limits import LARGEST_DIM
from clora.patterns import canonical_mapping, check_target, check_targets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.linears import Model
    from clora.plan import Plan

ModelT = TypeVar("ModelT", bound="Model")

DEFAULT_TARGETS = (
    "linear_q",
    "linear_k",
    "linear_v",
    "linear_proj",
    "linear_fc1_up",
    "linear_fc1_gate",
    "linear_fc2",
)
"""Default of `target_modules`: every linear of a dense transformer layer."""

INIT_METHODS = ("xavier", "normal", "kaiming", "zero")
DROPOUT_POSITIONS = ("pre", "post")
SMALLEST_ALPHA, LARGEST_ALPHA = 1e-9, 1e9
"""Limits of `alpha`. Beyond them bf16 weights drown the adapter, or the adapter drowns them."""


@dataclass
class CanonicalLoRA:
    """Canonical LoRA: an adapter of its own for q, k, v, gate and up, which megatron-core fuses.

    LoRA adds `(alpha / dim) B A x` to the output of a frozen linear `W x` and trains A and B
    (arXiv 2106.09685). megatron-core keeps q, k and v in one linear, `linear_qkv`, and gate and up
    in another, `linear_fc1`. *Canonical* LoRA adapts these parts separately, as Hugging Face models
    do, which keep them in separate linears.

    The class takes the place of `megatron.bridge.peft.canonical_lora.CanonicalLoRA`: its fields
    have the same names and meanings, and so have the parameters of an adapted model. What differs
    is in docs/differences.md. A subclass may override `freeze_model`.

    Args:
        target_modules: the linears to adapt; see `clora.patterns` for the grammar. An empty list
            means every linear that is not excluded.
        exclude_modules: the linears to leave alone, in the same grammar. Needs an empty
            `target_modules`.
        dim: LoRA rank of every adapter.
        alpha: numerator of the scale alpha / dim.
        dropout: probability of dropout inside an adapter.
        dropout_position: "pre" drops the adapter's input, "post" its output.
        lora_A_init_method: initialisation of A, one of `INIT_METHODS`.
        lora_B_init_method: initialisation of B, one of `INIT_METHODS`. With "zero" the adapted
            model starts as the base.
        normalize_moe_lora: True gives routed experts the rank `dim // moe_router_topk`, so that the
            experts of one token have `dim` together.
        share_expert_adapters: True gives the experts of one grouped linear one pair A and B
            together, False one pair each.

    Raises:
        LoRAConfigError: a number or choice is invalid.
        TargetError: a target or exclusion can never match, or both lists have entries.
    """

    target_modules: list[str] = field(default_factory=lambda: list(DEFAULT_TARGETS))
    exclude_modules: list[str] = field(default_factory=list)
    # In Megatron-Bridge the third positional argument is `canonical_mapping`. By name nobody can
    # mean one and get another.
    _: KW_ONLY
    dim: int = 32
    alpha: float = 32
    dropout: float = 0.0
    dropout_position: Literal["pre", "post"] = "pre"
    lora_A_init_method: str = "xavier"  # noqa: N815  # Megatron-Bridge's public name
    lora_B_init_method: str = "zero"  # noqa: N815
    normalize_moe_lora: bool = False
    share_expert_adapters: bool = True
    canonical_mapping: dict[str, set[str]] = field(init=False, repr=False, compare=False)
    """Module pattern -> canonical targets wanted there, as in Megatron-Bridge. Derived."""
    params_to_save: set[str] = field(init=False, repr=False, compare=False, default_factory=set)
    """Names of the trainable parameters of the model that was adapted last."""

    def __post_init__(self) -> None:
        self.validate()

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Refuse a subclass with hooks that nothing would call.

        Raises:
            TypeError: it overrides `transform` or `match`, through which Megatron-Bridge decides
                module by module. Here the plan decides before anything is changed.
        """
        super().__init_subclass__(**arguments)
        for hook in ("transform", "match"):
            if getattr(cls, hook) is not getattr(CanonicalLoRA, hook):
                raise TypeError(
                    f"{cls.__qualname__} overrides {hook}, which clora never calls: surgery carries out a plan of the "
                    "whole model. Choose modules by target_modules or exclude_modules; or take the plan of "
                    "lora.plan(model), leave out placements with msgspec.structs.replace(plan, placements=...), and "
                    "call clora.apply(plan, model, lora). To keep more parameters trainable override freeze_model."
                )

    def validate(self) -> None:
        """Check every field and derive `canonical_mapping`.

        Each use calls this again, because fields may be changed after construction.

        Raises:
            LoRAConfigError: a number or choice is invalid.
            TargetError: a target or exclusion can never match, or both lists have entries.
        """
        self._check_numbers()
        self._check_choices()
        self.target_modules = _checked_targets("target_modules", self.target_modules)
        self.exclude_modules = _checked_targets("exclude_modules", self.exclude_modules)
        if self.target_modules and self.exclude_modules:
            raise TargetError(
                f"target_modules and exclude_modules are both set ({len(self.target_modules)} and "
                f"{len(self.exclude_modules)} entries): exclude_modules means all linears but these. "
                "Set target_modules=[] or remove exclude_modules."
            )
        self.canonical_mapping = canonical_mapping(self.target_modules)

    def plan(self, model: Model) -> Plan:
        """Return what `__call__` would do to `model` on this rank, and change nothing.

        Args:
            model: one rank's model, or the list of its virtual pipeline chunks; on the meta device,
                too.

        Raises:
            LoRAConfigError: a field was set to an invalid value after construction.
            TargetError: a target was, or one names a fused linear instead of its parts.
            NotAdaptableError: a target matches a module with parameters that is not a linear.
            GeometryError: the ranks of the layout do not divide `dim`, or moe_router_topk does not
                with `normalize_moe_lora`.
        """
        from clora.planner import plan_model

        self.validate()
        return plan_model(model, self)

    def __call__(self, model: ModelT, training: bool = True) -> ModelT:
        """Adapt `model` in place: plan it, freeze its parameters and add the adapters.

        Call it before megatron-core's `DistributedDataParallel` and the optimizer, which collect
        the trainable parameters. When it fails, the model is as it was before;
        `clora.revert(model)` undoes a success.

        Args:
            model: one rank's model, or the list of its virtual pipeline chunks.
            training: True puts the whole model into train mode, False into eval mode with frozen
                adapters.

        Returns:
            `model` itself.

        Raises:
            AlreadyAdaptedError: the model has adapters.
            UnmatchedTargetError: no target matches anything in the whole model.
            SurgeryError: the model cannot be adapted as it is, for example inside
                `DistributedDataParallel`.
            CloraError: any error of `plan`.
        """
        from clora import surgery

        surgery.apply(self.plan(model), model, self, training=training)
        self.set_params_to_save(model)
        return model

    def transform(self, m: nn.Module, name: str | None = None, prefix: str | None = None) -> nn.Module:
        """Adapt the one module `m` in place when a target matches it.

        Megatron-Bridge walks a model and calls this for every module. Nothing is frozen, and the
        rest of the model is not looked at; `__call__` does all of it.

        Args:
            m: any module. One that is adapted already is left as it is.
            name: last name of `m`.
            prefix: path of its parent in the model.

        Returns:
            `m` itself.
        """
        from clora.planner import plan_module
        from clora.surgery import adapt_module

        self.validate()
        # The root of a model has no name, and its children have no prefix.
        path = ".".join(part for part in (prefix, name) if part)
        placements = plan_module(m, path, self)
        if placements:
            adapt_module(m, path, placements, self)
        return m

    def match(self, m: nn.Module, name: str | None = None, prefix: str | None = None) -> tuple[str, str] | None:
        """Return the key of `canonical_mapping` that selects the module `m`, and its path.

        Args:
            m: any module; nothing is changed.
            name: last name of `m`.
            prefix: path of its parent in the model.

        Returns:
            None if `m` gets no adapter. Without targets, the last name stands for the key.
        """
        from clora.planner import plan_module

        self.validate()
        path = ".".join(part for part in (prefix, name) if part)
        placements = plan_module(m, path, self)
        if not placements:
            return None
        target = placements[0].target
        # One target has one key.
        return path.rpartition(".")[2] if target is None else next(iter(canonical_mapping([target]))), path

    def freeze_model(self, model: Model, training: bool = True) -> None:
        """Freeze all parameters of `model`, which has no adapters yet.

        Surgery calls this before it adds the adapters. A subclass may override it, call it and make
        some parameters of the base trainable again; they are then in `params_to_save`, and in no
        checkpoint or export of the adapters alone.

        Args:
            model: one rank's model, or the list of its virtual pipeline chunks.
            training: as in `__call__`. True also puts the model into train mode.
        """
        for chunk in model if isinstance(model, Sequence) else [model]:
            chunk.requires_grad_(False)
            if training:
                chunk.train()

    def finish_surgery(self, model: Model) -> None:
        """Make the adapted `model` ready for the trainer around it: nothing needs to be done.

        Args:
            model: one rank's model, the list of its virtual pipeline chunks, or one linear.
        """

    def set_params_to_save(self, model: Model) -> None:
        """Store the names of what a checkpoint of the run must hold in `params_to_save`: trainable
        parameters, and the buffers of batch normalisations.
        """
        chunks = model if isinstance(model, Sequence) else [model]
        self.params_to_save = {
            name for chunk in chunks for name, param in chunk.named_parameters() if param.requires_grad
        }
        for chunk in chunks:
            for path, module in chunk.named_modules():
                # torch's normalisations over a batch: their running means move without a gradient.
                if "track_running_stats" in vars(module):
                    self.params_to_save |= {f"{path}.{name}" for name, _ in module.named_buffers()}

    def adapter_key_filter(self, key: str | tuple[str, Any]) -> bool:
        """Return whether an entry of a checkpoint belongs to the adapters.

        Args:
            key: the name of the entry, or its name and tensor.
        """
        if isinstance(key, tuple):
            return bool(key[1].requires_grad)
        # `params_to_save` is empty before this object has adapted a model; then the name decides.
        return key in self.params_to_save or ".adapter." in key or key.endswith(".adapters")

    def enable_adapter_layers(self, model: Model) -> None:
        """Switch all adapters of `model` on.

        Raises:
            MergeError: they are merged into the base weights.
        """
        from clora.surgery import set_enabled

        set_enabled(model, enabled=True)

    def disable_adapter_layers(self, model: Model) -> None:
        """Switch all adapters of `model` off, so that it computes what its base computes.

        Raises:
            MergeError: they are merged into the base weights.
        """
        from clora.surgery import set_enabled

        set_enabled(model, enabled=False)

    @contextmanager
    def disable_adapter(self, model: Model) -> Iterator[None]:
        """Switch all adapters of `model` off inside a `with` block.

        Afterwards each adapter is on or off as it was before.

        Raises:
            MergeError: they are merged into the base weights.
        """
        from clora.surgery import disabled

        with disabled(model):
            yield

    def merge(self, model: ModelT, *, keep_base: bool = True) -> ModelT:
        """Fold the adapters into the base weights in place; see `clora.merge_adapters`.

        Returns:
            `model` itself.

        Raises:
            MergeError: an adapter cannot be folded in; nothing was changed.
        """
        from clora.merge import merge_adapters

        merge_adapters(model, keep_base=keep_base)
        return model

    def unmerge(self, model: ModelT) -> ModelT:
        """Take the adapters out of the base weights again; see `clora.unmerge_adapters`.

        Returns:
            `model` itself.
        """
        from clora.merge import unmerge_adapters

        unmerge_adapters(model)
        return model

    def _check_numbers(self) -> None:
        # The limits come first: int() of infinity is an OverflowError, and of NaN a ValueError.
        if not _is_number(self.dim) or not 1 <= self.dim <= LARGEST_DIM or self.dim != int(self.dim):
            raise LoRAConfigError(
                f"dim = {short(self.dim)}: the LoRA rank is a whole number from 1 to {LARGEST_DIM:,}, commonly 8 to 64."
            )
        if not _is_number(self.alpha) or not SMALLEST_ALPHA <= self.alpha <= LARGEST_ALPHA:
            raise LoRAConfigError(
                f"alpha = {short(self.alpha)}: it is a positive number, from {SMALLEST_ALPHA:g} to {LARGEST_ALPHA:g}; "
                "the adapter is scaled by alpha / dim."
            )
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise LoRAConfigError(f"dropout = {short(self.dropout)}: it is a probability, at least 0 and below 1.")
        # A config file may say 16.0.
        self.dim = int(self.dim)

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, object, tuple[str, ...]], ...] = (
            ("dropout_position", self.dropout_position, DROPOUT_POSITIONS),
            ("lora_A_init_method", self.lora_A_init_method, INIT_METHODS),
            ("lora_B_init_method", self.lora_B_init_method, INIT_METHODS),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise LoRAConfigError(f"{name} = {short(value)}: it is one of {', '.join(map(repr, allowed))}.")
        if self.lora_A_init_method == self.lora_B_init_method == "zero":
            raise LoRAConfigError(
                "lora_A_init_method and lora_B_init_method are both 'zero': no gradient would reach either. "
                "Let A be 'xavier'."
            )
        flags: tuple[tuple[str, object], ...] = (
            ("normalize_moe_lora", self.normalize_moe_lora),
            ("share_expert_adapters", self.share_expert_adapters),
        )
        for name, flag in flags:
            if not isinstance(flag, bool):
                raise LoRAConfigError(f"{name} = {short(flag)}: it is True or False.")


def _is_number(value: Any) -> bool:
    # True and False are ints in Python, and never meant as one here.
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked_targets(name: str, value: object) -> list[str]:
    """Return the targets in the field `name` as a list; None means none."""
    if isinstance(value, str):
        hint = "['linear_q', 'linear_k', ...]" if value in ("all-linear", "all") else f"[{short(value)}]"
        raise TargetError(
            f"{name} = {short(value)} is one string, which would be read letter by letter. Write a list: {hint}."
        )
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        raise TargetError(f"{name} = {short(value)} is a {type(value).__name__}: it is a list of strings.")
    checked = [check_target(target, name) for target in value]
    check_targets(checked, name)
    return checked
