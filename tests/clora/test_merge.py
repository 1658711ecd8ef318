"""A merged model computes what the adapted one computes, and unmerging restores the base."""

from __future__ import annotations

from typing import Any

import lora_models
import pytest
import torch

from clora import CanonicalLoRA, MergeError, merge_adapters, merge_and_unload, revert, unmerge_adapters
from clora.wrappers import adapted_modules
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

LENGTH = 6
BOUND = 1e-10


pytestmark = pytest.mark.usefixtures("one_rank")


def adapted(kind: str, *, dtype: torch.dtype = torch.float64, fields: dict[str, Any] | None = None, **lora: Any) -> Any:
    """Return a model in eval mode with random A and B."""
    (model,) = lora_models.build(kind, Layout(), dtype=dtype, **(fields or {}))
    with quiet():
        CanonicalLoRA(**{"target_modules": lora_models.TARGETS, "dim": 4, "alpha": 6, **lora})(model)
    lora_models.fill(model, only=".adapter.", std=0.2)
    return model.eval()


def out_of(model: Any, kind: str) -> torch.Tensor:
    """Return the logits, or the loss where only labels make the whole model run."""
    tokens, positions, labels = lora_models.batch(LENGTH)
    with torch.no_grad(), quiet():
        out: torch.Tensor = model(tokens, positions, None, labels=labels if "mtp" in kind else None)
    return out


def base_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".adapter." not in name}


def unequal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        pytest.param(kind, share, id=kind if share else f"{kind} per expert")
        for kind, fields in lora_models.KINDS.items()
        for share in ((True, False) if fields.get("moe_grouped_gemm") else (True,))
    ],
)
def test_merged_weights_give_the_adapters_forward(kind: str, share: bool) -> None:
    model = adapted(kind, share_expert_adapters=share)
    with_adapters, before = out_of(model, kind), base_weights(model)
    merge_adapters(model)
    bound = 1e-5 if "mtp" in kind else BOUND  # megatron-core computes the loss in fp32
    torch.testing.assert_close(out_of(model, kind), with_adapters, rtol=bound, atol=bound)
    changed = unequal(base_weights(model), before)
    assert len(changed) >= sum(
        1 for name, _ in model.named_parameters() if name.endswith("linear_proj.adapter.linear_in.weight")
    )
    unmerge_adapters(model)
    assert unequal(base_weights(model), before) == []
    assert torch.equal(out_of(model, kind), with_adapters)


@pytest.mark.parametrize(
    "parts", [["linear_q"], ["linear_v"], ["linear_q", "linear_v"], ["linear_fc1_up"], ["linear_fc1_gate"]]
)
@pytest.mark.parametrize("kind", ["gqa", "output-gate"])
def test_parts_that_are_not_adapted_keep_their_rows(kind: str, parts: list[str]) -> None:
    model = adapted(kind, target_modules=parts)
    with_adapters = out_of(model, kind)
    merge_adapters(model)
    torch.testing.assert_close(out_of(model, kind), with_adapters, rtol=BOUND, atol=BOUND)


