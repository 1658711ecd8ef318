"""Peaks of a GPU's memory, with adapters and without, are those that `plan --memory` counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gpu_memory
import gpu_models
import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.gpu

WIDE = {"hidden_size": 1024, "ffn_hidden_size": 4096, "num_attention_heads": 8, "num_query_groups": 8}
MIB = 2**20


def _step(model: Any) -> tuple[int, int]:
    """Return what a step adds at its peak, and what it leaves behind, in bytes."""
    for _ in range(2):  # the first makes workspaces
        for p in model.parameters():
            p.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        gpu_models.loss(model).backward()
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before


@pytest.mark.usefixtures("one_gpu")
def test_a_frozen_base_has_no_gradients_in_memory(proved: Callable[[str], None]) -> None:
    model = gpu_models.build(**WIDE)
    base_bytes = sum(p.nbytes for p in model.parameters())
    full_peak, full_left = _step(model)
    for p in model.parameters():
        p.grad = None
    gpu_models.adapt(model)
    adapter_bytes = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    peak, left = _step(model)
    # The allocator rounds each tensor up to 512 bytes.
    tensors = sum(1 for p in model.parameters())
    assert base_bytes <= full_left <= base_bytes + 512 * tensors
    assert adapter_bytes <= left <= adapter_bytes + 512 * tensors
    # Activations are freed while gradients come, so the peaks differ by less than the gradients.
    assert peak <= full_peak - base_bytes / 2
    proved(
        f"training everything peaks at {full_peak / MIB:.0f} MiB above the weights and leaves {full_left / MIB:.1f} MiB "
        f"of gradients; adapters of rank 16 peak at {peak / MIB:.0f} MiB and leave {left / MIB:.1f} MiB"
    )


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    "recompute",
    [
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        {"recompute_granularity": "selective", "recompute_modules": ["layernorm", "mlp"]},
    ],
    ids=["full", "selective"],
)
def test_recompute_saves_memory_and_changes_no_gradient(
    recompute: dict[str, Any], proved: Callable[[str], None]
) -> None:
    wide = {**WIDE, "num_layers": 4}
    kept = gpu_models.adapt(gpu_models.build(**wide))
    kept_peak, _ = _step(kept)
    expected = gpu_models.gradients(kept).adapters
    del kept
    model = gpu_models.adapt(gpu_models.build(**wide, **recompute))
    peak, _ = _step(model)
    found = gpu_models.gradients(model).adapters
    assert peak < kept_peak
    assert set(found) == set(expected)
    worst = max(gpu_models.relative(found[name], expected[name]) for name in expected)
    assert worst <= 1e-2
    proved(
        f"{recompute['recompute_granularity']} recompute: a step of 4 adapted layers peaks at {peak / MIB:.0f} instead of "
        f"{kept_peak / MIB:.0f} MiB, gradients differ by {worst:.1e}"
    )


@pytest.mark.parametrize("recompute", gpu_memory.RECOMPUTE)
@pytest.mark.parametrize("rank", [None, gpu_memory.RANK], ids=["everything trained", "LoRA"])
@pytest.mark.parametrize("model", gpu_memory.MODELS)
def test_peaks_are_those_of_the_account(
    model: str, rank: int | None, recompute: str, proved: Callable[[str], None]
) -> None:
    """One layer at its true width: `torch.cuda.max_memory_allocated` against what is counted."""
    case = {"model": model, "seq_length": 4096, "layers": 1, "lora_rank": rank, "recompute": recompute}
    counted = gpu_memory.numbers(case, "meta")
    measured = gpu_memory.numbers(case, "cuda")
    for number in ("weights", "gradients"):
        assert counted[number] == measured[number], number
    for peak in ("forward_peak", "backward_peak"):
        # torch's allocator leaves 1 MiB unused here and there.
        assert counted[peak] == pytest.approx(measured[peak], rel=0.003), peak
    proved(
        f"a layer of {model}, {'everything trained' if rank is None else f'LoRA of rank {rank}'}, recompute "
        f"{recompute}: a step peaks at {max(measured['forward_peak'], measured['backward_peak']) / MIB:.1f} MiB above "
        f"its weights, {max(counted['forward_peak'], counted['backward_peak']) / MIB:.1f} are counted"
    )
