"""The stand-in's classes are those of the real Transformer Engine, whose compiled part is faked:
exactly those of the release that it follows, and those of older ones but for listed differences.

The real package's wheel is installed into a folder of its own: in an environment in which it can be
imported but does not work, megatron-core cannot be imported.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import te_cases
import te_description

from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_megatron
from clora_inspect.virtual.transformer_engine import __version__ as followed

if TYPE_CHECKING:
    from collections.abc import Callable

REAL = Path(__file__).with_name("real_transformer_engine.py")

CASES = [*te_cases.CASES, *te_cases.MODELS]

RELEASES = [followed, pytest.param("2.17.1", marks=pytest.mark.nightly), "2.12.0"]

_SINCE_2_20 = {
    *("softcap", "softmax_scale", "bf16_backward", "qkv_layer", "kv_layer", "qkv_interleave_dim"),
    *("thd_attention_policies", "thd_attention_policy_dispatch", "load_balancing_strategy", "CPLoadBalancingStrategy"),
    *("use_grouped_tensor", "out", "dgrad_out", "overwrite_input"),
}
_SINCE_2_17 = {
    *("score_mod", "score_mod_bprop", "score_mod_tensors", "score_mod_bprop_tensors", "name"),
    *("single_grouped_weight", "single_grouped_bias", "params_dtype", "init_method", "scale_bias"),
    *("GroupedLinear", "ScaledSwiGLU", "ScaledClampedQGeGLU", "ScaledSReLU", "GroupedTensor"),
    *("multi_tensor_scale_tensor", "quantize_master_weights"),
}
NOT_YET = {followed: set[str](), "2.17.1": _SINCE_2_20, "2.12.0": _SINCE_2_20 | _SINCE_2_17}
"""Release -> arguments, attributes and exported names that it does not have yet."""

MARKS_OF_SHARDS = {"tensor_model_parallel", "partition_dim", "partition_stride", "sequence_parallel"}
"""Attributes of a parameter. Up to 2.12 the weights of experts have them."""

MAY_DIFFER = {
    "name": "a count of all layers made in the process, for debugging",
    "next_iter_when_debug_should_be_run": "debugging",
}
"""Attribute that may differ -> why nobody reads it."""

BACK_ENDS = ("flash_attention", "fused_attention", "unfused_attention", "scale_mask_softmax")
"""Modules inside of attention. They are in the module tree, but their attributes are not compared:
they are private to it.
"""

_TE = "transformer_engine.pytorch"
OURS_ALONE = {
    f"{_TE}.attention.dot_product_attention": {
        "FlashAttention",
        "FusedAttention",
        "FusedScaleMaskSoftmax",
        "UnfusedDotProductAttention",
    },
    f"{_TE}.module.base": {
        "PARALLEL_MODES",
        "WeightGradStore",
        "constant_init",
        "normal_init",
        "set_tensor_model_parallel_attributes",
    },
    f"{_TE}.module.fp8_padding": {"ALIGNMENT"},
    f"{_TE}.ops": {"BasicOperation"},
    f"{_TE}.optimizers.multi_tensor_apply": {
        "CHUNK_SIZE",
        "multi_tensor_l2norm",
        "multi_tensor_scale",
        "multi_tensor_scale_tensor",
    },
}
"""Module -> names that the stand-in's files share through it, and that the real package has in
other modules or not at all.
"""


@pytest.fixture(scope="module")
def described(wheel_of: Callable[[str], Path]) -> Callable[[str, str], tuple[dict[str, Any], dict[str, Any]]]:
    """Return a function: release, device -> (the real package, the stand-in), both described."""

    @cache
    def real(release: str, device: str) -> dict[str, Any]:
        wheel = wheel_of(f"transformer-engine=={release}")
        done = subprocess.run(
            [sys.executable, REAL, wheel, device], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @cache
    def ours(device: str) -> dict[str, Any]:
        with quiet(), virtual_megatron(device):
            found: dict[str, Any] = json.loads(json.dumps(te_description.describe_everything(device)))
        return found

    return lambda release, device: (real(release, device), ours(device))


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", CASES)
def test_a_module_is_what_the_real_one_is(case: str, release: str, device: str, described: Any) -> None:
    real, ours = (side[case] for side in described(release, device))
    if "refused" in ours:
        # Up to 2.13 the real class takes it. megatron-core never asks for it.
        assert real.get("refused", ours["refused"] if release == "2.12.0" else None) == ours["refused"]
        return
    if release == "2.12.0":
        _drop_marks_of_experts(real)
    for what in ("parameters", "buffers", "extra_state", "modules"):
        assert ours[what] == real[what]
    for module, attributes in real["attributes"].items():
        if module.rpartition(".")[2] not in BACK_ENDS:
            expected = {name: value for name, value in attributes.items() if name not in MAY_DIFFER}
            present = {
                name: value
                for name, value in ours["attributes"][module].items()
                if name in expected or name not in {*MAY_DIFFER, *NOT_YET[release]}
            }
            assert present == expected, module


def _drop_marks_of_experts(description: dict[str, Any]) -> None:
    for parameter in description["parameters"]:
        if re.search(r"(weight|bias)\d+$", parameter["name"]):
            parameter["marks"] = {
                mark: value for mark, value in parameter["marks"].items() if mark not in MARKS_OF_SHARDS
            }


def test_each_layer_of_the_stand_in_has_a_case() -> None:
    without = set(te_cases.exported_layers()) - {kind for kind, _ in te_cases.CASES.values()}
    # megatron-core never builds a LayerNormMLP: the stand-in has its name only.
    assert without == {"LayerNormMLP"}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("function", te_cases.SIGNATURES)
def test_a_function_takes_the_same_arguments(function: str, release: str, described: Any) -> None:
    real, ours = (side["signatures"][function] for side in described(release, "meta"))
    if real is None:
        assert function.rpartition(":")[2].partition(".")[0] in NOT_YET[release]
    else:
        assert [name for name in ours if name in real or name not in NOT_YET[release]] == real


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("module", te_cases.stand_in_names())
def test_every_name_of_the_stand_in_is_one_of_the_real_package(module: str, release: str, described: Any) -> None:
    real, ours = described(release, "meta")
    invented = set(ours["names"][module]) - set(real["names"][module]) - OURS_ALONE.get(module, set())
    assert invented <= NOT_YET[release]
    assert ours["names"][module] == te_cases.stand_in_names()[module]
