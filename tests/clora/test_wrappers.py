"""An adapted model with B = 0 computes what its base does, and else what a base with the weights W
+ (alpha / dim) B A does.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import lora_models
import pytest
import torch

from clora import CanonicalLoRA, revert
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

SERIAL = Layout()
QKV = ["linear_q", "linear_k", "linear_v"]
FC1 = ["linear_fc1_up", "linear_fc1_gate"]
SUBSETS = [
    list(subset) for names in (QKV, FC1) for size in range(1, len(names) + 1) for subset in combinations(names, size)
]
KINDS = [
    pytest.param(kind, share, id=kind if share else f"{kind} per expert")
    for kind, fields in lora_models.KINDS.items()
    for share in ((True, False) if fields.get("moe_grouped_gemm") else (True,))
]
DIM, ALPHA = 4, 6


pytestmark = pytest.mark.usefixtures("one_rank")


def adapted(model: torch.nn.Module, **fields: Any) -> CanonicalLoRA:
    lora = CanonicalLoRA(**{"target_modules": lora_models.TARGETS, "dim": DIM, "alpha": ALPHA, **fields})
    with quiet():
        lora(model)
    return lora


def outputs(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits, or the loss of every token for a model with multi-token prediction.

    Only labels make the prediction layers run.
    """
    tokens, positions, labels = lora_models.batch(7)
    with torch.no_grad():
        out: torch.Tensor = model(tokens, positions, None, labels=labels if hasattr(model, "mtp") else None)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "share"), KINDS)
def test_zero_b_computes_what_the_base_computes_bit_for_bit(kind: str, share: bool, dtype: torch.dtype) -> None:
    (model,) = lora_models.build(kind, SERIAL, dtype=dtype)
    for training in (True, False):
        model.train(training)
        base = outputs(model)
        assert torch.equal(outputs(model), base)
        adapted(model, share_expert_adapters=share)
        assert torch.equal(outputs(model), base)
        revert(model)


@pytest.mark.parametrize("targets", SUBSETS, ids=" ".join)
def test_any_subset_of_parts_at_zero_b_computes_what_the_base_computes(targets: list[str]) -> None:
    for kind in ("gqa", "output-gate"):
        (model,) = lora_models.build(kind, SERIAL, dtype=torch.float32)
        base = outputs(model)
        adapted(model, target_modules=targets)
        assert torch.equal(outputs(model), base)
        assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


@pytest.mark.parametrize(("kind", "share"), KINDS)
def test_any_a_and_b_compute_what_the_dense_formula_does(kind: str, share: bool) -> None:
    assert_dense_formula(kind, share_expert_adapters=share)


@pytest.mark.parametrize("targets", SUBSETS, ids=" ".join)
def test_any_subset_of_parts_computes_what_the_dense_formula_does(targets: list[str]) -> None:
    for kind in ("gqa", "output-gate"):
        assert_dense_formula(kind, target_modules=targets)


def assert_dense_formula(kind: str, **fields: Any) -> None:
    (model,), (dense,) = lora_models.build(kind, SERIAL), lora_models.build(kind, SERIAL)
    base = outputs(model)
    adapted(model, **fields)
    lora_models.fill(model, only=".adapter.", std=0.2)
    added = add_deltas(dense, model)
    assert added == sum(parameter.requires_grad for parameter in model.parameters()) // 2
    bound = 1e-6 if hasattr(model, "mtp") else 1e-10
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=bound, atol=bound)
    assert (outputs(model) - base).abs().max() > 1e-2


