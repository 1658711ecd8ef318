"""Make the job of a run of Megatron-Bridge: its model, its layout and its LoRA. Pure."""

from __future__ import annotations

from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.config.lora_file.reader import read_lora_file
from clora_inspect.job.job import Job
from clora_inspect.sources.run.file import read_run
from clora_inspect.sources.run.model import model_of_run

if TYPE_CHECKING:
    from typing import Any


class RunLoRA(Enum):
    """How the `peft` section of a run is read."""

    AS_IT_IS = auto()
    """Canonical LoRA only."""
    AS_CANONICAL = auto()
    """LoRA and DoRA too, as canonical LoRA of the same linears."""
    NOT = auto()
    """Not at all: the user names another LoRA."""


def job_of_run(name: str, path: Path, run_lora: RunLoRA) -> Job:
    """Return the job of the run whose file is at `path`.

    Raises:
        CloraError: the model, the parallel sizes or the LoRA cannot be read, or not be built here.
    """
    layout = model_of_run(path).layout
    fields = _lora_fields(name, path, run_lora)
    lora = CanonicalLoRA(**fields)
    # Every file has `target_modules`. One that has the default chooses nothing.
    written = "target_modules" in fields and sorted(lora.target_modules) != sorted(CanonicalLoRA().target_modules)
    return Job(model=name, lora=lora, layout=layout, targets_written=written)


def _lora_fields(name: str, path: Path, run_lora: RunLoRA) -> dict[str, Any]:
    # A run without a PEFT section trains all parameters: it can become a job with any LoRA.
    if run_lora is RunLoRA.NOT or read_run(path).get("peft") is None:
        return {}
    as_canonical = run_lora is RunLoRA.AS_CANONICAL
    return read_lora_file(path, name, {}, folder=Path.cwd(), as_canonical=as_canonical).written()
