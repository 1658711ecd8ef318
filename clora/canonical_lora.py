"""`CanonicalLoRA`: what the user writes. It validates; the planner plans and surgery executes the
plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from clora.errors import LoRAConfigError, TargetError
from clora.patterns import canonical_mapping, check_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from clora.plan import Plan

Model = TypeVar("Model", bound="nn.Module | Sequence[nn.Module]")

DEFAULT_TARGETS = (
    "linear_q",
    "linear_k",
    "linear_v",
    "linear_proj",
    "linear_fc1_up",
    "linear_fc1_gate",
    "linear_fc2",
)
"""What is adapted when the user names nothing: every linear of a dense transformer layer."""

INIT_METHODS = ("xavier", "normal", "kaiming", "zero")
DROPOUT_POSITIONS = ("pre", "post")
LARGEST_DIM = 1 << 16
"""No linear has a larger rank to give; a larger number is a slip of the keyboard."""


@dataclass
class CanonicalLoRA:
    """Canonical LoRA: Q, K, V and up, gate of fused linears get adapters of their own (LoRA: arXiv
    2106.09685).

    A drop-in for `megatron.bridge.peft.canonical_lora.CanonicalLoRA`: the same fields, meanings and
    parameter names.

    Args:
        target_modules: modules to adapt, see `clora.patterns` for the grammar. Empty: all linears
            but the excluded.
        exclude_modules: modules to leave alone; needs an empty `target_modules`.
        dim: LoRA rank of every adapter.
        alpha: the adapter's output is scaled by alpha / dim.
        dropout: probability of dropout inside the adapter.
        dropout_position: "pre" drops the adapter's input, "post" its output.
        lora_A_init_method: how A is drawn: one of `INIT_METHODS`.
        lora_B_init_method: how B is drawn; "zero" makes the adapted model equal the base.
        normalize_moe_lora: routed experts get rank dim // moe_router_topk, so that a token meets
            `dim` in all.
        share_expert_adapters: True gives the local experts of a grouped linear one pair; False, one
            pair each.

    Raises:
        LoRAConfigError: a value that cannot mean anything.
        TargetError: a target that can never be right.
    """

    target_modules: list[str] = field(default_factory=lambda: list(DEFAULT_TARGETS))
    exclude_modules: list[str] = field(default_factory=list)
    dim: int = 32
    alpha: float = 32
    dropout: float = 0.0
    dropout_position: Literal["pre", "post"] = "pre"
    lora_A_init_method: str = "xavier"  # noqa: N815  # the reference's public name
    lora_B_init_method: str = "zero"  # noqa: N815
    normalize_moe_lora: bool = False
    share_expert_adapters: bool = True
    canonical_mapping: dict[str, set[str]] = field(init=False, repr=False, compare=False)
    params_to_save: set[str] = field(init=False, repr=False, compare=False, default_factory=set)
    """Names of the trainable parameters of the model that this was last applied to."""

    def __post_init__(self) -> None:
        """Validate now, so that a mistake is told where it was written."""
        self.validate()

    def validate(self) -> None:
        """Check every field and derive `canonical_mapping` anew. Called again whenever the object
        is used.

        Raises:
            LoRAConfigError: a value that cannot mean anything.
            TargetError: a target that can never be right.
        """
        self._check_numbers()
        self._check_choices()
        self.target_modules = _strings("target_modules", self.target_modules)
        self.exclude_modules = _strings("exclude_modules", self.exclude_modules)
        if self.target_modules and self.exclude_modules:
            raise TargetError(
                f"target_modules and exclude_modules are both set ({len(self.target_modules)} and {len(self.exclude_modules)} entries): "
                "exclude_modules means all linears but these. Set target_modules=[] or remove exclude_modules."
            )
        self.canonical_mapping = canonical_mapping(self.target_modules)

    def plan(self, model: nn.Module | Sequence[nn.Module]) -> Plan:
        """Plan the surgery of `model` (or of the chunks of an interleaved pipeline) on this rank,
        changing nothing.

        Raises:
            LoRAConfigError, TargetError: the fields were changed to something invalid since
                construction.
            NotAdaptableError: a target hits a module that has no LoRA form.
            GeometryError: `dim` does not fit the layout.
        """
        from clora.planner import plan_model

        self.validate()
        return plan_model(model, self)

    def __call__(self, model: Model, training: bool = True) -> Model:
        """Adapt `model` in place: plan it, freeze it, carry the plan out, and check that each
        placement was hit exactly once.

        Apply it before megatron-core's `DistributedDataParallel` and the optimizer, which are made
        for the trainable parameters. A failure leaves the model as it was; `clora.revert(model)`
        undoes a success.

        Args:
            model: one rank's model, or the list of its virtual pipeline chunks.
            training: False leaves the adapters frozen and in eval mode.

        Returns:
            The same object.

        Raises:
            CloraError: as `plan`; and AlreadyAdaptedError or SurgeryError when the model cannot be
                adapted as it is.
        """
        from clora import surgery

        surgery.apply(self.plan(model), model, self, training=training)
        self.set_params_to_save(model)
        return model

    def transform(self, m: nn.Module, name: str | None = None, prefix: str | None = None) -> nn.Module:
        """Adapt the one module `m`, called `name` in the module called `prefix`, when the targets
        choose it.

        The rest of the model is not looked at, and nothing is frozen: `__call__` does all of it.

        Returns:
            `m` itself, adapted or, when it is not chosen or is adapted already, as it is.
        """
        from clora.planner import plan_module
        from clora.surgery import adapt_module

        self.validate()
        path = ".".join(part for part in (prefix, name) if part)
        placements = plan_module(m, path, self)
        if placements:
            adapt_module(m, path, placements, self)
        return m

    def set_params_to_save(self, model: Model) -> None:
        """Remember the names of the trainable parameters of `model` in `params_to_save`."""
        chunks = model if isinstance(model, Sequence) else [model]
        self.params_to_save = {
            name for chunk in chunks for name, param in chunk.named_parameters() if param.requires_grad
        }

    def adapter_key_filter(self, key: str | tuple[str, Any]) -> bool:
        """Whether a checkpoint entry belongs to the adapters: a name, or a pair of name and tensor."""
        if isinstance(key, tuple):
            return bool(key[1].requires_grad)
        return key in self.params_to_save or ".adapter." in key

    def enable_adapter_layers(self, model: Model) -> None:
        """Let all adapters of `model` count."""
        from clora.surgery import set_enabled

        set_enabled(model, enabled=True)

    def disable_adapter_layers(self, model: Model) -> None:
        """Let `model` compute what its base computes."""
        from clora.surgery import set_enabled

        set_enabled(model, enabled=False)

    @contextmanager
    def disable_adapter(self, model: Model) -> Iterator[None]:
        """Inside, `model` computes what its base computes; afterwards every adapter counts as it
        did before.
        """
        from clora.surgery import disabled

        with disabled(model):
            yield

    def merge(self, model: Model, *, keep_base: bool = True) -> Model:
        """Fold the adapters into the base weights in place; see `clora.merge_adapters`.

        Raises:
            MergeError: an adapter cannot be folded in; nothing was changed.
        """
        from clora.merge import merge_adapters

        merge_adapters(model, keep_base=keep_base)
        return model

    def unmerge(self, model: Model) -> Model:
        """Take the adapters out of the base weights again, which are then what they were; see
        `clora.unmerge_adapters`.
        """
        from clora.merge import unmerge_adapters

        unmerge_adapters(model)
        return model

    def _check_numbers(self) -> None:
        if not _is_number(self.dim) or self.dim != int(self.dim) or not 1 <= self.dim <= LARGEST_DIM:
            raise LoRAConfigError(
                f"dim = {self.dim!r}: the LoRA rank is a whole number from 1 to {LARGEST_DIM:,}, commonly 8 to 64."
            )
        if not _is_number(self.alpha) or not 0 < self.alpha < float("inf"):
            raise LoRAConfigError(
                f"alpha = {self.alpha!r}: it is a positive number; the adapter is scaled by alpha / dim."
            )
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise LoRAConfigError(f"dropout = {self.dropout!r}: it is a probability, at least 0 and below 1.")
        self.dim = int(self.dim)

    def _check_choices(self) -> None:
        choices: tuple[tuple[str, object, tuple[str, ...]], ...] = (
            ("dropout_position", self.dropout_position, DROPOUT_POSITIONS),
            ("lora_A_init_method", self.lora_A_init_method, INIT_METHODS),
            ("lora_B_init_method", self.lora_B_init_method, INIT_METHODS),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                raise LoRAConfigError(f"{name} = {value!r}: it is one of {', '.join(map(repr, allowed))}.")
        if self.lora_A_init_method == self.lora_B_init_method == "zero":
            raise LoRAConfigError(
                "lora_A_init_method and lora_B_init_method are both 'zero': no gradient would reach either. Let A be 'xavier'."
            )
        for name in ("normalize_moe_lora", "share_expert_adapters"):
            if not isinstance(getattr(self, name), bool):
                raise LoRAConfigError(f"{name} = {getattr(self, name)!r}: it is True or False.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _strings(name: str, value: object) -> list[str]:
    if isinstance(value, str):
        hint = "['linear_q', 'linear_k', ...]" if value in ("all-linear", "all") else repr([value])
        raise TargetError(
            f"{name} = {value!r} is one string, which would be read letter by letter. Write a list: {hint}."
        )
    if value is None:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        raise TargetError(f"{name} = {value!r} is a {type(value).__name__}: it is a list of strings.")
    return [check_target(target, name) for target in value]
