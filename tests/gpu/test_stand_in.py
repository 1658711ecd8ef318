"""The stand-in against real Transformer Engine where that runs: what is built, what it computes.

`tests/clora_inspect/virtual/test_transformer_engine_parity.py` compares the Python side of the real
package on the CPU, with its compiled part faked. Here nothing is faked.
"""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from typing import TYPE_CHECKING, Any

import gpu_models
import pytest
import te_cases
import te_description
import tiny_models
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import megatron_on, virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.gpu

NEEDS = {"qwen3-next-tp2": "fla", "mamba-tp2": "mamba_ssm"}
"""Model -> the other CUDA package that it cannot be built without."""

UNLIKE = ("device", "sum")
"""Facts of a tensor that differ by design: a GPU draws other random numbers than a CPU."""

PRIVATE = ("flash_attention", "fused_attention", "unfused_attention", "scale_mask_softmax")
"""Modules inside of attention, whose attributes nobody reads from outside."""

DEBUGGING = ("name", "next_iter_when_debug_should_be_run")


@cache
def _described() -> tuple[dict[str, Any], dict[str, Any]]:
    models = [name for name in te_cases.MODELS if name not in NEEDS or importlib.util.find_spec(NEEDS[name])]
    with quiet(), megatron_on("cuda"), pytest.MonkeyPatch.context() as patch:
        import transformer_engine.pytorch.module.base as te_base

        # As after `initialize_ub`, which a trainer calls before it builds layers that overlap.
        patch.setattr(te_base, "_ub_initialized", True, raising=False)
        real = te_description.describe_everything("cuda", models)
    with quiet(), virtual_megatron("cpu"):
        ours = te_description.describe_everything("cpu", models)
    return json.loads(json.dumps(real)), json.loads(json.dumps(ours))


def _without_what_differs(tensors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{fact: value for fact, value in tensor.items() if fact not in UNLIKE} for tensor in tensors]


@pytest.mark.parametrize("case", [*te_cases.CASES, *te_cases.MODELS])
def test_a_module_is_what_the_real_one_is(case: str) -> None:
    real, ours = (side.get(case) for side in _described())
    if real is None:
        pytest.skip(f"{NEEDS[case]} is not installed")
    assert ours is not None
    if "refused" in ours:
        assert real.get("refused") == ours["refused"]
        return
    for what in ("parameters", "buffers"):
        assert _without_what_differs(ours[what]) == _without_what_differs(real[what])
    for what in ("extra_state", "modules"):
        assert ours[what] == real[what]
    for module, attributes in real["attributes"].items():
        if module.rpartition(".")[2] not in PRIVATE:
            expected = {name: value for name, value in attributes.items() if name not in DEBUGGING}
            present = {name: value for name, value in ours["attributes"][module].items() if name not in DEBUGGING}
            assert {name: present.get(name) for name in expected} == expected, module


def test_the_signatures_are_the_real_ones(proved: Callable[[str], None]) -> None:
    real, ours = _described()
    differ = {name for name in te_cases.SIGNATURES if ours["signatures"][name] != real["signatures"][name]}
    assert differ == set()
    proved(
        f"the stand-in's {len(te_cases.CASES)} ways to build a class have the real parameters, dtypes, buffers and "
        f"attributes, and its {len(te_cases.SIGNATURES)} functions the real signatures"
    )


@pytest.mark.parametrize("kind", ["dense", "moe", "mla"])
def test_a_rank_of_several_builds_the_same(kind: str) -> None:
    layout = Layout(tp=2)
    with quiet(), megatron_on("cuda"), virtual_cluster(layout, 1):
        real = te_description.describe(tiny_models.build(kind, layout, "cuda"))
    with quiet(), virtual_megatron("cpu"), virtual_cluster(layout, 1):
        ours = te_description.describe(tiny_models.build(kind, layout, "cpu"))
    assert _without_what_differs(ours["parameters"]) == _without_what_differs(real["parameters"])
    assert ours["modules"] == real["modules"]


@pytest.mark.parametrize("kind", gpu_models.KINDS)
def test_the_stand_in_computes_what_kernels_compute(kind: str, proved: Callable[[str], None]) -> None:
    def run(device: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with quiet(), megatron_on(device), virtual_cluster(Layout()):
            model = gpu_models.adapt(gpu_models.build(kind, device=device))
            found = gpu_models.logits(model)
            gpu_models.loss(model).backward()
            return found.detach().cpu(), {n: g.cpu() for n, g in gpu_models.gradients(model).adapters.items()}

    real, real_gradients = run("cuda")
    ours, our_gradients = run("cpu")
    difference = gpu_models.relative(ours, real)
    # A token near a tie goes to another expert when bf16 rounds another way.
    assert difference <= (0.15 if kind == "moe" else 0.03)
    assert set(our_gradients) == set(real_gradients)
    alike = {
        name: float(torch.cosine_similarity(our_gradients[name].float().flatten(), g.float().flatten(), 0))
        for name, g in real_gradients.items()
    }
    worst = min(alike, key=lambda name: alike[name])
    assert alike[worst] >= (0.9 if kind == "moe" else 0.99), worst
    proved(
        f"{kind}, bf16: the stand-in's logits on the CPU differ from the kernels' by {difference:.1e}, "
        f"gradients have cosines of at least {alike[worst]:.4f}"
    )
