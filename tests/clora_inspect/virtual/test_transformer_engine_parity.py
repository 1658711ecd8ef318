"""The stand-in's classes are those of the real Transformer Engine, whose compiled part is faked.

The real package's wheel is installed into a folder of its own: in an environment in which it can be
imported but does not work, megatron-core cannot be imported.
"""

from __future__ import annotations

import json
import subprocess
import sys
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
    f"{_TE}.optimizers.multi_tensor_apply": {"CHUNK_SIZE", "multi_tensor_l2norm", "multi_tensor_scale"},
}
"""Module -> names that the stand-in's files share through it, and that the real package has in
other modules or not at all.
"""


@pytest.fixture(scope="module")
def wheel(wheel_of: Callable[[str], Path]) -> Path:
    return wheel_of(f"transformer-engine=={followed}")


@pytest.fixture(scope="module")
def described(wheel: Path) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Return a function: device -> (the real package, the stand-in), both described."""
    known: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def on(device: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if device not in known:
            done = subprocess.run(
                [sys.executable, REAL, wheel, device], capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, done.stderr[-4000:]
            with quiet(), virtual_megatron(device):
                ours = te_description.describe_everything(device)
            known[device] = json.loads(done.stdout), json.loads(json.dumps(ours))
        return known[device]

    return on


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("case", CASES)
def test_a_module_is_what_the_real_one_is(case: str, device: str, described: Any) -> None:
    real, ours = described(device)
    for what in ("parameters", "buffers", "extra_state", "modules"):
        assert ours[case][what] == real[case][what]
    for module, attributes in real[case]["attributes"].items():
        if module.rpartition(".")[2] not in BACK_ENDS:
            expected = {name: value for name, value in attributes.items() if name not in MAY_DIFFER}
            present = {
                name: value for name, value in ours[case]["attributes"][module].items() if name not in MAY_DIFFER
            }
            assert present == expected, module


def test_each_layer_of_the_stand_in_has_a_case() -> None:
    without = set(te_cases.exported_layers()) - {kind for kind, _ in te_cases.CASES.values()}
    # megatron-core never builds a LayerNormMLP: the stand-in has its name only.
    assert without == {"LayerNormMLP"}


@pytest.mark.parametrize("function", te_cases.SIGNATURES)
def test_a_function_takes_the_same_arguments(function: str, described: Any) -> None:
    real, ours = described("meta")
    assert ours["signatures"][function] == real["signatures"][function]


@pytest.mark.parametrize("module", te_cases.stand_in_names())
def test_every_name_of_the_stand_in_is_one_of_the_real_package(module: str, described: Any) -> None:
    real, ours = described("meta")
    invented = set(ours["names"][module]) - set(real["names"][module]) - OURS_ALONE.get(module, set())
    assert not invented
    assert ours["names"][module] == te_cases.stand_in_names()[module]
