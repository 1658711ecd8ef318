"""`--size full`: the job's own model on fewer ranks, where targets by layer number keep their
meaning.
"""

from __future__ import annotations

from typing import Any

import pytest
from verify_models import SMALL

from clora import CanonicalLoRA
from clora.errors import LayoutError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.job import _targets_at_full_size, verify
from clora_inspect.verify.preflight import preflight
from clora_inspect.verify.request import Request

SECOND_OF_EACH_STAGE = CanonicalLoRA(target_modules=["*.layers.1.*.linear_proj"])


def _job(layout: Layout, **fields: Any) -> Job:
    overrides = {**SMALL, "num_layers": 4, **fields}
    return Job(model="llama3-8b", layout=layout, lora=SECOND_OF_EACH_STAGE, model_overrides=overrides)


@pytest.mark.parametrize("fields", [{}, {"num_layers_in_first_pipeline_stage": 2}], ids=["even", "split by hand"])
def test_one_rank_has_the_layers_that_every_stage_of_the_job_means(fields: dict[str, Any]) -> None:
    report = verify(Request(job=_job(Layout(pp=2), **fields), size="full", proofs=("surgery", "zero-b")))
    assert report.ok
    assert report.proofs[1].detail.startswith("2 adapters as planned")


def test_fewer_stages_than_the_job_has_would_mean_other_layers() -> None:
    job = _job(Layout(pp=4), num_layers=8)
    definition = load_definition(job.model).override(job.model_overrides)
    plan = preflight(job, definition, "clora", lambda _: None).plan
    with pytest.raises(LayoutError, match="other layers on 2 stages than on the job's 4"):
        _targets_at_full_size(plan, job.layout, Layout(pp=2), tuple(range(8)))
