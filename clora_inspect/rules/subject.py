"""What a rule looks at: one planned job, and what its owner said about it. Pure data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_inspect.finding import Location
    from clora_inspect.jobplan import JobPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One planned job."""

    plan: JobPlan
    lora: Mapping[str, Any]
    targets_written: bool
    implementation: str = "clora"
    serve: str | None = None
    export: bool = False
    gpu_memory_gib: float | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    location_of: Callable[[str], Location | None] = lambda _: None
