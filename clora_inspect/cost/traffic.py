"""Count the bytes that collectives move while a model runs, over the fake groups of a virtual
cluster or over real ones.

torch shows a collective as one operation (`c10d.allreduce_`), with the process group among its
arguments. megatron-core describes each of its groups when it makes it, which tells the axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from clora_inspect.job.traffic import Phase, Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from clora_inspect.cost.ownership import Owners

AXES = {
    "TENSOR_MODEL_PARALLEL": "tp",
    "CONTEXT_PARALLEL": "cp",
    "EXPERT_MODEL_PARALLEL": "ep",
    "EXPERT_TENSOR_PARALLEL": "etp",
    "EXPERT_TENSOR_AND_MODEL_PARALLEL": "etp-ep",
    "TENSOR_AND_CONTEXT_PARALLEL": "tp-cp",
    "PIPELINE_MODEL_PARALLEL": "pp",
    "DATA_PARALLEL": "dp",
    "DATA_PARALLEL_GROUP_WITH_CP": "dp-cp",
    "EXPERT_DATA_PARALLEL": "expert dp",
}
"""megatron-core's description of a group, without "_GROUP" at its end -> its axis."""


@dataclass(frozen=True, slots=True)
class _Collective:
    """How a collective is called."""

    name: str
    buffer: int
    """Index of the argument that holds the tensors of its whole buffer."""
    ring: int = 1
    """Times that a ring sends (n - 1)/n of the buffer; 0 for a message to one rank."""


_COLLECTIVES = {
    "allreduce_": _Collective("all-reduce", 0, ring=2),
    "allreduce_coalesced_": _Collective("all-reduce", 0, ring=2),
    "_allgather_base_": _Collective("all-gather", 0),
    "allgather_": _Collective("all-gather", 0),
    "allgather_coalesced_": _Collective("all-gather", 0),
    "allgather_into_tensor_coalesced_": _Collective("all-gather", 0),
    "_reduce_scatter_base_": _Collective("reduce-scatter", 1),
    "reduce_scatter_": _Collective("reduce-scatter", 1),
    "reduce_scatter_tensor_coalesced_": _Collective("reduce-scatter", 1),
    "alltoall_base_": _Collective("all-to-all", 1),
    "alltoall_": _Collective("all-to-all", 1),
    "broadcast_": _Collective("broadcast", 0),
    "reduce_": _Collective("reduce", 0),
    "gather_": _Collective("gather", 1),
    "scatter_": _Collective("scatter", 0),
    "send": _Collective("send", 0, ring=0),
}
"""Operation of torch's namespace `c10d` -> its collective. Receives are counted where they are
sent.
"""


class TrafficCount:
    """Sums by axis, collective, phase and owner. Give it to `counting`."""

    def __init__(self, ownership: Owners) -> None:
        self._ownership = ownership
        self.sums: dict[tuple[str, str, Phase, Any], list[int]] = {}
        """(axis, collective, phase, owner) -> bytes, sent bytes and calls."""

    def count_of(self, operation: Any) -> Callable[[tuple[Any, ...], Mapping[str, Any], Any], None] | None:
        collective = _COLLECTIVES.get(operation.overloadpacket.__name__) if operation.namespace == "c10d" else None
        if collective is None:
            return None

        def count(args: tuple[Any, ...], _options: Mapping[str, Any], _result: Any) -> None:
            self._add(collective, args)

        return count

    @property
    def lines(self) -> tuple[Traffic, ...]:
        """Return the counts so far, in order of axis, phase, owner and collective."""
        return tuple(
            Traffic(axis=axis, collective=name, phase=phase, owner=owner, bytes=size, sent_bytes=sent, calls=calls)
            for (axis, name, phase, owner), (size, sent, calls) in sorted(
                self.sums.items(), key=lambda item: (item[0][0], list(Phase).index(item[0][2]), item[0][3], item[0][1])
            )
        )

    def _add(self, collective: _Collective, args: tuple[Any, ...]) -> None:
        group = next(distributed.ProcessGroup.unbox(arg) for arg in args if isinstance(arg, torch.ScriptObject))
        ranks = group.size()
        if ranks == 1:
            # Nothing leaves the rank.
            return
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(args[collective.buffer]))
        owner, phase = self._ownership.now()
        sums = self.sums.setdefault((axis_of(group), collective.name, phase, owner), [0, 0, 0])
        sent = size - size // ranks if collective.ring else size
        for index, number in enumerate((size, sent * max(collective.ring, 1), 1)):
            sums[index] += number


def axis_of(group: Any) -> str:
    """Return the axis of one of megatron-core's process groups, or its description."""
    description = str(group.group_desc).removesuffix("_GROUP")
    return AXES.get(description, description.lower().replace("_", " "))


def _tensors(argument: Any) -> Iterator[torch.Tensor]:
    if isinstance(argument, torch.Tensor):
        yield argument
    else:
        for item in argument:
            yield from _tensors(item)
