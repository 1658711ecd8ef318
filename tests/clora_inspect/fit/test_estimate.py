"""The estimate of a candidate is what `plan --memory` counts of its whole stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from spaces import estimator

from clora import CanonicalLoRA
from clora_inspect.cost.in_flight import CYCLES, ChunkBytes, worst_moment
from clora_inspect.cost.span import Span, joined
from clora_inspect.fit.candidates import Batch, Candidate
from clora_inspect.fit.estimate import Machine
from clora_inspect.fit.measure import Measurements
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.traffic import sent
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import load_definition

STEPS = 4


@dataclass
class Case:
    """One candidate, and how far its memory and its traffic may be off."""

    model: str
    layout: Layout
    rows: int = 1
    recompute: str = "none"
    fields: dict[str, Any] = field(default_factory=dict)
    memory: float = 0
    traffic: float = 1e-6
    seq_length: int = 512

    def __str__(self) -> str:
        return f"{self.model} {self.layout.label} {self.rows} {self.recompute}".replace(" ", "-")


SMALL = [
    Case("llama3-8b", Layout(tp=2, pp=2, world_size=8), fields={"num_layers": 6}),
    Case("llama3-8b", Layout(tp=2, pp=2, vpp=3, cp=2), recompute="full", fields={"num_layers": 6}),
    Case("llama3-8b", Layout(pp=2), recompute="selective:mlp", fields={"num_layers": 4}),
    # Its output weights are those of the embedding, of which the last stage holds a copy.
    Case("qwen2.5-0.5b", Layout(pp=3), recompute="selective", fields={"num_layers": 6}),
    # Layers with and without a window.
    Case("gemma2-9b", Layout(tp=2, pp=2), fields={"num_layers": 6}),
    Case("qwen3-30b-a3b", Layout(pp=2, ep=8, etp=1), recompute="selective:moe", fields={"num_layers": 4}),
    # Latent attention, dense layers first, and a layer that predicts one more token.
    Case("deepseek-v3", Layout(tp=4, pp=2, ep=8, etp=1), fields={"num_layers": 6}, memory=1e-4),
    # State spaces, attention and MLPs in turn; nothing is trained in the first layer.
    Case("nemotron-h-8b", Layout(tp=2, pp=2), fields={"num_layers": 12}),
    # Of a larger micro-batch the adapters' factors are gathered once, and not once a row.
    Case("llama3-8b", Layout(tp=2, pp=2), rows=4, fields={"num_layers": 4}, memory=0.02, traffic=0.15),
]
# To the byte for most of them.
LARGE = [
    Case("llama3-70b", Layout(tp=4, pp=4, world_size=64), seq_length=4096),
    Case("llama3-70b", Layout(tp=8, pp=2, vpp=5), recompute="full", seq_length=4096),
    Case("llama3-70b", Layout(tp=8, pp=2), rows=2, seq_length=4096, memory=0.01, traffic=0.02),
    Case("qwen3-235b-a22b", Layout(tp=4, pp=2, ep=8, etp=1), seq_length=4096),
    Case("qwen3-235b-a22b", Layout(cp=8, ep=8, etp=1), rows=2, seq_length=4096, memory=0.01, traffic=0.02),
    Case("deepseek-v3", Layout(tp=4, pp=16, cp=2, ep=2, etp=1), seq_length=4096, memory=1e-4),
    Case("deepseek-v3", Layout(tp=4, pp=16, ep=8, etp=1), recompute="full", seq_length=4096),
    Case("deepseek-v2-lite", Layout(pp=1, ep=8, etp=1), seq_length=4096, memory=1e-4),
    Case("qwen3-next-80b-a3b", Layout(tp=2, pp=4, ep=8, etp=1), seq_length=4096),
    Case("gpt-oss-120b", Layout(tp=2, pp=4, ep=4, etp=1), recompute="selective", seq_length=4096, memory=1e-4),
    Case("nemotron-h-8b", Layout(tp=2, pp=2, cp=2), recompute="selective", seq_length=4096),
    Case("gemma2-9b", Layout(tp=2, pp=3), seq_length=4096),
]


def _is_what_is_counted(case: Case) -> None:
    lora = CanonicalLoRA()
    fields = {**case.fields, **recompute_fields(case.recompute)}
    definition = load_definition(case.model).override(fields)
    layout = case.layout.with_etp(has_experts=definition.has_experts).resolved()
    workload = Workload(seq_length=case.seq_length, micro_batch_size=case.rows, num_microbatches=STEPS)
    job = Job(model=case.model, layout=layout, model_overrides=fields, lora=lora)
    measurements = Measurements(job, definition, Machine(), workload, lambda _: None)
    measurements.batch = Batch(gpus=layout.world, seq_length=case.seq_length, rows=STEPS * case.rows * layout.dp)
    candidate = Candidate(layout, case.rows, case.recompute)
    with measurements.ready():
        estimated = estimator(measurements, candidate).estimate(candidate)
    ranks: list[Any] = list(plan_job(job, workload).rank_classes)
    peaks = [each.memory.peak_bytes for each in ranks]
    assert estimated.peak_bytes == pytest.approx(max(peaks), rel=case.memory, abs=0)
    assert peaks[estimated.fullest_stage] == pytest.approx(max(peaks), rel=case.memory, abs=0)
    of_step = max(sent(each.traffic) * STEPS + sent(each.traffic, per_step=True) for each in ranks)
    assert estimated.sent_bytes == pytest.approx(of_step, rel=case.traffic)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_an_estimate_is_what_is_counted_of_whole_stages(case: Case) -> None:
    _is_what_is_counted(case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", LARGE, ids=str)
def test_an_estimate_is_what_is_counted_of_large_jobs(case: Case) -> None:
    _is_what_is_counted(case)


def test_spans_add_up_to_the_span_of_a_whole_run() -> None:
    moments = [0, 5, 3, 9, 4, 4, 7, 1]

    def span(start: int, end: int) -> Span:
        changes = [each - moments[start] for each in moments[start : end + 1]]
        return Span(changes[-1], max(changes))

    assert joined([span(0, 2), span(2, 5), span(5, 7)]) == span(0, 7) == Span(1, 9)
    assert joined([]) == Span()


@pytest.mark.parametrize(("chunks", "stages"), [(1, 1), (1, 4), (2, 2), (3, 4), (4, 2)])
def test_a_long_step_has_the_same_peak_as_its_beginning(chunks: int, stages: int) -> None:
    """Checked against a step that is longer and not cut."""
    needs = [ChunkBytes(kept=10 + number, forward_peak=20, backward_peak=31 - number) for number in range(chunks)]
    for stage in range(stages):
        short = worst_moment(needs, stage=stage, stages=stages, micro_batches=CYCLES * stages)
        assert short == worst_moment(needs, stage=stage, stages=stages, micro_batches=7 * stages)
