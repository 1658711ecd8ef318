"""`tp_comm_overlap`: what one GPU can show of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gpu_models
import pytest
import te_description
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import megatron_on, virtual_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.gpu


def _adapted_at_tp2(monkeypatch: pytest.MonkeyPatch, *, overlap: bool) -> dict[str, Any]:
    import transformer_engine.pytorch.module.base as te_base

    # A trainer calls `initialize_ub` before it builds layers that overlap. It needs two GPUs.
    monkeypatch.setattr(te_base, "_ub_initialized", True, raising=False)
    fields = {"tensor_model_parallel_size": 2, "sequence_parallel": True, "tp_comm_overlap": overlap}
    model = gpu_models.adapt(gpu_models.build(**fields))
    return te_description.describe(model)


def test_layers_that_overlap_are_adapted_alike(monkeypatch: pytest.MonkeyPatch, proved: Callable[[str], None]) -> None:
    with quiet(), megatron_on("cuda"), virtual_cluster(Layout(tp=2)):
        off, on = (_adapted_at_tp2(monkeypatch, overlap=overlap) for overlap in (False, True))
    assert on["parameters"] == off["parameters"]
    assert on["modules"] == off["modules"]
    overlapping = {
        name: flags
        for name, attributes in on["attributes"].items()
        if (flags := [flag for flag, value in attributes.items() if flag.startswith("ub_") and value == "True"])
    }
    assert overlapping
    proved(f"at tp 2, tp_comm_overlap on or off adapts the same parameters; {len(overlapping)} linears overlap")


def test_overlapping_transfers_compute_the_same() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(
            "tp_comm_overlap moves data between the GPUs of a tensor-parallel group, through buffers that each maps "
            "of the others: it needs two GPUs. At tp 1 Transformer Engine switches it off"
        )
    pytest.fail("two GPUs are here: run clora-inspect verify --device cuda under torchrun with tp_comm_overlap on")
