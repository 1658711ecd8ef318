"""What is counted on meta in a virtual cluster is what hooks on the groups of real ranks count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import lora_models
import msgspec
import pytest
import tiny_models
import traffic_tasks
from gloo import on_ranks

from clora_inspect.job.layout import Layout
from clora_inspect.job.traffic import Owner, Phase, Traffic
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Sequence

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "tp2 sp": ("dense", {"tp": 2, "sp": True}),
    "tp2": ("dense", {"tp": 2, "sp": False}),
    "latent attention tp2 sp": ("mla", {"tp": 2, "sp": True}),
    "tp4 sp": ("dense", {"tp": 4, "sp": True}),
    "cp2": ("dense", {"cp": 2}),
    "tp2 sp cp2": ("dense", {"tp": 2, "cp": 2, "sp": True}),
    "ep2": ("moe", {"ep": 2}),
    "tp2 sp ep2": ("moe", {"tp": 2, "ep": 2, "etp": 1, "sp": True}),
    "ep2 etp2": ("moe", {"ep": 2, "etp": 2}),
}


@pytest.mark.parametrize(("kind", "axes"), CASES.values(), ids=CASES.keys())
def test_what_is_counted_on_meta_is_what_hooks_count_on_gloo(kind: str, axes: dict[str, Any]) -> None:
    trained, adapted = (on_meta(kind, Layout(**axes), adapted=adapted) for adapted in (False, True))
    for adapters, lines in ((False, trained), (True, adapted)):
        counted = _sums(lines)
        assert counted
        ranks = on_ranks(Layout(**axes), "traffic_tasks:hooked_sums", kind, axes, adapters)
        if kind == "moe":
            # A router sends more to one rank than to another; all ranks together send as much.
            assert {key: sum(rank[key] for rank in ranks) for key in ranks[0]} == {
                key: len(ranks) * size for key, size in counted.items()
            }
        else:
            assert all(rank == counted for rank in ranks), ranks
    # Adapters add collectives of their own, and the base sends forward what it sends without them.
    assert {line.owner for line in trained} == {Owner.BASE}
    assert _sums(_of(adapted, Owner.BASE, Phase.FORWARD)) == _sums(_of(trained, Owner.BASE, Phase.FORWARD))
    if {"tp", "etp"} & axes.keys():
        assert _of(adapted, Owner.ADAPTER, Phase.FORWARD)
        assert _of(adapted, Owner.ADAPTER, Phase.BACKWARD)


PIPELINES: list[dict[str, Any]] = [{"pp": 2}, {"pp": 2, "vpp": 2}, {"tp": 2, "pp": 2, "sp": True}]


@pytest.mark.parametrize("axes", PIPELINES, ids=lambda axes: Layout(**axes).label)
def test_stages_hand_on_what_the_schedule_sends(axes: dict[str, Any]) -> None:
    from clora_inspect.cost.between_micro_batches import pipeline_traffic

    layout = Layout(**axes)
    micro_batches = layout.pp if layout.vpp > 1 else 1
    rows = layout.pp // micro_batches
    states = tiny_models.SEQUENCE * rows * lora_models.HIDDEN * 4 // layout.tp
    for rank, sent in enumerate(on_ranks(layout, "traffic_tasks:hooked_pipeline", axes)):
        stage = rank * layout.pp // layout.world
        lines = pipeline_traffic(states, stage, layout)
        assert sent == {"sent": micro_batches * sum(line.bytes for line in lines)}


STEPS: dict[str, tuple[str, dict[str, Any], int]] = {
    "dp2": ("dense", {}, 2),
    "tp2 sp dp2": ("dense", {"tp": 2, "sp": True}, 4),
    "ep2 dp2": ("moe", {"ep": 2}, 2),
    "ep2 dp4": ("moe", {"ep": 2}, 4),
}


@pytest.mark.parametrize("distributed_optimizer", [False, True], ids=["all-reduce", "distributed optimizer"])
@pytest.mark.parametrize(("kind", "axes", "ranks"), STEPS.values(), ids=STEPS.keys())
def test_a_step_reduces_what_megatron_core_reduces(
    kind: str, axes: dict[str, Any], ranks: int, distributed_optimizer: bool
) -> None:
    from clora_inspect.cost.between_micro_batches import DataParallelSettings, step_traffic

    layout = Layout(**axes)
    hooked = on_ranks(layout, "traffic_tasks:hooked_step", kind, axes, distributed_optimizer, ranks=ranks)
    with virtual_megatron("meta"), virtual_cluster(layout):
        model = traffic_tasks.built(kind, layout, "meta", adapted=True)
        settings = DataParallelSettings(distributed_optimizer=distributed_optimizer)
        lines = step_traffic([model], msgspec.structs.replace(layout, world_size=ranks), settings)
    counted = {f"{line.axis} {line.collective}": line.bytes for line in lines}
    assert counted
    for rank in hooked:
        assert {key.rpartition(" ")[0]: size for key, size in rank.items()} == counted


def on_meta(kind: str, layout: Layout, *, adapted: bool) -> tuple[Traffic, ...]:
    """Return the traffic of a forward and a backward of one rank, counted on meta."""
    with virtual_megatron("meta"), virtual_cluster(layout):
        from clora_inspect.cost.microbatch import MicroBatch, backward, forward
        from clora_inspect.cost.operations import counting
        from clora_inspect.cost.ownership import ownership
        from clora_inspect.cost.traffic import TrafficCount

        model = traffic_tasks.built(kind, layout, "meta", adapted=adapted)
        with quiet(), ownership([model]) as owner:
            traffic = TrafficCount(owner)
            with counting(traffic):
                backward(forward(model, MicroBatch(tiny_models.SEQUENCE, rows=tiny_models.BATCH)))
    return traffic.lines


def _of(lines: Sequence[Traffic], owner: Owner, phase: Phase) -> list[Traffic]:
    return [line for line in lines if line.owner is owner and line.phase is phase]


def _sums(lines: Sequence[Traffic]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for line in lines:
        sums[f"{line.axis} {line.collective} {line.phase}"] += line.bytes
    return dict(sums)
