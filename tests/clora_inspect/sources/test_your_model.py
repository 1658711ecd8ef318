"""The files of docs/your-model.md: each is planned with its numbers, checked, and verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.selection import Selection
from clora_inspect.verify.job import verify
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "your_model"

OWN = ("up", "down")
MODELS = {
    "gpt.py:model_provider": (("linear_q", "linear_fc2"), 180_800, [Layout(), Layout(tp=2), Layout(pp=2, vpp=2)]),
    "chunks.py:get_model": (("linear_q", "linear_fc2"), 180_800, [Layout(), Layout(pp=2), Layout(pp=2, vpp=2)]),
    "provider.py:build": (("linear_q", "linear_fc2"), 98_944, [Layout(), Layout(tp=2, pp=2)]),
    "from_argv.py:tiny": (("linear_q", "linear_fc2"), 131_712, [Layout(), Layout(tp=2), Layout(pp=2)]),
    "own_layers.py:build": (OWN, 98_432, [Layout(), Layout(tp=2)]),
    "llava.py:build": (("language_model.*.linear_q", "language_model.*.linear_fc2"), 132_576, [Layout(), Layout(pp=2)]),
}
"""Job -> its targets, its parameters, which are the same in every layout, and the layouts."""

NOT_RUN = {"recompute", "dropout", "layout", "export"}
"""Proofs that a function's model on one rank, without dropout, has no use for."""


def job_of(name: str, layout: Layout | None = None) -> Job:
    targets = list(MODELS[name][0])
    return Job(model=f"{FOLDER}/{name}", layout=layout or Layout(), lora=CanonicalLoRA(target_modules=targets, dim=4))


def test_the_page_shows_every_file_and_every_file_is_tested() -> None:
    page = (ROOT / "docs" / "your-model.md").read_text()
    files = {path.name for path in FOLDER.glob("*.py")}
    assert {name.partition(":")[0] for name in MODELS} == files
    assert [name for name in files if f"../examples/your_model/{name}" not in page] == []


@pytest.mark.parametrize("name", MODELS)
def test_it_is_one_model_in_every_layout_and_clean(name: str) -> None:
    _, base_params, layouts = MODELS[name]
    plans = [plan_job(job_of(name, layout)) for layout in layouts]
    assert {plan.totals.base_params for plan in plans} == {base_params}
    assert len({(plan.totals.placements, plan.totals.trainable_params) for plan in plans}) == 1
    assert plans[0].unmatched_targets == ()
    errors = [
        finding.message
        for plan in plans
        for finding in run_rules(PlannedJob(plan), Selection())
        if finding.severity == "error"
    ]
    assert errors == []


@pytest.mark.parametrize("name", ["chunks.py:get_model", "own_layers.py:build", "llava.py:build"])
def test_it_is_proved(name: str) -> None:
    report = verify(Request(job=job_of(name)))
    ended = {proof.proof: proof for proof in report.proofs}
    assert report.ok
    assert report.dtype == "bfloat16"
    skipped = {name for name, proof in ended.items() if proof.status is ProofStatus.SKIPPED}
    # Layers of one's own have no sharded_state_dict, so that no checkpoint of theirs is known.
    assert skipped - NOT_RUN == ({"checkpoint"} if name.startswith("own_layers") else set())


@pytest.mark.parametrize("targets", [("linear_q", "linear_proj"), ("vision_model.*.linear_proj",)], ids=str)
def test_a_tower_without_pictures_is_not_judged(targets: tuple[str, ...]) -> None:
    job = Job(model=f"{FOLDER}/llava.py:build", lora=CanonicalLoRA(target_modules=list(targets), dim=4))
    report = verify(Request(job=job, proofs=("liveness", "gradients")))
    judged = [proof for proof in report.proofs if proof.proof in ("liveness", "gradients")]
    expected = ProofStatus.SKIPPED if len(targets) == 1 else ProofStatus.PASSED
    assert [proof.status for proof in judged] == [expected, expected]
    assert all("cannot judge the adapters of vision_model and vision_projection" in proof.detail for proof in judged)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("gpt.py:model_provider", Layout(pp=2, vpp=2)),
        ("chunks.py:get_model", Layout(pp=2)),
        ("provider.py:build", Layout(tp=2)),
        ("from_argv.py:tiny", Layout(pp=2)),
        ("llava.py:build", Layout(pp=2)),
    ],
)
def test_it_is_proved_on_several_ranks(name: str, layout: Layout) -> None:
    report = verify(Request(job=job_of(name, layout), procs=2))
    assert report.ok
    assert {proof.proof: proof.status for proof in report.proofs}["layout"] is ProofStatus.PASSED
