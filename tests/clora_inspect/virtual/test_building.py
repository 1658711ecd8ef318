"""Each kind of model is built from the Transformer Engine specs, for any rank, with no GPU."""

from __future__ import annotations

import pytest
import tiny_models

from clora_inspect.job.layout import Layout
from clora_inspect.virtual import virtual_cluster, virtual_megatron

LAYOUTS = {
    "one": Layout(),
    "tp2": Layout(tp=2),
    "tp2-pp2": Layout(tp=2, pp=2),
    "tp2-ep4": Layout(tp=2, ep=4, etp=1),
    "tp1-ep2-etp2": Layout(ep=2, etp=2),
    "cp2": Layout(cp=2),
}


def _can_be_spread(kind: str, layout: Layout) -> bool:
    """Return whether the model fits: ep and etp need experts, the pattern of the Mamba model names
    the layers of one pipeline stage only, and megatron-core refuses cp for a gated delta net.
    """
    if kind == "qwen3-next" and layout.cp > 1:
        return False
    has_experts = "num_moe_experts" in tiny_models.MESH_KINDS[kind]
    return (has_experts or layout.ep * (layout.etp or 1) == 1) and (kind != "mamba" or layout.pp == 1)


@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        pytest.param(kind, layout, id=f"{kind}-{name}")
        for kind in tiny_models.MESH_KINDS
        for name, layout in LAYOUTS.items()
        if _can_be_spread(kind, layout)
    ],
)
def test_the_last_rank_is_built_on_meta(kind: str, layout: Layout) -> None:
    with virtual_megatron("meta"), virtual_cluster(layout, layout.model_world - 1):
        model = tiny_models.build(kind, layout)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize(
    ("kind", "layout", "name", "shape"),
    [
        ("dense", Layout(tp=2), "decoder.layers.0.self_attention.linear_qkv.weight", (64, 64)),
        ("dense", Layout(tp=2), "decoder.layers.0.self_attention.linear_proj.weight", (64, 32)),
        ("dense", Layout(tp=2), "decoder.layers.1.mlp.linear_fc1.weight", (128, 64)),
        ("dense", Layout(tp=2), "decoder.layers.1.mlp.linear_fc1.layer_norm_weight", (64,)),
        ("dense", Layout(tp=2), "output_layer.weight", (128, 64)),
        ("moe", Layout(tp=2, ep=4, etp=1), "decoder.layers.0.mlp.experts.linear_fc1.weight1", (128, 64)),
        ("moe", Layout(ep=2, etp=2), "decoder.layers.0.mlp.experts.linear_fc2.weight3", (64, 32)),
        ("mla", Layout(tp=2), "decoder.layers.0.self_attention.linear_kv_up_proj.weight", (64, 16)),
        ("mla", Layout(tp=2), "decoder.layers.0.self_attention.linear_q_up_proj.layer_norm_weight", (32,)),
        ("mla-moe-mtp", Layout(), "mtp.layers.0.eh_proj.weight", (64, 128)),
        ("sinks-and-window", Layout(tp=2), "decoder.layers.0.self_attention.core_attention.softmax_offset", (2,)),
        ("mamba", Layout(tp=2), "decoder.layers.0.mixer.in_proj.layer_norm_weight", (64,)),
        ("qwen3-next", Layout(tp=2), "decoder.layers.0.self_attention.out_proj.weight", (64, 64)),
    ],
)
def test_a_parameter_has_this_ranks_share(kind: str, layout: Layout, name: str, shape: tuple[int, ...]) -> None:
    with virtual_megatron("meta"), virtual_cluster(layout, 0):
        model = tiny_models.build(kind, layout)
    assert tuple(dict(model.named_parameters())[name].shape) == shape


def test_many_layouts_in_one_process_build_what_each_builds_alone() -> None:
    def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
        with virtual_cluster(layout, 0):
            return {name: tuple(p.shape) for name, p in tiny_models.build("moe", layout).named_parameters()}

    layouts = [Layout(tp=tp, ep=ep, pp=pp) for tp in (1, 2) for ep in (1, 4) for pp in (1, 2)]
    alone = []
    for layout in layouts:
        with virtual_megatron("meta"):
            alone.append(shapes(layout))
    with virtual_megatron("meta"):
        in_turn = [shapes(layout) for layout in layouts]
        backwards = [shapes(layout) for layout in reversed(layouts)]
    assert in_turn == alone
    assert backwards[::-1] == alone


def test_a_wide_world_has_the_groups_of_this_rank_only() -> None:
    from torch import distributed

    layout = Layout(tp=8, pp=16, ep=64, etp=1)
    with virtual_megatron("meta"), virtual_cluster(layout, 1000):
        from megatron.core import parallel_state

        assert distributed.get_world_size() == 1024
        assert distributed.get_process_group_ranks(parallel_state.get_tensor_model_parallel_group()) == [
            *range(1000, 1008)
        ]
        assert parallel_state.get_pipeline_model_parallel_rank() == 15
        assert parallel_state.get_expert_model_parallel_rank() == 1000 % 64
