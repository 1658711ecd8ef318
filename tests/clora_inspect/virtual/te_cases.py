"""Tables of what the parity test compares: how megatron-core builds Transformer Engine's classes.

Two processes read this file, one with the real package and one with the stand-in. So it imports
neither.
"""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path
from typing import Any

import clora_inspect.virtual

SIDES = {"in_features": 32, "out_features": 48}
TP = (1, 2)


def _named(**fields: Any) -> str:
    return "-".join(f"{name}={value}" for name, value in fields.items())


def _linears() -> dict[str, tuple[str, dict[str, Any]]]:
    cases: dict[str, tuple[str, dict[str, Any]]] = {}
    for mode, tp, bias, sp in product((None, "column", "row"), TP, (False, True), (False, True)):
        fields = {"parallel_mode": mode, "tp": tp, "bias": bias, "sequence_parallel": sp}
        cases[f"Linear-{_named(**fields)}"] = ("Linear", {**SIDES, **fields})
        for norm in ("RMSNorm", "LayerNorm"):
            cases[f"{norm}Linear-{_named(**fields)}"] = ("LayerNormLinear", {**SIDES, **fields, "normalization": norm})
    return cases


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **_linears(),
    "Linear-default": ("Linear", SIDES),
    "Linear-return-bias": ("Linear", {**SIDES, "return_bias": True, "parallel_mode": "row", "tp": 2}),
    "Linear-no-bias-to-return": ("Linear", {**SIDES, "return_bias": True, "bias": False}),
    "Linear-later-group": ("Linear", {**SIDES, "tp_size": 2, "parallel_mode": "column"}),
    "Linear-bf16": ("Linear", {**SIDES, "params_dtype": "bfloat16"}),
    "Linear-fp64": ("Linear", {**SIDES, "params_dtype": "float64"}),
    "Linear-delayed-wgrad": ("Linear", {**SIDES, "delay_wgrad_compute": True}),
    "Linear-main-grad": ("Linear", {**SIDES, "fuse_wgrad_accumulation": True}),
    "Linear-overlap": (
        "Linear",
        {
            **SIDES,
            "tp": 2,
            "parallel_mode": "column",
            "sequence_parallel": True,
            "ub_overlap_ag": True,
            "ub_bulk_wgrad": True,
            "ub_bulk_dgrad": True,
            "ub_name": "fc1",
        },
    ),
    "LayerNormLinear-returns-norm": ("LayerNormLinear", {**SIDES, "return_layernorm_output": True}),
    "LayerNormLinear-returns-gathered-norm": (
        "LayerNormLinear",
        {
            **SIDES,
            "return_layernorm_output": True,
            "return_layernorm_output_gathered": True,
            "return_bias": True,
            "tp": 2,
            "parallel_mode": "column",
            "sequence_parallel": True,
        },
    ),
    "LayerNormLinear-zero-centred": ("LayerNormLinear", {**SIDES, "zero_centered_gamma": True}),
    "LayerNormLinear-zero-centred-rms": (
        "LayerNormLinear",
        {**SIDES, "zero_centered_gamma": True, "normalization": "RMSNorm", "eps": 1e-3},
    ),
    "LayerNormLinear-delayed-wgrad": ("LayerNormLinear", {**SIDES, "delay_wgrad_compute": True}),
    "LayerNormLinear-bf16": ("LayerNormLinear", {**SIDES, "params_dtype": "bfloat16"}),
    **{
        f"GroupedLinear-{_named(parallel_mode=mode, tp=tp)}": (
            "GroupedLinear",
            {"num_gemms": 3, **SIDES, "parallel_mode": mode, "tp": tp, "bias": False},
        )
        for mode, tp in product((None, "column", "row"), TP)
    },
    "GroupedLinear-bias": ("GroupedLinear", {"num_gemms": 2, **SIDES, "parallel_mode": "column"}),
    "GroupedLinear-row-bias": ("GroupedLinear", {"num_gemms": 2, **SIDES, "parallel_mode": "row"}),
    "GroupedLinear-return-bias": ("GroupedLinear", {"num_gemms": 2, **SIDES, "return_bias": True}),
    "GroupedLinear-delayed-wgrad": ("GroupedLinear", {"num_gemms": 2, **SIDES, "delay_wgrad_compute": True}),
    "GroupedLinear-sp": (
        "GroupedLinear",
        {"num_gemms": 2, **SIDES, "bias": False, "tp": 2, "parallel_mode": "row", "sequence_parallel": True},
    ),
    **{
        f"{norm}-{_named(sequence_parallel=sp, zero_centered_gamma=centred)}": (
            norm,
            {"normalized_shape": 32, "sequence_parallel": sp, "zero_centered_gamma": centred, "eps": 1e-6},
        )
        for norm, sp, centred in product(("LayerNorm", "RMSNorm"), (None, False, True), (False, True))
    },
    "LayerNorm-bf16": ("LayerNorm", {"normalized_shape": 32, "params_dtype": "bfloat16"}),
    "RMSNorm-bf16": ("RMSNorm", {"normalized_shape": 32, "dtype": "bfloat16"}),
    "DotProductAttention": ("DotProductAttention", {"num_attention_heads": 4, "kv_channels": 8}),
    "DotProductAttention-tp2-gqa": (
        "DotProductAttention",
        {"num_attention_heads": 4, "kv_channels": 8, "num_gqa_groups": 2, "tp": 2, "attention_dropout": 0.1},
    ),
    "DotProductAttention-mla": (
        "DotProductAttention",
        {"num_attention_heads": 4, "kv_channels": (12, 8), "softmax_scale": 0.3, "attn_mask_type": "causal"},
    ),
    **{
        f"DotProductAttention-{kind}": (
            "DotProductAttention",
            {"num_attention_heads": 4, "kv_channels": 8, "softmax_type": kind, "tp": 2, "window_size": (4, 0)},
        )
        for kind in ("vanilla", "off-by-one", "learnable")
    },
    **{
        f"DotProductAttention-{mask}": (
            "DotProductAttention",
            {"num_attention_heads": 4, "kv_channels": 8, "attn_mask_type": mask},
        )
        for mask in ("no_mask", "padding", "padding_causal", "causal,padding", "causal_bottom_right", "arbitrary")
    },
    "Fp8Padding": ("Fp8Padding", {"num_gemms": 3}),
    "Fp8Unpadding": ("Fp8Unpadding", {"num_gemms": 3, "align_size": 32}),
}
"""Name of a case -> name of the class and arguments of its constructor.

`tp` stands for a process group of so many ranks, and a dtype is given by its name.
"""

