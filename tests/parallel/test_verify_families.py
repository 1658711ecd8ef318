"""A layout of several ranks computes what one rank computes, for each kind of layer that only some
families of Hugging Face have.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from family_configs import small_config

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

TP2, PP2, EP2 = Layout(tp=2, etp=1), Layout(pp=2), Layout(ep=2)
DENSE = {
    "olmo2": {},
    "exaone4": {"sliding_window": 8},
    "smollm3": {},
    "seed_oss": {"attention_out_bias": True},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "gemma3_text": {"sliding_window": 8},
    # A layer that predicts a further token has outputs of its own.
    "mimo": {"num_nextn_predict_layers": 1},
}
SPARSE: dict[str, dict[str, Any]] = {
    "olmoe": {},
    "minimax_m2": {},
    "ernie4_5_moe": {},
    "llama4_text": {"interleave_moe_layer_step": 2},
    "qwen2_moe": {},
    "granitemoeshared": {"residual_multiplier": 0.5, "shared_intermediate_size": 32},
    "deepseek_v32": {},
}
IN_EVERY_RUN = [("olmo2", Layout(tp=2), {}), ("ernie4_5_moe", EP2, {}), ("mimo", Layout(tp=2), DENSE["mimo"])]
CASES = [
    *((family, layout, fields) for family, fields in DENSE.items() for layout in (Layout(tp=2), PP2)),
    *((family, layout, fields) for family, fields in SPARSE.items() for layout in (TP2, EP2, PP2)),
]


pytestmark = pytest.mark.usefixtures("shared_processes")


@pytest.mark.parametrize(
    ("family", "layout", "fields"),
    [
        pytest.param(*case, id=f"{case[0]} {case[1].label}", marks=() if case in IN_EVERY_RUN else pytest.mark.nightly)
        for case in CASES
    ],
)
def test_two_ranks_compute_what_one_computes(
    family: str, layout: Layout, fields: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**small_config(family), **fields}))
    report = verify(Request(job=Job(model=str(tmp_path), layout=layout), procs=2, proofs=("merge", "layout")))
    assert [proof for proof in report.proofs if proof.status != ProofStatus.PASSED] == []
    assert report.dropped == ()
