"""On the meta device, a model gets the adapters of its plan on any rank of any layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lora_models
import pytest
import tiny_models

from clora import CanonicalLoRA, CloraError
from clora.wrappers import adapted_modules
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUTS = [Layout(tp=4), Layout(tp=2, ep=4, etp=1), Layout(ep=2, etp=2), Layout(tp=2, pp=2, ep=2, etp=2)]


@pytest.fixture(autouse=True, scope="module")
def _virtual_world() -> Iterator[None]:
    with virtual_megatron("meta"):
        yield


@pytest.mark.parametrize("share", [True, False], ids=["shared", "per expert"])
@pytest.mark.parametrize(
    ("kind", "layout"),
    [("dense", Layout(tp=4)), ("dense", Layout(tp=2, pp=2))]
    + [(kind, layout) for kind in ("moe", "mla-moe-mtp", "qwen3-next") for layout in LAYOUTS],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_a_model_without_values_gets_the_adapters_of_its_plan(kind: str, layout: Layout, share: bool) -> None:
    with virtual_cluster(layout, layout.model_world - 1):
        model = tiny_models.build(kind, layout)
        lora = CanonicalLoRA(target_modules=lora_models.TARGETS, dim=8, share_expert_adapters=share)
        plan = lora.plan(model)
        with quiet():
            lora(model)
        shapes = {
            (name, part): (tuple(adapter.linear_in.weight.shape), tuple(adapter.linear_out.weight.shape))
            for name, module in adapted_modules(model)
            for part, adapter in module.adapters.items()
        }
        assert shapes == {
            (placement.module, placement.part): (placement.a_shape, placement.b_shape) for placement in plan.placements
        }
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert sum(parameter.numel() for parameter in trainable) == plan.trainable_params
        assert {parameter.device.type for parameter in trainable} == {"meta"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": 7}, "dim = 7 is not divisible by tp = 2"),
        ({"target_modules": ["linear_q", "embedding"]}, "neither"),
        ({"target_modules": ["*.linear_*"], "dim": 8}, None),
        ({"target_modules": ["*.linear_qkv*"]}, "by its own name"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be_made_touches_nothing(fields: dict[str, Any], message: str | None) -> None:
    layout = Layout(tp=2)
    with virtual_cluster(layout, 1):
        model = tiny_models.build("dense", layout)
        classes = {name: type(module) for name, module in model.named_modules()}
        if message is None:
            with quiet():
                CanonicalLoRA(**fields)(model)
            assert sum(1 for _ in adapted_modules(model)) > 0
            return
        with pytest.raises(CloraError, match=message):
            CanonicalLoRA(**fields)(model)
        assert classes == {name: type(module) for name, module in model.named_modules()}
        assert all(parameter.requires_grad for parameter in model.parameters())


def test_overlapping_targets_are_a_union() -> None:
    with virtual_cluster(Layout()):
        model = tiny_models.build("dense", Layout())
        with quiet():
            CanonicalLoRA(target_modules=["*.layers.0.*.linear_q", "linear_v"], dim=8)(model)
        parts = {name: list(module.adapters) for name, module in adapted_modules(model)}
        assert parts == {
            "decoder.layers.0.self_attention.linear_qkv": ["q", "v"],
            "decoder.layers.1.self_attention.linear_qkv": ["v"],
        }