MODELS = {
    "dense-tp2": ("dense", {"tp": 2}),
    "dense-layernorm-bias-tp2-no-sp": ("dense-layernorm-bias", {"tp": 2, "sp": False}),
    "moe-ep2-etp2": ("moe", {"ep": 2, "etp": 2}),
    "mla-moe-mtp-tp2-ep2": ("mla-moe-mtp", {"tp": 2, "ep": 2}),
    "sinks-and-window": ("sinks-and-window", {}),
    "qwen3-next-tp2": ("qwen3-next", {"tp": 2}),
    "mamba-tp2": ("mamba", {"tp": 2}),
}
"""Name of a case -> kind of `tiny_models` and axes of the layout, for whole models."""

_TE = "transformer_engine.pytorch"
# The real norms take **kwargs, where ours name the arguments.
_CLASSES = sorted({kind for kind, _ in CASES.values()} - {"LayerNorm", "RMSNorm"})
SIGNATURES = (
    *(f"{_TE}:{name}.{method}" for name in _CLASSES for method in ("__init__", "forward")),
    *(
        f"{_TE}.distributed:CudaRNGStatesTracker.{name}"
        for name in ("add", "fork", "get_states", "set_states", "reset")
    ),
    f"{_TE}.attention:DotProductAttention.set_context_parallel_group",
    f"{_TE}.attention.rope:apply_rotary_pos_emb",
    f"{_TE}.cross_entropy:parallel_cross_entropy",
    *(f"{_TE}.permutation:moe_permute{suffix}" for suffix in ("", "_with_probs", "_and_pad_with_probs")),
    f"{_TE}.permutation:moe_unpermute",
    *(f"{_TE}.permutation:moe_sort_chunks_by_index{suffix}" for suffix in ("", "_with_probs")),
    *(
        f"{_TE}.module.base:TransformerEngineBaseModule.{name}"
        for name in ("set_tensor_parallel_group", "reset_parameters", "backward_dw", "need_backward_dw")
    ),
    f"{_TE}.module.base:get_dummy_wgrad",
    *(
        f"{_TE}.ops:{name}.__init__"
        for name in ("GroupedLinear", "MakeExtraOutput", "ScaledClampedQGeGLU", "ScaledSReLU", "ScaledSwiGLU")
    ),
)
"""Functions and methods whose parameters must have the same names on both sides."""

_OURS_ALONE = (
    "tensor_parallel",
    "normalization",
    "masks",
    "norm",
    "linear_weights",
    "missing",
    "gemm",
    "kernel",
    "context_parallel",
    "context_on_meta",
)
"""Modules of the stand-in that the real package does not have. Nobody outside imports from them."""


def stand_in_names() -> dict[str, list[str]]:
    """Return module -> the public names that it defines or re-exports, for the whole stand-in."""
    root = Path(clora_inspect.virtual.__file__).parent
    return {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): _public_names(file)
        for file in sorted(root.glob("transformer_engine/**/*.py"))
        if file.stem not in _OURS_ALONE
    }


def _public_names(file: Path) -> list[str]:
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            target = node.targets[0].id
            names |= set(ast.literal_eval(node.value)) if target == "__all__" else {target}
        # `__all__ += package.__all__`: what a package beside this file exports.
        if isinstance(node, ast.AugAssign):
            package = ast.unparse(node.value).removesuffix(".__all__")
            names |= set(_public_names(file.parent / package / "__init__.py"))
    return sorted(name for name in names if not name.startswith("_"))


def exported_layers() -> list[str]:
    """Return the names of the stand-in's layer classes."""
    return stand_in_names()["transformer_engine.pytorch.module"]
