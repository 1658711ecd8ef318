"""The what-if form as data: typed text becomes a request or an error, and TOML reads back as the
same job.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from inspected_plans import JOBS

from clora.errors import CloraError
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.load import load
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import decode, encode
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job
from clora_inspect.tui.job.plan_request import PlanRequest, request_of, request_of_plan
from clora_inspect.tui.job.what_if_form import Draft, as_toml, draft_of, request_from


@pytest.fixture
def job() -> PlanRequest:
    return request_of(JOBS["typo"])


def test_an_unchanged_form_is_the_job(job: PlanRequest) -> None:
    same, before = request_from(draft_of(job), job).job(), job.job()
    assert (same.lora, same.model, same.targets_written) == (before.lora, before.model, before.targets_written)
    assert (same.layout.label, same.layout.world) == (before.layout.label, before.layout.world)


@pytest.mark.parametrize(
    ("field", "typed", "expected"),
    [
        ("target_modules", "linear_q, 'linear_v'\n\n", ["linear_q", "linear_v"]),
        ("dim", " 8 ", 8),
        ("alpha", "0.5", 0.5),
        ("dropout", "0.1", 0.1),
        ("share_expert_adapters", False, False),
    ],
)
def test_a_field_of_the_lora(job: PlanRequest, field: str, typed: object, expected: object) -> None:
    draft: Draft = replace(draft_of(job), **{field: typed})  # type: ignore[arg-type]
    assert request_from(draft, job).lora[field] == expected


def test_a_new_layout_drops_the_world_that_the_old_one_filled(job: PlanRequest) -> None:
    import msgspec

    wide = msgspec.structs.replace(job, layout=msgspec.structs.replace(job.layout, world_size=64))
    assert request_from(draft_of(wide), wide).layout.world_size == 64
    assert request_from(replace(draft_of(wide), tp="8"), wide).job().layout.world == 16


def test_without_tp_there_is_no_sequence_parallelism(job: PlanRequest) -> None:
    assert request_from(replace(draft_of(job), tp="1", sp=True), job).job().layout.sequence_parallel is False


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [
        ("dim", "x", "dim = x is not a whole number"),
        ("dim", "", "dim is empty: write a whole number"),
        ("dim", "0", "dim = 0"),
        ("alpha", "many", "alpha = many is not a number"),
        ("alpha", "nan", "alpha"),
        ("tp", "0", "tp = 0"),
        ("tp", "99999999", "no mesh axis"),
        ("vpp", "2", None),
        ("dropout", "1", "dropout"),
        ("target_modules", "linear_qkv", "linear_q"),
        ("exclude_modules", "linear_q", "both set"),
        ("seq_length", "0", "seq_length = 0 cannot be: write 1 or more"),
        ("seq_length", "", "seq_length is empty"),
        ("micro_batch_size", "1.5", "micro_batch_size = 1.5 is not a whole number"),
        ("num_microbatches", "", None),
        ("imbalance", "nan", "imbalance = nan cannot be"),
        ("recompute", "half", r"recompute = half does not say what is recomputed: write none\|selective"),
    ],
)
def test_a_mistake_is_told(job: PlanRequest, field: str, typed: str, said: str | None) -> None:
    draft: Draft = replace(draft_of(job), **{field: typed})  # type: ignore[arg-type]
    if said is None:
        assert request_from(draft, job)
        return
    with pytest.raises(CloraError, match=said):
        request_from(draft, job)


def test_a_saved_plan_remembers_the_fields_of_the_model_that_were_set(tmp_path: Path) -> None:
    """After `plan llama3-8b --set model.num_layers=4 -o plan.json` a what-if must not have
    32 layers again.
    """
    wanted = replace(JOBS["typo"], model_overrides={"num_layers": 4}, layout=Layout(pp=2))
    saved = decode(encode(plan_job(wanted)), "plan.json")
    again = request_of_plan(saved)
    assert again.model_overrides == {"num_layers": 4}
    assert again.job().model_overrides == wanted.model_overrides
    changed = request_from(replace(draft_of(again), dim="8"), again)
    assert changed.model_overrides == {"num_layers": 4}
    (tmp_path / "clora-inspect.toml").write_text(as_toml(changed, "what-if"))
    (made,) = configured_jobs(load(tmp_path, environ={}))
    assert made.job.model_overrides == {"num_layers": 4}


def test_its_toml_is_a_configuration_of_the_same_job(job: PlanRequest, tmp_path: Path) -> None:
    changed = request_from(replace(draft_of(job), dim="8", dropout="0.1", tp="2"), job)
    (tmp_path / "clora-inspect.toml").write_text(as_toml(changed, "what-if"))
    configuration = load(tmp_path, environ={})
    (made,) = configured_jobs(configuration)
    assert made.job.lora == changed.job().lora
    assert made.job.layout.label == changed.job().layout.label
    assert made.layout_name == "what-if"


def test_a_workload_is_configured_and_recompute_sets_and_frees_the_fields_of_the_model(
    job: PlanRequest, tmp_path: Path
) -> None:
    typed = replace(draft_of(job), seq_length="8192", num_microbatches="9", recompute="full:block:4")
    changed = request_from(typed, job)
    assert changed.model_overrides == recompute_fields("full:block:4")
    (tmp_path / "clora-inspect.toml").write_text(as_toml(changed, "what-if"))
    (made,) = configured_jobs(load(tmp_path, environ={}))
    assert made.workload == changed.workload == Workload(seq_length=8192, num_microbatches=9, recompute="full:block:4")
    assert made.job.model_overrides == changed.model_overrides
    assert request_from(replace(draft_of(changed), recompute="none"), changed).model_overrides == recompute_fields(
        "none"
    )
    assert request_from(replace(draft_of(changed), recompute=""), changed).model_overrides == {}


def test_toml_quotes_what_a_user_may_have_written(job: PlanRequest) -> None:
    import msgspec

    odd = msgspec.structs.replace(job, model='a "quoted"\\path\n', lora={**job.lora, "target_modules": ['x"y']})
    read = tomllib.loads(as_toml(odd, "what-if"))
    assert read["jobs"]["what-if"]["model"] == odd.model
    assert read["lora"]["what-if"]["target_modules"] == ['x"y']
