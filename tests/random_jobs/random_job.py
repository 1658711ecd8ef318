"""Draw jobs: an architecture, a layout that mostly fits it, and a LoRA."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from architectures import Architecture, architectures
from hypothesis import strategies as st
from layouts import layouts
from loras import loras

from clora.canonical_lora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout


@dataclass(frozen=True)
class RandomJob:
    """A job as its user would write it. Nothing of it is checked yet."""

    architecture: Architecture
    layout: dict[str, Any]
    """Arguments of `Layout`."""
    split: dict[str, Any]
    """Fields of megatron-core that split the pipeline."""
    lora: dict[str, Any]
    """Arguments of `CanonicalLoRA`."""

    def job(self, folder: Path) -> Job:
        """Write config.json into `folder` and return the job.

        Raises:
            CloraError: the layout or the LoRA is refused without a look at the model.
        """
        (folder / "config.json").write_text(json.dumps(self.architecture.values))
        return Job(
            model=str(folder),
            lora=CanonicalLoRA(**self.lora),
            layout=Layout(**self.layout),
            model_overrides={**self.architecture.overrides, **self.split},
            targets_written="target_modules" in self.lora,
        )

    def changed(self, **fields: Any) -> RandomJob:
        return dataclasses.replace(self, **fields)


@st.composite
def random_jobs(draw: Any) -> RandomJob:
    architecture = draw(architectures())
    layout, split = draw(layouts(architecture))
    return RandomJob(architecture, layout, split, draw(loras(architecture, layout["tp"])))
