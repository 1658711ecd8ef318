"""What megatron-core keeps for the process: a model meets nothing of the one before it."""

from __future__ import annotations

import pytest

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request
from clora_inspect.virtual import virtual_cluster, virtual_megatron


@pytest.mark.parametrize(
    ("model", "key", "sizes"),
    [("llama3-8b", "mtp_num_layers", (1, 2)), ("qwen3-30b-a3b", "num_layers", (2, 4))],
)
def test_a_model_with_more_layers_than_the_one_before_is_proved(model: str, key: str, sizes: tuple[int, ...]) -> None:
    for size in sizes:
        job = Job(model=model, model_overrides={key: size})
        report = verify(Request(job=job, proofs=("zero-b", "liveness")))
        assert [proof for proof in report.proofs if proof.status is ProofStatus.FAILED] == []
        assert report.ok


def test_each_cluster_begins_afresh_and_gives_back_what_was_there() -> None:
    with quiet(), virtual_megatron("cpu"):
        from megatron.core.transformer.moe import moe_utils
        from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper as Losses

        Losses.tracker = of_the_caller = {"values": "of an earlier run"}
        with virtual_cluster(Layout()):
            assert Losses.tracker == {}
            Losses.tracker["values"] = "of this run"
            moe_utils.MoEAuxLossAutoScaler.main_loss_backward_scale = "of this run"
        assert Losses.tracker is of_the_caller
        assert of_the_caller == {"values": "of an earlier run"}
        assert moe_utils.MoEAuxLossAutoScaler.main_loss_backward_scale is None
        Losses.tracker = {}
