"""The keys of a run that are read beside what is built, and what each may hold.

YAML's `yes`, `1` and `"true"` are no flags. A key with one of them would count as left out, so that
the account would be of another run. Null is as good as leaving a key out.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from clora.errors import ModelError
from clora.limits import LARGEST_WORKLOAD
from clora_inspect.sources.exchange import KINDS
from clora_inspect.sources.layout_fields import LAYOUT_FIELDS
from clora_inspect.sources.run.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Kind(NamedTuple):
    """A kind of value that a key may hold."""

    words: str
    """Follows "it is"."""
    holds: Callable[[Any], bool]


DTYPE_BYTES = {"torch.float32": 4, "torch.float16": 2, "torch.bfloat16": 2, "torch.uint8": 1}
"""Dtype of a weight or of a moment -> its bytes."""

ATTENTION_BACKENDS = {1: "flash", 2: "fused", 3: "unfused", 4: "local", 5: "auto"}
"""Number of megatron-core's `AttnBackend` in a run -> its name."""


def dtype_of(value: object) -> str | None:
    """Return the name of a dtype, which is written as text or as a `_target_`."""
    name = value.get("_target_") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def backend_of(value: object) -> str | None:
    """Return the name of an attention backend; None for a value that is none."""
    arguments = value.get("_args_") if isinstance(value, dict) else None
    if isinstance(arguments, list) and len(arguments) == 1 and type(arguments[0]) is int:
        return ATTENTION_BACKENDS.get(arguments[0])
    return value if isinstance(value, str) and value in ATTENTION_BACKENDS.values() else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return type(value) is int


FLAG = Kind("true or false", lambda value: isinstance(value, bool))
SIZE = Kind(
    f"a whole number from 1 to {LARGEST_WORKLOAD:,}",
    lambda value: _is_whole(value) and 1 <= value <= LARGEST_WORKLOAD,
)
WHOLE = Kind("a whole number", _is_whole)
FREQUENCY = Kind(
    "a whole number, or a list with 0 or 1 for each layer",
    lambda value: (
        _is_whole(value) or (isinstance(value, list) and all(_is_whole(one) and one in (0, 1) for one in value))
    ),
)
NUMBER = Kind("a finite number", lambda value: _is_whole(value) or (isinstance(value, float) and isfinite(value)))
TEXT = Kind("a string", _is_text)
DTYPE = Kind(f"one of {', '.join(DTYPE_BYTES)}", lambda value: dtype_of(value) in DTYPE_BYTES)
BACKEND = Kind(
    f"an AttnBackend: {', '.join(ATTENTION_BACKENDS.values())}, or _args_ with its number from 1 to 5",
    lambda value: backend_of(value) is not None,
)


def one_of(*words: str, each: bool = False) -> Kind:
    """Return the kind of a key that holds one of `words`; with `each`, or a list of them."""

    def holds(value: Any) -> bool:
        if each and isinstance(value, list):
            return all(_is_text(one) and one in words for one in value)
        return _is_text(value) and value in words

    return Kind(f"one of {', '.join(words)}{', or a list of them' if each else ''}", holds)


SECTIONS: dict[tuple[str, str], Kind] = {
    ("dataset", "seq_length"): SIZE,
    ("dataset", "sequence_length"): SIZE,
    ("train", "micro_batch_size"): SIZE,
    ("train", "global_batch_size"): SIZE,
    ("ddp", "use_distributed_optimizer"): FLAG,
    ("ddp", "grad_reduce_in_fp32"): FLAG,
    ("ddp", "use_megatron_fsdp"): FLAG,
    ("ddp", "use_custom_fsdp"): FLAG,
    ("dist", "use_megatron_fsdp"): FLAG,
    ("dist", "use_torch_fsdp2"): FLAG,
    ("mixed_precision", "grad_reduce_in_fp32"): FLAG,
    ("comm_overlap", "tp_comm_overlap"): FLAG,
    ("optimizer", "optimizer"): TEXT,
    ("optimizer", "use_distributed_optimizer"): FLAG,
    ("optimizer", "optimizer_cpu_offload"): FLAG,
    ("optimizer", "use_precision_aware_optimizer"): FLAG,
    ("optimizer", "store_param_remainders"): FLAG,
    ("optimizer", "main_params_dtype"): DTYPE,
    ("optimizer", "exp_avg_dtype"): DTYPE,
    ("optimizer", "exp_avg_sq_dtype"): DTYPE,
}
"""Section and key -> kind, outside of the model. The sections are those of Megatron-Bridge's
`ConfigContainer`; older releases lack some.
"""