def test_rows_of_q_k_and_v_are_those_of_a_dense_formula() -> None:
    model = adapted("gqa")
    qkv = model.decoder.layers[0].self_attention.linear_qkv
    before = qkv.weight.detach().clone()
    deltas = {
        part: 6 / 4 * adapter.linear_out.weight @ adapter.linear_in.weight for part, adapter in qkv.adapters.items()
    }
    merge_adapters(model)
    # Four heads of 8 channels in two groups are packed as q q k v, q q k v.
    q, k, v = deltas["q"].split(8), deltas["k"].split(8), deltas["v"].split(8)
    expected = torch.cat([q[0], q[1], k[0], v[0], q[2], q[3], k[1], v[1]])
    torch.testing.assert_close(qkv.weight - before, expected, rtol=BOUND, atol=BOUND)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_is_rounded_once_and_restored(dtype: torch.dtype) -> None:
    model = adapted("gqa", dtype=dtype)
    fc2 = model.decoder.layers[1].mlp.linear_fc2
    before = base_weights(model)
    a, b = (factor.weight.double() for factor in (fc2.adapter.linear_in, fc2.adapter.linear_out))
    exact = fc2.weight.double() + 6 / 4 * b @ a
    merge_adapters(model)
    assert ((fc2.weight.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() / 2 + 1e-7).all()
    unmerge_adapters(model)
    assert unequal(base_weights(model), before) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_without_copies_unmerging_subtracts_within_the_bound(dtype: torch.dtype) -> None:
    model = adapted("gqa", dtype=dtype)
    before = base_weights(model)
    merge_adapters(model, keep_base=False)
    merged = base_weights(model)
    unmerge_adapters(model)
    after = base_weights(model)
    assert unequal(merged, after)
    for name, weight in before.items():
        # The sum and the difference are rounded once each, and in fp32 and wider the product, too.
        bound = torch.finfo(dtype).eps * (merged[name].abs() + weight.abs() + 1)
        assert ((after[name] - weight).abs() <= bound).all(), name


def test_copies_of_weights_in_fp8_are_made_anew() -> None:
    # Transformer Engine multiplies with the copy of an earlier forward where this is False.
    model = adapted("grouped-experts")
    linears = [module for _, module in adapted_modules(model) if hasattr(module, "is_first_microbatch")]
    assert len(linears) == 8
    for change in (merge_adapters, unmerge_adapters):
        out_of(model, "grouped-experts")
        assert [module.is_first_microbatch for module in linears] == [False] * 8
        change(model)
        assert [module.is_first_microbatch for module in linears] == [True] * 8


def test_what_is_merged_is_not_merged_again_nor_switched() -> None:
    model = adapted("gqa")
    before = base_weights(model)
    lora = CanonicalLoRA()
    assert lora.merge(model) is model
    after = base_weights(model)
    with pytest.raises(MergeError, match=r"linear_proj is merged already: its adapter would count twice.*unmerge"):
        merge_adapters(model)
    with pytest.raises(MergeError, match="cannot be switched on or off"):
        lora.enable_adapter_layers(model)
    with pytest.raises(MergeError, match="cannot be switched on or off"), lora.disable_adapter(model):
        pass
    assert unequal(base_weights(model), after) == []
    assert lora.unmerge(model) is model
    assert unequal(base_weights(model), before) == []
    lora.enable_adapter_layers(model)


def test_disabled_adapters_are_disabled_after_unmerging_too() -> None:
    model = adapted("gqa")
    CanonicalLoRA().disable_adapter_layers(model)
    base = out_of(model, "gqa")
    merge_adapters(model)
    assert not torch.equal(out_of(model, "gqa"), base)
    unmerge_adapters(model)
    assert torch.equal(out_of(model, "gqa"), base)


def test_reverting_a_merged_model_gives_back_the_base() -> None:
    model = adapted("grouped-experts")
    before = base_weights(model)
    merge_adapters(model)
    revert(model)
    assert unequal(dict(model.named_parameters()), before) == []


def test_merging_for_good_leaves_a_base_model() -> None:
    (untouched,) = lora_models.build("grouped-experts", Layout())
    model = adapted("grouped-experts")
    with_adapters = out_of(model, "grouped-experts")
    merge_and_unload(model)
    assert model.state_dict().keys() == untouched.state_dict().keys()
    assert {type(module) for module in model.modules()} == {type(module) for module in untouched.modules()}
    torch.testing.assert_close(out_of(model, "grouped-experts"), with_adapters, rtol=BOUND, atol=BOUND)
    merge_and_unload(adapted("gqa"))


def test_tied_embeddings_are_not_changed_behind_the_embedding() -> None:
    model = adapted("gqa")
    model.output_layer.weight = None
    before = base_weights(model)
    with pytest.raises(MergeError, match=r"output_layer has the embedding's weight .*Leave output_layer out"):
        merge_adapters(model)
    assert unequal(base_weights(model), before) == []


def test_quantised_weights_are_refused() -> None:
    model = adapted("gqa", target_modules=["linear_proj"])
    proj = model.decoder.layers[1].self_attention.linear_proj
    proj.weight = torch.nn.Parameter(proj.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
    before = base_weights(model)
    with pytest.raises(
        MergeError, match=r"layers\.1\.self_attention\.linear_proj\.weight is quantised .*float8_e4m3fn"
    ):
        merge_adapters(model)
    assert (
        unequal(
            {n: p.view(torch.uint8) for n, p in base_weights(model).items()},
            {n: p.view(torch.uint8) for n, p in before.items()},
        )
        == []
    )


def test_a_base_model_has_nothing_to_merge() -> None:
    (model,) = lora_models.build("gqa", Layout())
    with pytest.raises(MergeError, match="no adapters"):
        merge_adapters(model)
    unmerge_adapters(model)
