"""What fused paths of newer megatron-core releases ask of the Transformer Engine stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

TOKENS, EXPERTS, HIDDEN = 6, 3, 4


@pytest.fixture(autouse=True, scope="module")
def _world() -> Iterator[None]:
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        yield


@pytest.mark.parametrize("align", [1, 4, 16])
def test_padded_rows_are_the_permuted_ones_with_zeros_between(align: int) -> None:
    from transformer_engine.pytorch.permutation import (
        moe_permute_and_pad_with_probs,
        moe_permute_with_probs,
        moe_unpermute,
    )

    torch.manual_seed(0)
    tokens = torch.randn(TOKENS, HIDDEN, dtype=torch.float64, requires_grad=True)
    # The second expert gets no token.
    routing = torch.tensor([[1, 0, 1]] * 4 + [[0, 0, 1]] * 2)
    probs = torch.rand(TOKENS, EXPERTS, dtype=torch.float64)
    rows, row_probs, row_map, pad_offsets, sizes = moe_permute_and_pad_with_probs(
        tokens, probs, routing, routing.sum(0), align
    )
    assert sizes.tolist() == [-(-count // align) * align for count in routing.sum(0).tolist()]
    plain_rows, plain_probs, plain_map = moe_permute_with_probs(tokens, probs, routing)
    kept = [
        part[:count]
        for values in (rows, row_probs)
        for part, count in zip(torch.split(values, sizes.tolist()), routing.sum(0).tolist(), strict=True)
    ]
    assert torch.equal(torch.cat(kept[:EXPERTS]), plain_rows)
    assert torch.equal(torch.cat(kept[EXPERTS:]), plain_probs)
    assert rows.count_nonzero() == plain_rows.count_nonzero()
    assert (pad_offsets is None) == (len(rows) == len(plain_rows))
    back = moe_unpermute(rows, row_map, restore_shape=tokens.shape, pad_offsets=pad_offsets)
    assert torch.equal(back, moe_unpermute(plain_rows, plain_map, restore_shape=tokens.shape))
    (gradient,) = torch.autograd.grad(back.sum(), tokens)
    assert torch.equal(gradient, routing.sum(1, keepdim=True).expand_as(tokens).double())


@pytest.mark.parametrize("sizes", [[1, 2], torch.tensor([1, 2])], ids=["list", "tensor"])
def test_grouped_rows_are_counted_by_a_list_or_a_tensor(sizes: Any) -> None:
    import transformer_engine.pytorch as te

    grouped = te.GroupedLinear(2, HIDDEN, HIDDEN, device="cpu")
    rows = torch.randn(3, HIDDEN)
    expected = [rows[:1] @ grouped.weight0.T + grouped.bias0, rows[1:] @ grouped.weight1.T + grouped.bias1]
    assert torch.allclose(grouped(rows, sizes), torch.cat(expected))


def test_a_soft_cap_bounds_the_scores() -> None:
    import transformer_engine.pytorch as te

    torch.manual_seed(0)
    q, k, v = (torch.randn(5, 1, 2, 8, dtype=torch.float64) for _ in range(3))
    scores = torch.einsum("sbhd,tbhd->bhst", q, k) * 8**-0.5
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    weights = (0.5 * torch.tanh(scores / 0.5)).masked_fill(hidden, -torch.inf).softmax(-1)
    expected = torch.einsum("bhst,tbhe->sbhe", weights, v).flatten(2)
    capped = te.DotProductAttention(2, 8, softcap=0.5)
    assert torch.allclose(capped(q, k, v), expected)
    plain = te.DotProductAttention(2, 8)
    assert torch.allclose(plain(q, k, v, softcap=0.5), expected)
    assert not torch.allclose(plain(q, k, v), expected)


def test_gradients_are_scaled_by_a_number_or_a_tensor() -> None:
    from transformer_engine.pytorch.optimizers import (
        multi_tensor_applier,
        multi_tensor_scale,
        multi_tensor_scale_tensor,
    )

    source = [torch.arange(4.0), torch.ones(2)]
    results = []
    for function, scale in ((multi_tensor_scale, 0.5), (multi_tensor_scale_tensor, torch.tensor([0.5]))):
        target = [torch.empty_like(x) for x in source]
        multi_tensor_applier(function, torch.zeros(1), [source, target], scale)
        results.append(torch.cat(target).tolist())
    assert results == [[0.0, 0.5, 1.0, 1.5, 0.5, 0.5]] * 2


def test_one_parameter_for_all_experts_is_refused_only_where_it_would_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformer_engine.pytorch as te

    asked = {"single_grouped_weight": True, "single_grouped_bias": True, "device": "cpu"}
    grouped = te.GroupedLinear(2, HIDDEN, HIDDEN, **asked)
    assert not grouped.single_grouped_weight
    assert [name for name, _ in grouped.named_parameters()] == ["weight0", "bias0", "weight1", "bias1"]
    monkeypatch.setenv("NVTE_GROUPED_LINEAR_SINGLE_PARAM", "1")
    with pytest.raises(NotImplementedError, match=r"moe_single_grouped_weight.*NVTE_GROUPED_LINEAR_SINGLE_PARAM"):
        te.GroupedLinear(2, HIDDEN, HIDDEN, **asked)


@pytest.mark.parametrize(
    "name", ["GroupedLinear", "MakeExtraOutput", "ScaledClampedQGeGLU", "ScaledSReLU", "ScaledSwiGLU"]
)
def test_a_fused_operation_is_built_and_its_forward_names_the_options(name: str) -> None:
    from transformer_engine.pytorch import ops

    operation = getattr(ops, name)(*([2, HIDDEN, HIDDEN] if name == "GroupedLinear" else []))
    with pytest.raises(NotImplementedError, match=rf"ops\.{name} .* use_transformer_engine_op_fuser"):
        operation(torch.ones(2))
    with pytest.raises(NotImplementedError, match=r"ops\.Sequential .* use_transformer_engine_op_fuser"):
        ops.Sequential(operation)
