"""The map of the cluster: what each stage is shaded by."""

from __future__ import annotations

import msgspec

from clora import CanonicalLoRA
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import JobPlan
from clora_inspect.page.stages import measures, stage_rows, style_of
from clora_inspect.pipeline import plan_job


def plan() -> JobPlan:
    fields = {"num_layers": 3, "num_layers_in_last_pipeline_stage": 1, "num_moe_experts": 8}
    layout = Layout(tp=2, pp=2, ep=4, etp=1)
    return plan_job(Job(model="qwen3-30b-a3b", layout=layout, lora=CanonicalLoRA(), model_overrides=fields))


def test_the_largest_stage_has_the_full_shade() -> None:
    planned = plan()
    rows = stage_rows(planned)
    assert [(row.expert_ranks, row.ep, row.experts) for row in rows] == [(4, "0..3", "2 of 8")] * 2
    shown = {measure.key: measure for measure in measures(rows)}
    # No peak was counted, so none can be chosen.
    assert list(shown) == ["bytes", "params", "trained"]
    trained = [ranks.trainable_params for ranks in planned.rank_classes]
    assert [shade.text for shade in shown["trained"].shades] == [f"{number:,}" for number in trained]
    # Two layers of three stand on the first stage.
    assert [shade.percent for shade in shown["trained"].shades] == [100, 50]
    assert shown["trained"].largest == f"{max(trained):,}"
    style = style_of(rows, shown.values())
    assert ".ranks-4{--ranks:4;" in style
    assert ".trained-50{--shade:50%}" in style


def test_a_plan_without_ranks_has_no_stages() -> None:
    empty = msgspec.structs.replace(plan(), rank_classes=())
    rows = stage_rows(empty)
    assert rows == []
    assert all(measure.shades == () for measure in measures(rows))
