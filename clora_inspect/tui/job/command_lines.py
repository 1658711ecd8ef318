"""Write the command lines that plan a job and prove its surgery. They hold everything about the
job, so that the child reads no configuration. Pure, except that the environment is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import asdict

from clora.canonical_lora import DEFAULT_TARGETS
from clora_inspect.job.layout import AXES
from clora_inspect.job.workload import Workload

if TYPE_CHECKING:
    from clora_inspect.tui.job.plan_request import PlanRequest

_JOB_OPTIONS = (
    *AXES,
    *(
        "sp",
        "world_size",
        "layout",
        "lora",
        "lora_as_canonical",
        "dim",
        "alpha",
        "target_modules",
        "exclude_modules",
        "set",
    ),
    *("implementation", "model_class", "directory", "config", "output"),
    *("memory", *Workload.__struct_fields__),
)


def environment() -> dict[str, str]:
    """Return this process's environment without the variables that stand for options of a job, such
    as `CLORA_INSPECT_TP`: the interface has used them already, and what-if may have changed them.
    """
    used = {f"CLORA_INSPECT_{name.upper()}" for name in _JOB_OPTIONS}
    return {name: value for name, value in os.environ.items() if name not in used}


def plan_words(request: PlanRequest, *, with_memory: bool = False) -> list[str]:
    """Return the command line that prints the job's plan as JSON, with the memory of each rank if
    that is wanted.
    """
    words = ["plan", *_job_words(request), "--device", "meta"]
    if with_memory:
        # All of its fields, because the run that the model names may say others.
        words += ["--memory", *_assignments("workload", asdict(request.workload))]
    if request.planned_by != "clora":
        words += ["--implementation", request.planned_by]
    return [*words, "-f", "json", "--", request.model]


def verify_words(request: PlanRequest, implementation: str, proof: str | None, procs: int = 1) -> list[str]:
    """Return the command line that prints the proofs, one a line, each as soon as it is known.

    Args:
        request: the job.
        implementation: the implementation to prove, `clora` or `megatron-bridge`.
        proof: name of the only proof to run; all of them when None.
        procs: number of local processes to run the layout on.
    """
    words = ["verify", *_job_words(request), "--implementation", implementation]
    words += [] if proof is None else ["--proof", proof]
    words += [] if procs == 1 else ["--procs", str(procs)]
    return [*words, "-f", "jsonl", "--", request.model]


def _job_words(request: PlanRequest) -> list[str]:
    words = ["-C", str(Path(request.folder).resolve()), "--isolated"]
    for axis, size in request.layout.sizes().items():
        if axis == "etp" and request.layout.etp is None:
            continue  # the child finds out itself whether the model has experts that it splits
        words += [f"--{axis}", str(size)]
    if request.layout.sp is not None:
        words.append("--sp" if request.layout.sp else "--no-sp")
    if request.layout.world_size is not None:
        words += ["--world-size", str(request.layout.world_size)]
    lora = dict(request.lora)
    if not request.targets_written and lora.get("target_modules") == list(DEFAULT_TARGETS):
        # A user who names targets means each of them: one that matches nothing is then a mistake.
        del lora["target_modules"]
    return [*words, *_assignments("lora", lora), *_assignments("model", request.model_overrides)]


def _assignments(owner: str, fields: dict[str, Any]) -> list[str]:
    # Written as JSON: an option such as `--alpha` would make a float of a whole number.
    return [
        word
        for name, value in fields.items()
        for word in ("--set", f"{owner}.{name}={msgspec.json.encode(value).decode()}")
    ]
