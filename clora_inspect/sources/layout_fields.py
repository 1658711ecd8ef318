"""The fields of `TransformerConfig` that the parallel layout decides. Pure."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from clora_inspect.job.layout import Layout


class _LayoutField(NamedTuple):
    option: str
    """The command-line option that sets the field."""
    value: Callable[[Layout], Any]


LAYOUT_FIELDS = {
    "tensor_model_parallel_size": _LayoutField("--tp", attrgetter("tp")),
    "pipeline_model_parallel_size": _LayoutField("--pp", attrgetter("pp")),
    # Any number, 1 included, makes megatron-core's schedules interleave.
    "virtual_pipeline_model_parallel_size": _LayoutField(
        "--vpp", lambda layout: layout.vpp if layout.vpp > 1 else None
    ),
    "context_parallel_size": _LayoutField("--cp", attrgetter("cp")),
    "expert_model_parallel_size": _LayoutField("--ep", attrgetter("ep")),
    "expert_tensor_parallel_size": _LayoutField("--etp", attrgetter("expert_tp")),
    "sequence_parallel": _LayoutField("--sp", attrgetter("sequence_parallel")),
}


def layout_fields(layout: Layout) -> dict[str, Any]:
    """Return the value of every field of `LAYOUT_FIELDS`."""
    return {name: field.value(layout) for name, field in LAYOUT_FIELDS.items()}
