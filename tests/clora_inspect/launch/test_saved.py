"""A saved plan refuses every model that it is not of, with the numbers, and changes nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from small_gpt import TINY

import clora
import clora_inspect
from clora.errors import CloraError, LayoutError, SurgeryError
from clora.wrappers import adapted_modules
from clora_inspect.job import plan as saved_plan
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.snapshot import record
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan

LORA = {"target_modules": ["linear_q", "linear_fc2"], "dim": 4, "alpha": 8}


@pytest.fixture(scope="module")
def planned() -> JobPlan:
    job = Job(model="llama3-8b", lora=clora.CanonicalLoRA(**LORA), layout=Layout(pp=2), model_overrides=TINY)
    return plan_job(job)


@pytest.fixture(scope="module")
def saved(planned: JobPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    (folder / "plan.json").write_bytes(saved_plan.encode(planned))
    (folder / "train.json").write_bytes(record.encode(record.take(planned, "tiny")))
    return folder


@pytest.fixture
def world() -> Iterator[Callable[..., list[Any]]]:
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout(pp=2), 1):
        yield lambda **fields: build_chunks(load_definition("llama3-8b").override({**TINY, **fields}), Layout(pp=2))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a wider MLP": (
        {"ffn_hidden_size": 64},
        "4,128 parameters on this rank, and 3,104 were planned|in 48, out 32.* -> .*in 64",
    ),
    "a layer more": ({"num_layers": 4}, "layers of stage 1: 1 -> 2-3"),
    "another split": (
        {"num_layers": 3, "num_layers_in_first_pipeline_stage": 2, "num_layers_in_last_pipeline_stage": 1},
        "layers of stage 1: 1 -> 2",
    ),
    "context parallelism": ({"context_parallel_size": 2}, "cp 1 -> 2"),
}


@pytest.mark.parametrize("file", ["plan.json", "train.json"])
@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_refused_and_left_as_it_is(
    name: str, file: str, saved: Path, world: Callable[..., list[Any]]
) -> None:
    fields, numbers = OTHERS[name]
    config_only = {key: value for key, value in fields.items() if key == "context_parallel_size"}
    chunks = world(**{key: value for key, value in fields.items() if key not in config_only})
    for key, value in config_only.items():
        setattr(chunks[0].config, key, value)
    with pytest.raises(SurgeryError, match=numbers) as refused:
        _carry_out(saved / file, chunks)
    assert f"{file} was made for another run" in str(refused.value)
    assert not list(adapted_modules(chunks[0]))
    assert all(parameter.requires_grad for parameter in chunks[0].parameters())


def test_a_module_of_another_class_or_none_at_all_is_refused(saved: Path, world: Callable[..., list[Any]]) -> None:
    chunks = world()
    norm = chunks[0].decoder.final_layernorm
    norm.__class__ = type("OtherNorm", (type(norm),), {})
    with pytest.raises(SurgeryError, match=r"decoder.final_layernorm: is a OtherNorm, and a .*Norm was planned"):
        _carry_out(saved / "plan.json", chunks)
    chunks = world()
    del chunks[0].output_layer
    with pytest.raises(SurgeryError, match="output_layer: a ColumnParallelLinear was planned, and there is none"):
        _carry_out(saved / "plan.json", chunks)


@pytest.mark.parametrize("package", ["torch", "megatron-core", "clora-inspect"])
def test_another_release_is_refused(
    package: str, planned: JobPlan, world: Callable[..., list[Any]], tmp_path: Path
) -> None:
    other = msgspec.structs.replace(planned, versions={**planned.versions, package: "0.0.1"})
    (tmp_path / "plan.json").write_bytes(saved_plan.encode(other))
    with pytest.raises(SurgeryError, match=re.escape(f"{package} 0.0.1 -> ")):
        _carry_out(tmp_path / "plan.json", world())


def test_another_build_of_torch_and_a_real_transformer_engine_are_the_same_release(
    planned: JobPlan, world: Callable[..., list[Any]], tmp_path: Path
) -> None:
    versions = {**planned.versions, "torch": f"{planned.versions['torch'].partition('+')[0]}+cu128", "python": "3.9.0"}
    versions["transformer-engine"] = "2.9.0"
    (tmp_path / "plan.json").write_bytes(saved_plan.encode(msgspec.structs.replace(planned, versions=versions)))
    chunks = world()
    _carry_out(tmp_path / "plan.json", chunks)
    assert len(list(adapted_modules(chunks[0]))) == 2


@pytest.mark.parametrize(
    ("coordinates", "said"),
    [
        ({"stage": 2}, "has 2 pipeline stages, 0 to 1, and stage 2 is none of them"),
        ({"rank": 2}, "is planned for 2 ranks, 0 to 1, and rank 2 is none of them"),
        ({"rank": 0, "stage": 0}, "stage = 0 and rank = 0: name one of them, or neither"),
        ({}, "is planned for pp = 2, and this job has pp = 1"),
    ],
)
def test_a_rank_that_the_plan_has_not_is_refused(saved: Path, coordinates: dict[str, int], said: str) -> None:
    plan = clora_inspect.load_plan(saved / "plan.json")
    with pytest.raises(LayoutError, match=re.escape(said)):
        plan.for_rank(**coordinates)


def test_coordinates_need_neither_a_model_nor_torch(planned: JobPlan, saved: Path) -> None:
    code = (
        f"import sys, clora_inspect; plan, lora = clora_inspect.load_plan({str(saved / 'plan.json')!r}).for_rank(rank=1);"
        "print(len(plan.placements), lora.dim, plan.model_params, 'torch' in sys.modules, 'megatron.core' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2", "4", str(planned.rank_classes[1].model_params), "False", "False"]


def test_files_that_no_rank_can_be_planned_from(planned: JobPlan, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CloraError, match=r"train.json has the adapters of the whole model.*for_rank\(model\)"):
        clora_inspect.load_plan(saved / "train.json").for_rank(stage=0)
    ranks = tuple(msgspec.structs.replace(each, model_params=None) for each in planned.rank_classes)
    (tmp_path / "old.json").write_bytes(saved_plan.encode(msgspec.structs.replace(planned, rank_classes=ranks)))
    with pytest.raises(CloraError, match=r"old.json was saved by an older clora-inspect"):
        clora_inspect.load_plan(tmp_path / "old.json").for_rank(stage=0)
    with pytest.raises(CloraError, match=r"none.json cannot be read: No such file"):
        clora_inspect.load_plan(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(CloraError, match=r"other.json is no saved plan"):
        clora_inspect.load_plan(tmp_path / "other.json")


def _carry_out(file: Path, chunks: list[Any]) -> None:
    plan, lora = clora_inspect.load_plan(file).for_rank(chunks)
    clora.apply(plan, chunks, lora)
