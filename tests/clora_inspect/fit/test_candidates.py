"""Candidates are complete, and what is one can be built."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import pytest
from spaces import DENSE, EXPERTS, Space

from clora import CanonicalLoRA
from clora.errors import GeometryError, ModelError
from clora_inspect.fit.candidates import MICRO_BATCHES, Batch, Candidate, Refused, candidates, fault
from clora_inspect.fit.estimate import Estimator, in_flight
from clora_inspect.fit.stage import Stage
from clora_inspect.fit.unit import kinds, shortened
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields, recompute_text
from clora_inspect.pipeline import plan_job
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import load_definition

SETTINGS = ("none", "full")


def test_every_layout_of_the_gpus_is_a_candidate_or_refused() -> None:
    definition, refused = load_definition("llama3-8b").override(DENSE), Refused()
    batch = Batch(gpus=8, seq_length=64, rows=8)
    found = list(candidates(definition, batch, refused, SETTINGS))
    sizes = (1, 2, 4, 8)
    # tp x pp x cp divides 8, and the chunks of pp > 1 stages divide 8 layers.
    layouts = [
        (tp, pp, cp, vpp)
        for tp, pp, cp, vpp in product(sizes, repeat=4)
        if tp * pp * cp <= 8 and (vpp == 1 or (pp > 1 and pp * vpp <= 8))
    ]
    assert len(set(found)) == len(found)
    assert len(found) + refused.reasons.total() == len(layouts) * len(MICRO_BATCHES) * len(SETTINGS)
    assert {each.layout.world for each in found} == {8}
    # tp = 8 does not divide 4 heads.
    assert refused.reasons["tp does not divide the model"] == len(MICRO_BATCHES) * len(SETTINGS)
    assert all(each.micro_batches(batch) >= 1 for each in found)


@pytest.mark.parametrize(
    ("model", "fields", "layout", "batch", "reason"),
    [
        ("llama3-8b", DENSE, Layout(), Batch(gpus=8, seq_length=64, rows=8, packed=3), "packed does not divide the row"),
        ("llama3-8b", DENSE, Layout(cp=2), Batch(gpus=8, seq_length=66, rows=8), "cp does not divide the sequence"),
        ("llama3-8b", DENSE, Layout(tp=4), Batch(gpus=8, seq_length=66, rows=8), "tp does not divide the sequence"),
        ("llama3-8b", DENSE, Layout(cp=2, tp=4), Batch(gpus=8, seq_length=68, rows=8), "cp and tp do not divide the sequence"),
        ("llama3-8b", DENSE, Layout(cp=2), Batch(gpus=8, seq_length=64, rows=8, packed=32), "cp does not divide the packed sequences"),
        ("llama3-8b", DENSE, Layout(ep=2), Batch(gpus=8, seq_length=64, rows=8), "ep: spreads experts, and llama3-8b has none"),
        ("nemotron-h-8b", {}, Layout(pp=2, vpp=2), Batch(gpus=8, seq_length=64, rows=8), "vpp: megatron-core's Mamba models have no interleaved pipeline"),
        ("gemma2-9b", {}, Layout(cp=2), Batch(gpus=8, seq_length=64, rows=8), "cp: gemma2-9b caps the scores of its attention, which Transformer Engine does not, and megatron-core's own attention has no context parallelism"),
        ("gpt-oss-20b", {}, Layout(tp=2), Batch(gpus=8, seq_length=64, rows=8), "etp: the experts of gpt-oss-20b have biases, which megatron-core builds for etp = 1 only"),
    ],
)  # fmt: skip
def test_the_reason_names_what_is_wrong(
    model: str, fields: dict[str, Any], layout: Layout, batch: Batch, reason: str
) -> None:
    assert fault(load_definition(model).override(fields), layout, 1, batch) == reason


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
    found = in_flight(Layout(pp=4, vpp=vpp), Stage(stage, ((),) * vpp, stage == 0, stage == 3, ()), micro_batches)
    assert list(found) == chunks


@pytest.mark.parametrize("name", architectures.names())
@pytest.mark.parametrize("alone", [1, 3])
def test_a_short_model_has_each_kind_of_layer(name: str, alone: int) -> None:
    definition = load_definition(name)
    short = shortened(definition, alone)
    every, few = kinds(definition), kinds(short.definition)
    blocks = definition.kind.blocks_per_layer
    assert len(few) <= len(every)
    assert [few[number // blocks] for number in short.layers] == [kind for kind in every for _ in range(blocks)]
    assert short.layers[: alone * blocks] == tuple(range(alone * blocks))


@pytest.mark.parametrize(
    "text", ["none", "selective", "selective:moe", "selective:core_attn,mlp", "full", "full:block:4", "full:uniform:2"]
)
def test_a_setting_of_recomputation_is_read_from_its_fields(text: str) -> None:
    assert recompute_text(recompute_fields(text)) == text


DRAWN = {
    "llama3-70b": {"num_layers": 8},
    "qwen3-30b-a3b": {"num_layers": 4},
    "nemotron-h-8b": {"num_layers": 8},
}


GATED, GATED_GROUPS = "qwen3-next-80b-a3b", 2
"""A model with an output gate, and its key-value groups."""


def _plans_are_made(model: str, fields: dict[str, Any], count: int) -> None:
    """Draw candidates, and plan each: it is refused where its layers cannot be adapted, and only
    there.
    """
    # A rank that not every tp divides.
    lora = CanonicalLoRA(dim=12)
    space = Space(model, fields, gpus=16, seq_length=128, lora=lora)
    drawn = random.Random(0).sample(space.candidates, count)
    measurements = space.measurements()
    with measurements.ready():
        known = [isinstance(measurements.estimator(each), Estimator) for each in drawn]
    assert any(known)
    for candidate, is_estimated in zip(drawn, known, strict=True):
        if model == GATED and candidate.layout.tp > GATED_GROUPS:
            # It is planned, with CL316: its forward fails.
            assert not is_estimated, candidate
            continue
        assert _is_planned(model, fields, candidate, lora) == is_estimated, candidate


def _is_planned(model: str, fields: dict[str, Any], candidate: Candidate, lora: CanonicalLoRA) -> bool:
    overrides = {**fields, **recompute_fields(candidate.recompute)}
    try:
        plan = plan_job(Job(model=model, layout=candidate.layout, model_overrides=overrides, lora=lora))
    except (GeometryError, ModelError):
        return False
    assert plan.layout.world == candidate.layout.world
    return True


@pytest.mark.parametrize(("model", "fields"), DRAWN.items(), ids=DRAWN)
def test_candidates_can_be_planned(model: str, fields: dict[str, Any]) -> None:
    _plans_are_made(model, fields, 5)


@pytest.mark.nightly
@pytest.mark.parametrize("model", architectures.names())
def test_candidates_of_every_architecture_can_be_planned(model: str) -> None:
    _plans_are_made(model, {"num_layers": 8}, 20)


def test_experts_are_spread_over_every_ep_and_etp() -> None:
    definition = load_definition("qwen3-30b-a3b").override(EXPERTS)
    found = candidates(definition, Batch(gpus=4, seq_length=64, rows=8), Refused(), ("none",))
    widths = {(each.layout.ep, each.layout.expert_tp) for each in found if each.layout.pp == 1}
    assert widths == {(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)}
