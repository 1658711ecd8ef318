"""Candidates are complete, and what is estimated of one is what building it gives."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import Any

import msgspec
import pytest

from clora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.fit.candidates import MICRO_BATCHES, Batch, Candidate, Refused, candidates
from clora_inspect.fit.estimate import Machine, Stage, chunks_of, estimate
from clora_inspect.fit.search import fit
from clora_inspect.fit.unit import kinds, measured, short_definition
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.traffic import sent
from clora_inspect.job.workload import Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import megatron_on, virtual_cluster

DENSE = {
    "num_layers": 8,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 4,
    "kv_channels": 16,
}
EXPERTS = {
    **DENSE,
    "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1],
    "num_moe_experts": 8,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 32,
}
LORA = CanonicalLoRA(dim=4)


def test_every_layout_of_the_gpus_is_a_candidate_or_refused() -> None:
    definition, refused = load_definition("llama3-8b").override(DENSE), Refused()
    found = list(candidates(definition, Batch(gpus=8, seq_length=64, rows=8), refused))
    sizes = (1, 2, 4, 8)
    # tp x pp x cp divides 8, and the chunks of pp > 1 stages divide 8 layers.
    layouts = [
        (tp, pp, cp, vpp)
        for tp, pp, cp, vpp in product(sizes, repeat=4)
        if tp * pp * cp <= 8 and (vpp == 1 or (pp > 1 and pp * vpp <= 8))
    ]
    assert len(set(found)) == len(found)
    assert len(found) + refused.reasons.total() == len(layouts) * len(MICRO_BATCHES) * 2
    assert {each.layout.world for each in found} == {8}
    # tp = 8 does not divide 4 heads.
    assert refused.reasons["tp does not divide the model"] == len(MICRO_BATCHES) * 2
    assert all(each.micro_batches(Batch(gpus=8, seq_length=64, rows=8)) >= 1 for each in found)


@pytest.mark.parametrize(
    ("vpp", "micro_batches", "stage", "chunks"),
    [
        (1, 8, 0, [0, 0, 0, 0]),
        (1, 8, 3, [0]),
        (1, 2, 0, [0, 0]),
        # The last stage warms up with the forwards of all chunks but the last.
        (2, 8, 3, [0, 0, 0, 0, 1]),
        (2, 8, 0, [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0]),
    ],
)
def test_forwards_that_wait_for_their_backward(vpp: int, micro_batches: int, stage: int, chunks: list[int]) -> None:
    candidate = Candidate(Layout(pp=4, vpp=vpp), 1, "none")
    unit: Any = None
    assert Stage(candidate, unit, stage, []).in_flight(micro_batches) == chunks


CASES: dict[str, tuple[str, dict[str, Any], Layout]] = {
    "dense": ("llama3-8b", DENSE, Layout(tp=2, pp=2)),
    "experts, interleaved": ("qwen3-30b-a3b", EXPERTS, Layout(tp=2, pp=2, vpp=2, ep=2, etp=1)),
}


@pytest.mark.parametrize(("model", "fields", "layout"), CASES.values(), ids=CASES.keys())
def test_a_stage_is_the_sum_of_its_layers(model: str, fields: dict[str, Any], layout: Layout) -> None:
    definition = load_definition(model).override(fields)
    with quiet(), megatron_on("meta"):
        unit = measured(definition, LORA, layout, 32, {})
        chunks = chunks_of(definition, layout, unit)
        for number in range(layout.pp):
            costs = Stage(Candidate(layout, 1, "none"), unit, number, chunks[number :: layout.pp]).costs
            built = _built(definition, layout, number)
            assert sum(cost.weights for cost in costs) == built["weights"]
            assert sum(cost.trained for cost in costs) == built["trained"]
            assert sum(cost.trained_experts for cost in costs) == built["trained_experts"]
            assert sum(cost.forward for cost in costs) == built["forward"]
    assert set(kinds(short_definition(definition))) == set(kinds(definition))


def _built(definition: Any, layout: Layout, stage: int) -> dict[str, int]:
    """Return what the real stage has, and what its forward takes."""
    from clora_inspect.cost.flops import FlopCount
    from clora_inspect.cost.microbatch import MicroBatch, forward
    from clora_inspect.cost.operations import counting
    from clora_inspect.cost.ownership import ownership
    from clora_inspect.sources.build import build_chunks

    with virtual_cluster(layout, stage * layout.model_world // layout.pp):
        chunks = build_chunks(definition, layout)
        LORA(chunks)
        parameters: list[Any] = [parameter for chunk in chunks for parameter in chunk.parameters()]
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        experts = [parameter for parameter in trained if not vars(parameter).get("allreduce", True)]
        with ownership(chunks) as owner:
            count = FlopCount(owner)
            with counting(count):
                for number, chunk in enumerate(chunks):
                    forward(chunk, MicroBatch(32), number=number)
    return {
        "weights": sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in trained) - sum(parameter.numel() for parameter in experts),
        "trained_experts": sum(parameter.numel() for parameter in experts),
        "forward": count.flops.base_forward + count.flops.adapter_forward,
    }


def test_the_layouts_that_fit_come_with_the_smallest_change() -> None:
    batch = Batch(gpus=2, seq_length=64, rows=2)
    job = Job(model="llama3-8b", model_overrides=DENSE, lora=LORA)
    everything = fit(job, batch, 1 << 40)
    assert everything.too_large == 0
    assert everything.smallest_change is None
    assert [each.seconds for each in everything.fitting] == sorted(each.seconds for each in everything.fitting)
    own = everything.asked
    assert own is not None
    assert own.candidate == Candidate(Layout(etp=1, world_size=2), 1, "none")
    # One byte less than it needs: a layout with less memory is proposed, with the fewest changes.
    recomputing = dataclasses.replace(job, model_overrides={**job.model_overrides, **recompute_fields("full")})
    assert fit(recomputing, batch, 1 << 40).fitting == everything.fitting
    tight = fit(job, batch, own.peak_bytes - 1)
    assert tight.too_large > 0
    change = tight.smallest_change
    assert change is not None
    assert change.peak_bytes < own.peak_bytes
    changes = change.candidate.changes(own.candidate)
    assert len(changes) == min(len(each.candidate.changes(own.candidate)) for each in tight.fitting) == 1
    nothing = fit(job, batch, tight.smallest.peak_bytes - 1)
    assert nothing.fitting == ()
    assert nothing.smallest == tight.smallest


def test_recomputation_trades_memory_for_operations() -> None:
    layout = Layout(tp=1, pp=2, world_size=2)
    definition, batch = load_definition("llama3-8b").override(DENSE), Batch(gpus=2, seq_length=256, rows=4)
    with quiet(), megatron_on("meta"):
        unit = measured(definition, LORA, layout, batch.seq_length, {})
    kept, again = (
        estimate(Candidate(layout, 1, recompute), unit, definition, batch, Machine()) for recompute in ("none", "full")
    )
    assert again.peak_bytes < kept.peak_bytes
    assert again.seconds > kept.seconds
    assert kept.bubble == pytest.approx(1 / 5)
    longer = msgspec.structs.replace(layout, pp=1, world_size=2)
    alone = estimate(Candidate(longer, 1, "none"), unit, definition, batch, Machine())
    assert alone.bubble == 0


def test_a_job_without_any_layout_is_refused_with_the_reasons() -> None:
    job = Job(model="llama3-8b", model_overrides=DENSE, lora=LORA)
    with pytest.raises(CloraError, match=r"cannot be spread over 64 GPUs.*dp and the micro-batch"):
        fit(job, Batch(gpus=64, seq_length=1, rows=1), 1 << 40)
    with pytest.raises(CloraError, match="makes its own config"):
        fit(Job(model="recipes:build"), Batch(gpus=8, seq_length=64, rows=8), 1 << 40)


@pytest.mark.parametrize(
    ("layout", "rows", "recompute"),
    [(Layout(tp=4, pp=2, world_size=16), 1, "none"), (Layout(tp=8, etp=1), 2, "full")],
    ids=["1F1B", "recomputed"],
)
def test_an_estimate_is_what_is_counted_of_whole_stages(layout: Layout, rows: int, recompute: Any) -> None:
    fields = {"num_layers": 8}
    again = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    batch = Batch(gpus=layout.world, seq_length=4096, rows=16)
    candidate = Candidate(layout, rows, recompute)
    definition = load_definition("llama3-70b").override(fields)
    with quiet(), megatron_on("meta"):
        unit = measured(definition, CanonicalLoRA(), layout, batch.seq_length, fields)
        estimated = estimate(candidate, unit, definition, batch, Machine())
    job = Job(model="llama3-70b", layout=layout, model_overrides=fields | (again if recompute == "full" else {}))
    steps = candidate.micro_batches(batch)
    plan = plan_job(job, Workload(seq_length=4096, micro_batch_size=rows, num_microbatches=steps))
    ranks: list[Any] = list(plan.rank_classes)
    peaks = [each.memory.peak_bytes for each in ranks]
    assert estimated.peak_bytes == pytest.approx(max(peaks), rel=0.03)
    assert estimated.fullest_stage == peaks.index(max(peaks))
    # Of a larger micro-batch the adapters' factors are gathered once, and not once a row.
    assert estimated.sent_bytes == pytest.approx(max(sent(each.traffic) for each in ranks) * steps, rel=0.02)
