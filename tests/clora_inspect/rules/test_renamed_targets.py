"""A target with the names of another class of model, or of another release of megatron-core, gets
the one that selects the same modules as advice.
"""

from __future__ import annotations

import pytest
from rule_cases import MTP, PAIRS, Setup

from clora_inspect.job.finding import Finding
from clora_inspect.rules.targeting.hybrid_layers import HybridLayerNumber
from clora_inspect.rules.targeting.unmatched import UnmatchedExclusion, UnmatchedTarget

UNMATCHED = {
    "a layer of a GPTModel": (PAIRS, "*.layers.1.*.linear_q", "write *.layers.{2..3}.*.linear_q"),
    "its whole path": (
        PAIRS,
        "decoder.layers.1.self_attention.linear_proj",
        "write decoder.layers.2.self_attention.linear_proj",
    ),
    "the newer name of a prediction layer": (
        MTP,
        "mtp.*.mtp_model_layer.*.linear_proj",
        "write mtp.*.transformer_layer.*.linear_proj",
    ),
}


def one(rule: type, setup: Setup) -> Finding:
    (finding,) = rule().check(setup.job())
    return finding


@pytest.mark.parametrize("case", UNMATCHED)
def test_an_unmatched_target_gets_the_name_that_it_has_here(case: str) -> None:
    model, target, advice = UNMATCHED[case]
    for rule, lora in (
        (UnmatchedTarget, {"target_modules": [target, "linear_fc2"]}),
        (UnmatchedExclusion, {"target_modules": [], "exclude_modules": [target]}),
    ):
        finding = one(rule, Setup(model, lora))
        assert finding.help is not None
        assert finding.help.endswith(advice)


def test_a_matched_one_gets_the_numbers_of_the_same_modules() -> None:
    finding = one(HybridLayerNumber, Setup(PAIRS, {"target_modules": ["*.layers.{0..1}.*.linear_fc2"]}))
    assert finding.message.endswith("read as numbers of the GPTModel it means layers {1,3}")
    assert str(finding.help).startswith("write *.layers.{0..3}.*.linear_fc2 for")
