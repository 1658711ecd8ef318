"""Findings on a checkpoint that differs, without making one."""

from __future__ import annotations

import pytest

from clora_inspect.checkpoint.asked import AskedTensor
from clora_inspect.checkpoint.comparison import compare, divided
from clora_inspect.rules.checkpoint import adapter_findings, difference_findings

ROWS = "embedding.word_embeddings.weight"
ASKED = {
    ROWS: AskedTensor((32000, 64), may_differ=True),
    "decoder.layers.self_attention.linear_qkv.weight": AskedTensor((4, 96, 64)),
    "decoder.final_layernorm.weight": AskedTensor((64,)),
}
SAVED = {key: tensor.shape for key, tensor in ASKED.items()}


def test_names_of_a_wrapper_are_seen_through() -> None:
    prefixed = {f"module.{key}": shape for key, shape in SAVED.items()}
    first, _ = difference_findings(compare(ASKED, prefixed), "ck", None)
    assert first.help is not None
    assert first.help.startswith("its names begin with 'module.'")


@pytest.mark.parametrize(
    ("rows", "asked", "found"),
    [
        (32000, 32000, False),
        # Padded to a multiple of 128 * tp, with tp = 1, 8 and 64.
        (32000, 31994, False),
        (32768, 32000, False),
        (32768, 32001, False),
        (40960, 32000, True),
        (32001, 32000, True),
        (32000, 32001, True),
    ],
)
def test_padding_is_no_finding(rows: int, asked: int, found: bool) -> None:
    wanted = {**ASKED, ROWS: AskedTensor((asked, 64), may_differ=True)}
    codes = [each.code for each in difference_findings(compare(wanted, {**SAVED, ROWS: (rows, 64)}), "ck", None)]
    assert codes == (["CL624"] if found else [])


def test_what_a_trainer_keeps_beside_the_model_is_left_out() -> None:
    beside = {
        "optimizer.state.exp_avg.decoder.final_layernorm.weight": (64,),
        "chained_0.optimizer.state.fp32_param.decoder.layers.mlp.linear_fc1.weight": (4, 96, 64),
        "optimizer.state.exp_avg.decoder.layers.self_attention.linear_proj.adapter.linear_in.weight": (4, 8, 64),
        "decoder.layers.self_attention.linear_qkv._extra_state": (4, 10),
        "rng_state": (2,),
    }
    saved = divided({**SAVED, **beside})
    assert (saved.base, saved.adapters) == (SAVED, {})


def test_lora_that_is_not_canonical_is_named() -> None:
    asked = {"decoder.layers.self_attention.linear_qkv.adapter.adapter_q.linear_in.weight": AskedTensor((4, 8, 64))}
    saved = {"decoder.layers.self_attention.linear_qkv.adapter.linear_in.weight": (4, 8, 64)}
    (finding,) = adapter_findings(compare(asked, saved), "ck", None)
    assert finding.help is not None
    assert finding.help.startswith("they were trained as LoRA, one pair for a fused linear")


def test_experts_that_megatron_bridge_saved_with_an_axis_are_no_finding() -> None:
    key = "decoder.layers.mlp.experts.linear_fc1.adapter.linear_in.weight"
    asked = {key: AskedTensor((4, 8, 64), shape_in_bridge=(4, 16, 8, 64))}
    for shape, codes in (((4, 8, 64), 0), ((4, 16, 8, 64), 0), ((4, 32, 8, 64), 1)):
        assert len([*adapter_findings(compare(asked, {key: shape}), "ck", None)]) == codes


def test_a_checkpoint_of_a_thousand_other_tensors_is_cut() -> None:
    saved = {**SAVED, **{f"other.{number}.weight": (1,) for number in range(1000)}}
    (finding,) = difference_findings(compare(ASKED, saved), "ck", None)
    assert finding.message == "ck has 1000 tensors that this job does not ask for"
    assert (len(finding.details), finding.details[-1]) == (201, "and 800 more")
