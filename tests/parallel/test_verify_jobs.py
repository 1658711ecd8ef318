"""`verify` from end to end on real ranks: built-in architectures of every kind, each on a layout.

This is `--procs N` with the test session's processes in place of new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.sources.errors import BuildError
from clora_inspect.verify.job import verify
from clora_inspect.verify.proof_table import PROOF_NAMES
from clora_inspect.verify.report import ProofStatus
from clora_inspect.verify.request import Request

if TYPE_CHECKING:
    from pathlib import Path

RUNNING = ("surgery", "zero-b", "liveness", "causality", "merge", "gradients", "layout")
WITHOUT_DROPOUT = tuple(name for name in PROOF_NAMES if name != "dropout")
ONE_STEP = ("zero-b", "merge", "layout")
"""For models on which the other proofs would show nothing more than on two ranks, and take twice
the time.
"""


pytestmark = pytest.mark.usefixtures("shared_processes")


@pytest.mark.parametrize(
    ("model", "layout", "procs", "fields", "proofs"),
    [
        ("llama3-8b", Layout(tp=2, pp=2), 4, {}, ONE_STEP),
        ("qwen3-30b-a3b", Layout(tp=2, ep=2, etp=1), 2, {}, WITHOUT_DROPOUT),
        ("deepseek-v3", Layout(pp=2), 2, {"num_layers_in_last_pipeline_stage": 30}, RUNNING),
        ("nemotron-h-8b", Layout(tp=2), 2, {}, ONE_STEP),
    ],
    ids=["dense, four ranks", "experts", "latent attention, uneven pipeline", "hybrid"],
)
def test_a_job_is_proved_on_real_ranks(
    model: str, layout: Layout, procs: int, fields: dict[str, Any], proofs: tuple[str, ...]
) -> None:
    job = Job(model=model, layout=layout, model_overrides=fields)
    report = verify(Request(job=job, procs=procs, proofs=proofs))
    assert [
        (proof.proof, proof.status, proof.detail) for proof in report.proofs if proof.status != ProofStatus.PASSED
    ] == []
    assert [proof.proof for proof in report.proofs] == ["placements", *proofs]
    assert report.ranks == procs
    assert report.dropped == ()
    uneven = [said for said in report.shrunk if said.startswith("The pipeline stays uneven")]
    assert bool(uneven) == bool(fields)


@pytest.mark.parametrize("layer", [5, 15])
def test_targets_by_number_mean_the_same_layers_on_stages_and_on_one_rank(layer: int) -> None:
    """A stage numbers its layers from 0; layer 15 leaves the first stage without an adapter."""
    lora = CanonicalLoRA(target_modules=[f"*.layers.{layer}.*.linear_proj"])
    fields = {"num_layers_in_first_pipeline_stage": 10}
    job = Job(model="llama3-8b", layout=Layout(pp=2), lora=lora, model_overrides=fields)
    report = verify(Request(job=job, procs=2, proofs=("surgery", "layout", "checkpoint")))
    assert [
        (proof.proof, proof.status, proof.detail) for proof in report.proofs if proof.status != ProofStatus.PASSED
    ] == []
    if layer == 15:
        assert "rank 0: 0 adapters as planned" in report.proofs[1].detail
        assert "rank 1: 1 adapters as planned" in report.proofs[1].detail


FAILS_ON_ONE_RANK = """
from torch import distributed, nn

def model():
    if distributed.get_backend() == "gloo" and distributed.get_rank() == 1:
        raise RuntimeError("no licence here")
    return nn.ModuleDict({"linear": nn.Linear(8, 8)})
"""


def test_a_model_that_cannot_be_built_on_one_rank_is_told_of_that_rank(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(FAILS_ON_ONE_RANK)
    lora = CanonicalLoRA(target_modules=["linear"])
    job = Job(model=f"{tmp_path / 'models.py'}:model", layout=Layout(tp=2), lora=lora)
    with pytest.raises(BuildError, match=r"rank 1: .* raised RuntimeError: no licence here"):
        verify(Request(job=job, procs=2))
