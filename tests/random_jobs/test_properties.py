"""The properties can fail: each of these faults, put into the library or the tool, breaks one. They
hold of jobs that a night's random jobs once failed with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from advice import CHOSEN, NOT_CHOSEN
from architectures import Architecture
from outcome import RIGHT, outcome
from proved import is_proved
from random_job import RandomJob

import clora_inspect
from clora import planner
from clora.sharding import checkpoint
from clora_inspect import pipeline
from clora_inspect.rules.targeting import coverage

if TYPE_CHECKING:
    from collections.abc import Callable

EXPERTS = {
    "model_type": "mixtral",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
JOB = RandomJob(
    Architecture("mixtral", EXPERTS, {"moe_grouped_gemm": False}),
    layout={"tp": 2, "pp": 2, "cp": 2, "ep": 2, "etp": 1},
    split={},
    lora={"dim": 8, "alpha": 8, "target_modules": [], "exclude_modules": ["linear_k"]},
)

INDEXED = {
    **EXPERTS,
    "model_type": "deepseek_v32",
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 0,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
ALL = {"dim": 8, "alpha": 8, "target_modules": []}
SECOND_LAYER = {**ALL, "target_modules": ["*.layers.1.*.linear_fc2"], "normalize_moe_lora": True}

OF_NIGHTS = {
    "one rank has a layer of a number that no stage has, and refuses its dim": RandomJob(
        Architecture("mixtral", {**EXPERTS, "num_experts_per_tok": 3}, {}), {"pp": 2}, {}, SECOND_LAYER
    ),
    "the indexer's loss has no weight": RandomJob(Architecture("deepseek_v32", INDEXED, {}), {}, {}, ALL),
    "the prediction layer's loss has no weight": RandomJob(
        Architecture("mixtral", EXPERTS, {"mtp_num_layers": 1, "mtp_loss_scaling_factor": 0.0}), {}, {}, ALL
    ),
}

BIASED = {"moe_grouped_gemm": False, "add_bias_linear": True}
PROVED_OF_NIGHTS = {
    "megatron-core adds the bias of an expert in place": RandomJob(
        Architecture("mixtral", EXPERTS, BIASED), {}, {}, {**ALL, "target_modules": ["linear_proj"]}
    ),
}


def _one_copy() -> Any:
    return patch.object(planner._Visit, "copies", 1)


def _rank_split_along_in() -> Any:
    plain = planner._mesh_axes

    def swapped(facts: Any) -> Any:
        a_axes, b_axes = plain(facts)
        return a_axes[::-1], b_axes

    return patch.object(planner, "_mesh_axes", swapped)


def _every_copy_is_written() -> Any:
    return patch.object(checkpoint, "_replica", lambda *_: (0, 0, 0))


def _no_copy_is_written() -> Any:
    return patch.object(checkpoint, "_replica", lambda *_: (0, 0, 1))


def _last_stage_is_counted_twice() -> Any:
    plain = pipeline.totals
    return patch.object(pipeline, "totals", lambda plans: plain([*plans, plans[-1]]))


def _exclusions_are_not_read() -> Any:
    return patch.object(planner._TargetMatcher, "exclusion_of", lambda *_: None)


def _told_to_add_targets() -> Any:
    return patch.object(coverage, "to_adapt", lambda _job, aim, _linears, targets: f"{aim} add: {', '.join(targets)}")


FAULTS: dict[str, Callable[[], Any]] = {
    "a sequential expert is counted once for all ranks": _one_copy,
    "A is split along the other dim": _rank_split_along_in,
    "every copy is written": _every_copy_is_written,
    "no copy is written": _no_copy_is_written,
    "the last stage is counted twice": _last_stage_is_counted_twice,
    "exclusions are not read": _exclusions_are_not_read,
    "a job with exclusions is told to add targets": _told_to_add_targets,
}


def test_the_job_without_a_fault_is_right(tmp_path: Path) -> None:
    assert outcome(JOB, tmp_path, follow_findings=True) == RIGHT


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path) -> None:
    with FAULTS[fault](), pytest.raises(AssertionError):
        assert outcome(JOB, tmp_path, follow_findings=True) == RIGHT


@pytest.mark.parametrize("name", OF_NIGHTS)
def test_a_job_of_a_night_is_right(name: str, tmp_path: Path) -> None:
    assert outcome(OF_NIGHTS[name], tmp_path, follow_findings=True) == RIGHT


@pytest.mark.parametrize("name", PROVED_OF_NIGHTS)
def test_a_job_of_a_night_is_proved(name: str, tmp_path: Path) -> None:
    assert is_proved(PROVED_OF_NIGHTS[name], tmp_path, proofs=("gradients",)) == RIGHT


def test_advice_knows_each_word_that_a_message_has_in_the_place_of_a_value() -> None:
    sources = Path(str(clora_inspect.__file__)).parent.rglob("*.py")
    words = {word for file in sources for word in re.findall(r"--set '?model\.[^\s=]+=([A-Z]+)\b", file.read_text())}
    assert words == {*CHOSEN, *NOT_CHOSEN}
