"""Fixtures with the plans that the interface is tested on, made once by the real planner. This file
also makes the modules beside the tests importable by name.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from inspected_plans import JOBS, STAGES, expanded_experts

from clora_inspect.job.plan import encode
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from clora_inspect.job.plan import JobPlan


@pytest.fixture(scope="session")
def plans() -> dict[str, JobPlan]:
    made = {name: plan_job(job) for name, job in JOBS.items()}
    return made | {"experts": expanded_experts(made["mixtral"])}


@pytest.fixture(scope="session")
def plan_files(plans: dict[str, JobPlan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("plans")
    files = {}
    for name, plan in plans.items():
        files[name] = folder / f"{name}.json"
        files[name].write_bytes(encode(plan))
    return files


@pytest.fixture(scope="session")
def counted() -> JobPlan:
    """The plan of `STAGES` with its memory."""
    return plan_job(STAGES, Workload())
