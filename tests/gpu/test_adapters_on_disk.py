"""Adapters saved from a GPU are the same bits on the CPU, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gpu_models
import pytest
import torch

from clora import load_adapters, save_adapters
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.verify.ranks.worlds import one_rank

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from clora_inspect.job.job import Device

pytestmark = pytest.mark.gpu


def _saved(device: Device, folder: Path) -> dict[str, torch.Tensor]:
    with quiet(), one_rank(Layout(), device):
        model = gpu_models.adapt(gpu_models.build("moe", device=device))
        save_adapters(model, folder)
        return _factors(model)


def _loaded(device: Device, folder: Path) -> dict[str, torch.Tensor]:
    with quiet(), one_rank(Layout(), device):
        model = gpu_models.adapt(gpu_models.build("moe", device=device), fill=False)
        load_adapters(model, folder)
        return _factors(model)


def _factors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if ".adapter" in name}


@pytest.mark.parametrize(("written_on", "read_on"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")])
def test_saved_adapters_are_read_on_either_device(
    written_on: Device, read_on: Device, tmp_path: Path, proved: Callable[[str], None]
) -> None:
    written = _saved(written_on, tmp_path / "adapters")
    read = _loaded(read_on, tmp_path / "adapters")
    assert set(read) == set(written)
    assert all(values.any() for values in written.values())
    assert [name for name in written if not torch.equal(read[name], written[name])] == []
    proved(f"{len(written)} factors saved on {written_on} are the same bits when loaded on {read_on}")
