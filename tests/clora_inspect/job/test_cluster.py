"""Rank classes against megatron-core's own rank generator, in its default order."""

from __future__ import annotations

import random

import pytest

from clora_inspect.job.cluster import stages
from clora_inspect.job.layout import Layout


def random_layouts(number: int) -> list[Layout]:
    chance = random.Random(20)
    layouts = []
    for _ in range(number):
        sizes = {axis: chance.choice([1, 2, 4]) for axis in ("tp", "pp", "cp", "ep")}
        layout = Layout(**sizes, etp=chance.choice([1, 2]))
        layouts.append(Layout(**sizes, etp=layout.expert_tp, world_size=layout.model_world * chance.choice([1, 2, 3])))
    return layouts


@pytest.mark.parametrize("layout", random_layouts(25), ids=lambda layout: f"{layout.label} of {layout.world}")
def test_a_stage_holds_the_ranks_that_megatron_puts_there(layout: Layout) -> None:
    from clora_inspect.virtual import virtual_megatron

    with virtual_megatron("meta"):
        from megatron.core.parallel_state import RankGenerator

        dense = RankGenerator(tp=layout.tp, ep=1, dp=layout.dp, pp=layout.pp, cp=layout.cp, order="tp-cp-ep-dp-pp")
        expert_dp = layout.world // (layout.expert_tp * layout.ep * layout.pp)
        expert = RankGenerator(
            tp=layout.expert_tp, ep=layout.ep, dp=expert_dp, pp=layout.pp, cp=1, order="tp-cp-ep-dp-pp"
        )
        pipelines = dense.get_ranks("pp")
        assert expert.get_ranks("pp") == pipelines
    for stage in stages(layout):
        theirs = sorted(ranks[stage.pp] for ranks in pipelines)
        ours = [rank for first, last in stage.members for rank in range(first, last + 1)]
        assert ours == theirs
        assert stage.count == len(theirs)
    assert sum(stage.count for stage in stages(layout)) == layout.world


@pytest.mark.parametrize("layout", random_layouts(8), ids=lambda layout: f"{layout.label} of {layout.world}")
def test_the_rank_that_is_built_stands_on_its_stage(layout: Layout) -> None:
    from clora_inspect.virtual import virtual_cluster, virtual_megatron

    with virtual_megatron("meta"):
        from megatron.core import parallel_state

        for stage in stages(layout):
            with virtual_cluster(layout, stage.representative):
                assert parallel_state.get_pipeline_model_parallel_rank() == stage.pp


def test_a_wider_world_has_the_same_stages_with_more_ranks() -> None:
    narrow, wide = stages(Layout(tp=2, pp=2)), stages(Layout(tp=2, pp=2, world_size=1_000))
    assert [(s.pp, s.representative) for s in narrow] == [(s.pp, s.representative) for s in wide]
    assert [s.members for s in wide] == [((0, 499),), ((500, 999),)]
