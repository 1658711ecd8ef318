"""Layouts: the smallest world that shows one, and what no cluster can have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clora.errors import LayoutError
from clora_inspect.cli.options.job import LAYOUT
from clora_inspect.job.layout import AXES, Layout, Mesh

SIZE = st.sampled_from([1, 2, 3, 4, 8])


@given(tp=SIZE, pp=SIZE, cp=SIZE, ep=SIZE, etp=SIZE)
def test_the_smallest_world_holds_dense_and_expert_meshes_and_no_smaller_one_does(
    tp: int, pp: int, cp: int, ep: int, etp: int
) -> None:
    layout = Layout(tp=tp, pp=pp, cp=cp, ep=ep, etp=etp)

    def holds(world: int) -> bool:
        return world % (tp * pp * cp) == 0 and world % (ep * etp * pp) == 0

    assert holds(layout.model_world)
    assert not any(holds(world) for world in range(1, layout.model_world))
    assert layout.world == layout.model_world
    assert layout.dp * tp * pp * cp == layout.world


def test_megatron_accepts_the_smallest_world() -> None:
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    layouts = [
        Layout(tp=2, ep=4, etp=1),
        Layout(tp=4, pp=2, ep=2, etp=2),
        Layout(cp=2, ep=2, etp=3),
        Layout(pp=3, etp=2),
    ]
    with virtual_megatron("meta"):
        for layout in layouts:
            with virtual_cluster(layout, layout.model_world - 1):
                from megatron.core import parallel_state

                assert parallel_state.get_tensor_model_parallel_world_size() == layout.tp
                assert parallel_state.get_data_parallel_world_size() == layout.dp
                assert parallel_state.get_expert_model_parallel_world_size() == layout.ep
                assert parallel_state.get_expert_tensor_parallel_world_size() == layout.expert_tp


MISTAKES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"tp": 0}, ("tp = 0", "at least 1", "--tp")),
    ({"ep": -8}, ("ep = -8", "at least 1")),
    ({"pp": 16_385}, ("pp = 16385", "16,384")),
    ({"vpp": 2}, ("vpp = 2", "pp is 1")),
    ({"sp": True}, ("sp is on and tp is 1", "--no-sp")),
    ({"tp": 2, "pp": 2, "world_size": 6}, ("world_size = 6", "multiple of", "= 4")),
    ({"ep": 8, "world_size": 4}, ("world_size = 4", "= 8")),
    ({"world_size": 0}, ("world_size = 0",)),
]


@pytest.mark.parametrize(("sizes", "words"), MISTAKES, ids=[str(case[0]) for case in MISTAKES])
def test_sizes_that_no_cluster_has_are_refused(sizes: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(LayoutError) as raised:
        Layout(**sizes)
    assert [word for word in words if word not in str(raised.value)] == []


def test_sequence_parallelism_follows_tp_unless_said() -> None:
    assert [Layout().sequence_parallel, Layout(tp=2).sequence_parallel, Layout(tp=2, sp=False).sequence_parallel] == [
        False,
        True,
        False,
    ]
    assert [Layout().label, Layout(tp=2, pp=4).label, Layout(tp=2, sp=False).label] == [
        "no parallelism",
        "tp2 pp4 sp",
        "tp2",
    ]


def test_the_axes_are_the_fields_of_the_mesh_and_the_options_of_the_command() -> None:
    assert (*AXES, "sp") == Mesh.__struct_fields__
    assert (*AXES, "sp", "world_size") == Layout.__struct_fields__
    assert tuple(LAYOUT) == (*AXES, "world_size")


def test_a_resolved_layout_is_the_same_layout_with_nothing_left_open() -> None:
    layout = Layout(tp=2, ep=4, etp=1)
    resolved = layout.resolved()
    assert (resolved.sp, resolved.world_size) == (True, 4)
    assert (resolved.label, resolved.world, resolved.dp) == (layout.label, layout.world, layout.dp)
    assert resolved.resolved() == resolved
