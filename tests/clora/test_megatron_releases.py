"""What splits or packs a weight in a way that is not known is refused with the path of the module,
on real layers that are made to look like those of another release.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import planner_models
import pytest
import tiny_models

from clora import CanonicalLoRA
from clora.errors import GeometryError
from clora.linears import describe
from clora.megatron_releases import SUPPORTED, is_supported, supported_series
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

FC1 = "decoder.layers.1.mlp.experts.linear_fc1"
SHARED = "decoder.layers.1.mlp.shared_experts.linear_fc1"
QKV = "decoder.layers.1.self_attention.linear_qkv"


@pytest.fixture(scope="module")
def tp2() -> Any:
    # The virtual world is left: other tests enter it.
    with planner_models.chunks(Layout(tp=2, ep=2, etp=1), **tiny_models.MOE) as chunks:
        return chunks[0]


def _without_group(linear: Any) -> Callable[[], None]:
    group = linear._tp_group
    del linear._tp_group
    return lambda: setattr(linear, "_tp_group", group)


def _with_field(name: str, value: int) -> Callable[[Any], Callable[[], None]]:
    def change(linear: Any) -> Callable[[], None]:
        setattr(linear.config, name, value)
        return lambda: delattr(linear.config, name)

    return change


def _with_one_tensor(linear: Any) -> Callable[[], None]:
    weight = linear.weight0
    del linear.weight0
    return lambda: linear.register_parameter("weight0", weight)


CASES: dict[str, tuple[str, Callable[[Any], Callable[[], None]], str]] = {
    # The path of a linear, what is done to it and how it is undone, what the message says.
    "grouped experts without a group, as in 0.15": (
        FC1,
        _without_group,
        r"keeps no tensor-parallel group.*tensor_model_parallel_size = 2, expert_tensor_parallel_size = 1",
    ),
    "weights split once more, from 0.19": (QKV, _with_field("gtp_weight_remat_size", 2), "split further over 2 ranks"),
    "experts split once more, from 0.19": (
        FC1,
        _with_field("expert_gtp_weight_remat_size", 4),
        r"split further over 4 ranks \(expert_gtp_weight_remat_size\)",
    ),
    "gate and up of experts in blocks, from 0.18": (
        FC1,
        _with_field("moe_mlp_glu_interleave_size", 32),
        r"alternate in blocks of 32 rows \(moe_mlp_glu_interleave_size\)",
    ),
    "gate and up of shared experts in blocks, from 0.19": (
        SHARED,
        _with_field("moe_shared_expert_glu_interleave_size", 8),
        r"alternate in blocks of 8 rows \(moe_shared_expert_glu_interleave_size\)",
    ),
    "all experts in one tensor, from 0.18": (FC1, _with_one_tensor, "are one tensor"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unknown_layout_is_refused_with_the_path(case: str, tp2: Any) -> None:
    path, change, said = CASES[case]
    linear = tp2.get_submodule(path)
    known = describe(linear, path)
    undo = change(linear)
    try:
        with pytest.raises(GeometryError, match=rf"{path}.*{said}"):
            describe(linear, path)
        with pytest.raises(GeometryError, match=said):
            CanonicalLoRA(target_modules=["linear_proj"]).plan([tp2])
    finally:
        undo()
    assert describe(linear, path) == known


def test_a_field_of_other_linears_says_nothing(tp2: Any) -> None:
    linear = tp2.get_submodule(QKV)
    known = describe(linear, QKV)
    undo = _with_field("expert_gtp_weight_remat_size", 4)(linear)
    try:
        assert describe(linear, QKV) == known
    finally:
        undo()


def test_a_linear_without_a_group_is_whole_where_nothing_is_split() -> None:
    with planner_models.chunks(**tiny_models.MOE) as chunks:
        linear = chunks[0].get_submodule(FC1)
        known = describe(linear, FC1)
        del linear._tp_group
        assert describe(linear, FC1) == known


@pytest.mark.parametrize(("kind", "mixer"), [("mamba", "mixer"), ("qwen3-next", "self_attention")])
def test_the_rows_of_an_unknown_mixer_are_refused_on_several_ranks(kind: str, mixer: str) -> None:
    path = f"decoder.layers.0.{mixer}.in_proj"
    for layout in (Layout(), Layout(tp=2)):
        with quiet(), virtual_megatron("meta"), virtual_cluster(layout):
            linear = tiny_models.build(kind, layout).get_submodule(path)
            assert describe(linear, path).sections
            linear.out_features += 4
            if layout.tp == 1:
                assert describe(linear, path).sections == ()
                continue
            with pytest.raises(GeometryError, match=rf"{path} has \d+ output rows.*how 2 ranks share them"):
                describe(linear, path)


def test_series() -> None:
    assert supported_series() == "0.16, 0.17, 0.18, 0.19, 0.20"
    assert all(map(is_supported, (*SUPPORTED, "0.20.0rc1", "0.16.99")))
    assert not any(map(is_supported, ("0.15.3", "0.2.0", "0.21.0", "1.16.1", "not installed")))
