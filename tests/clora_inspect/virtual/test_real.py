"""`--device cuda` uses the GPU if there is one; otherwise one error says what is missing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import torch

from clora.errors import DeviceError
from clora_inspect.exit_code import ExitCode, exit_code_for
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import WorldError, megatron_on

if TYPE_CHECKING:
    from pathlib import Path


def _has_transformer_engine_on_a_gpu() -> bool:
    try:
        with quiet(), megatron_on("cuda"):
            return True
    except DeviceError:
        return False


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said_with_what_was_found() -> None:
    with (
        pytest.raises(DeviceError, match=r"needs a CUDA GPU, found none \(torch 2.*use --device cpu") as caught,
        megatron_on("cuda"),
    ):
        pass
    assert exit_code_for(caught.value) is ExitCode.BUILD


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (None, "ModuleNotFoundError: No module named 'transformer_engine'"),
        ("raise FileNotFoundError('no shared object')", "FileNotFoundError: no shared object"),
        ("raise RuntimeError('empty meta package')", "RuntimeError: empty meta package"),
    ],
)
def test_transformer_engine_that_does_not_work_is_said(
    source: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if source is not None:
        (tmp_path / "transformer_engine").mkdir()
        (tmp_path / "transformer_engine" / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
    elif "transformer_engine" in sys.modules or _has_transformer_engine_on_a_gpu():
        pytest.skip("Transformer Engine is installed")
    with pytest.raises(DeviceError, match=f"needs Transformer Engine, found {found}"), megatron_on("cuda"):
        pass


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_one_line_enters_the_world_of_any_device(device: str) -> None:
    with megatron_on(device) as where:
        assert where == torch.device(device)
        with pytest.raises(WorldError, match=f"entered, on '{device}'"), megatron_on("cuda"):
            pass
