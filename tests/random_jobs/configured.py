"""Write random jobs into a project's clora-inspect.toml, as their users would."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from random_job import RandomJob


def write_project(folder: Path, jobs: Mapping[str, RandomJob]) -> None:
    """Write the configuration and the config.json of each job into `folder`."""
    lines = []
    for name, job in jobs.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(job.architecture.values))
        fields = {**job.architecture.overrides, **job.split}
        lines += [
            f"[jobs.{name}]",
            f'model = "{name}/"',
            f"lora = {_table(job.lora)}",
            f"layouts = {{ train = {_table(job.layout)} }}",
            f"set.model = {_table(fields)}",
        ]
    (folder / "clora-inspect.toml").write_text("\n".join(lines) + "\n")


def can_be_written(job: RandomJob) -> bool:
    """Return whether TOML can say it: it has no null."""
    return None not in job.architecture.overrides.values()


def _table(values: Mapping[str, Any]) -> str:
    # Of numbers, texts, flags and lists of them, JSON is TOML.
    entries = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value is not None]
    return "{ " + ", ".join(entries) + " }"