MAY_BE_NAMED = ("mixed_precision",)
"""Sections that may be the name of a recipe of Megatron-Bridge instead of a mapping."""

COST_FIELDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            *("bias_activation_fusion", "apply_rope_fusion", "cross_entropy_loss_fusion", "moe_permute_fusion"),
            *("activation_func_fp8_input_store", "moe_layer_recompute", "deallocate_pipeline_outputs"),
            *("moe_pad_expert_input_to_capacity", "tp_comm_overlap", "cpu_offloading", "enable_cuda_graph"),
            *("fine_grained_activation_offloading", "external_cuda_graph", "hybrid_context_parallel"),
            *("overlap_moe_expert_parallel_comm", "use_kitchen_attention", "moe_router_fusion", "moe_paged_stash"),
            *("use_te_activation_func", "use_transformer_engine_op_fuser"),
            "overlap_dispatch_backward_with_experts_wgrad",
        ),
        FLAG,
    ),
    "cross_entropy_fusion_impl": one_of("native", "te"),
    "fp8": one_of("e4m3", "hybrid"),
    "fp4": one_of("e2m1"),
    "cuda_graph_impl": one_of("none", "local", "transformer_engine", "full_iteration"),
    "symmetric_ar_type": one_of("two_shot", "one_shot", "multimem_all_reduce"),
    "moe_dispatch_fwd_dtype": one_of("bf16", "mxfp8"),
    **dict.fromkeys(
        (
            *("microbatch_group_size_per_vp_stage", "num_microbatches_with_partial_activation_checkpoints"),
            *("gtp_weight_remat_size", "expert_gtp_weight_remat_size"),
        ),
        SIZE,
    ),
    "moe_expert_rank_capacity_factor": NUMBER,
    "attention_backend": BACKEND,
}
"""Fields of the model that are not built, and that change what a rank needs, or that nobody can
count.
"""

MODEL: dict[str, Kind] = {
    **COST_FIELDS,
    **{name: FLAG if name == "sequence_parallel" else WHOLE for name in LAYOUT_FIELDS},
    # Only a model with experts has it checked as a part of the layout.
    "expert_tensor_parallel_size": SIZE,
    **dict.fromkeys(("use_kitchen", "use_inference_optimized_layers", "use_transformer_engine_full_layer_spec"), FLAG),
    **dict.fromkeys(("account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"), FLAG),
    **dict.fromkeys(("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"), WHOLE),
    **dict.fromkeys(("restore_modelopt_state", "should_pad_vocab", "multi_latent_attention"), FLAG),
    **dict.fromkeys(("seq_length", "make_vocab_size_divisible_by"), SIZE),
    # A provider with one spec for all layers ignores it, so megatron-core may never see it.
    "moe_layer_freq": FREQUENCY,
    "cp_comm_type": one_of(*KINDS, each=True),
    "experimental_attention_variant": TEXT,
    "transformer_impl": TEXT,
}
"""Fields of the model that are read before it is built. megatron-core's own config says what the
others hold.
"""


def check_kinds(run: Mapping[str, Any], model: Mapping[str, Any], path: Path) -> None:
    """Refuse a run that has something else for a key that is read.

    Args:
        run: the run.
        model: the fields of its model.
        path: its file, for messages.

    Raises:
        ModelError: with the file, the key, the value and what it may be.
    """
    for part in dict.fromkeys(part for part, _ in SECTIONS):
        section = run.get(part)
        if section is None or isinstance(section, dict) or (part in MAY_BE_NAMED and isinstance(section, str)):
            continue
        also = ", or the name of one" if part in MAY_BE_NAMED else ""
        raise ModelError(f"{path}: {part} = {shown(section)}: it is a mapping of keys to values{also}.")
    for (part, name), kind in SECTIONS.items():
        section = run.get(part)
        if isinstance(section, dict):
            _check(f"{part}.{name}", section.get(name), kind, path)
    for name, kind in MODEL.items():
        _check(f"model.{name}", model.get(name), kind, path)


def _check(key: str, value: object, kind: Kind, path: Path) -> None:
    if value is not None and not kind.holds(value):
        raise ModelError(f"{path}: {key} = {shown(value)}: it is {kind.words}.")