@pytest.mark.parametrize("router_dtype", ["fp32", "fp64"])
def test_a_router_adapter_computes_in_the_routers_precision(router_dtype: str) -> None:
    fields = {"dtype": torch.bfloat16, "moe_router_dtype": router_dtype}
    (model,) = lora_models.build("grouped-experts", SERIAL, **fields)
    base = outputs(model)
    router = model.decoder.layers[0].mlp.router
    x = torch.randn(5, 1, lora_models.HIDDEN, dtype=torch.bfloat16)
    plain = router.gating(x)
    adapted(model, target_modules=["router"])
    assert torch.equal(outputs(model), base)
    lora_models.fill(model, only=".adapter.", std=0.2)
    a, b = (factor.weight.to(plain.dtype) for factor in (router.adapter.linear_in, router.adapter.linear_out))
    assert router.gating(x).dtype == plain.dtype
    torch.testing.assert_close(
        router.gating(x), plain + ALPHA / DIM * x.to(plain.dtype) @ a.T @ b.T, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("splits", [[3, 0, 2, 0], [0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "per expert"])
def test_experts_without_tokens_add_nothing_and_break_nothing(share: bool, splits: list[int]) -> None:
    (model,) = lora_models.build("grouped-experts", SERIAL)
    adapted(model, share_expert_adapters=share)
    lora_models.fill(model, only=".adapter.", std=0.2)
    linear = model.decoder.layers[0].mlp.experts.linear_fc1
    x = torch.randn(sum(splits), lora_models.HIDDEN, dtype=torch.float64, requires_grad=True)
    out, _ = linear(x, splits)
    assert out.shape == (sum(splits), linear.out_features)
    out.sum().backward()
    of_a = linear.adapter.linear_in.weight.grad
    assert torch.isfinite(of_a).all()
    if not share:
        assert [bool(gradient.abs().max() > 0) for gradient in of_a] == [size > 0 for size in splits]


@pytest.mark.parametrize("kind", lora_models.KINDS)
def test_only_adapters_get_gradients_and_every_one_does(kind: str) -> None:
    (model,) = lora_models.build(kind, SERIAL)
    adapted(model)
    lora_models.fill(model, only=".adapter.", std=0.2)
    found = gradients(model)
    trainable = {name for name, parameter in model.named_parameters() if ".adapter." in name}
    assert found.keys() == trainable
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, name


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    tokens, positions, labels = lora_models.batch(7)
    model(tokens, positions, None, labels=labels).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@torch.no_grad()
def add_deltas(dense: Any, model: torch.nn.Module) -> int:
    """Add (alpha / dim) B A to the weights of `dense`, and return the number of pairs.

    The rows go where megatron-core packs them, by rules written here.
    """
    factors = {name: parameter for name, parameter in model.named_parameters() if ".adapter." in name}
    pairs = 0
    for name, a in factors.items():
        if not name.endswith(".linear_in.weight"):
            continue
        b = factors[name.replace(".linear_in.", ".linear_out.")]
        path, _, rest = name.partition(".adapter.")
        part = rest.removeprefix("adapter_").split(".")[0] if rest.startswith("adapter_") else None
        linear = dense.get_submodule(path)
        pairs += 1
        if hasattr(linear, "weight"):
            rows = torch.arange(len(linear.weight)) if part is None else rows_of(part, len(linear.weight), dense.config)
            linear.weight[rows] += ALPHA / DIM * b @ a
            continue
        for expert in range(linear.num_gemms):
            b_e, a_e = (b, a) if a.dim() == 2 else (b[expert], a[expert])
            getattr(linear, f"weight{expert}").add_(ALPHA / DIM * b_e @ a_e)
    return pairs


def rows_of(part: str, num_rows: int, config: Any) -> torch.Tensor:
    """Return the rows of one canonical part in a fused weight, in the part's own order."""
    if part in ("gate", "up"):
        return torch.arange(num_rows // 2) + (num_rows // 2 if part == "up" else 0)
    channels, groups = config.kv_channels, config.num_query_groups
    heads = config.num_attention_heads // groups
    rows = []
    start = 0
    for _ in range(groups):
        of_q = heads * channels * (2 if config.attention_output_gate else 1)
        for name, count in (("q", of_q), ("k", channels), ("v", channels)):
            if name == part:
                rows += range(start, start + count)
            start += count
    return torch.tensor(rows)
