"""The other choice: real Transformer Engine on a real GPU, for those who have one
(`--device cuda`).
"""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora.errors import DeviceError
from clora_inspect.virtual.world import entered, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from clora_inspect.job.job import Device

FIX = "Leave out --device for shapes (meta), or use --device cpu for small models with values."


@contextmanager
def megatron_on(device: Device) -> Iterator[torch.device]:
    """The one line by which a job gets the Megatron that its `device` means: virtual on meta and
    cpu, real on cuda.

    Yields:
        The device that `torch.cuda.current_device()` names inside.

    Raises:
        WorldError: one is entered already: they do not nest.
        DeviceError: `cuda` where there is no GPU or no Transformer Engine that works.
    """
    with real_megatron() if device == "cuda" else virtual_megatron(device) as where:
        yield where


@contextmanager
def real_megatron() -> Iterator[torch.device]:
    """Use this machine's GPU and the installed Transformer Engine; nothing is replaced, only random
    states are given back.

    `virtual_cluster` works inside as it does in the virtual world: this process plays any rank of
    any cluster, with parameters on its GPU.

    Raises:
        WorldError: a virtual world is entered already.
        DeviceError: there is no GPU, or Transformer Engine cannot be imported.
    """
    with entered("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise DeviceError(
                f"--device cuda needs a CUDA GPU, found none (torch {torch.__version__}, CUDA {torch.version.cuda}). {FIX}"
            )
        try:
            importlib.import_module("transformer_engine.pytorch")
        except (ImportError, FileNotFoundError, RuntimeError, AssertionError) as error:
            # A wheel without its compiled part, or with one for another CUDA, fails in any of these
            # ways.
            raise DeviceError(
                f"--device cuda needs Transformer Engine, found {type(error).__name__}: {error}. "
                f"Install clora-inspect[te] on this machine. {FIX}"
            ) from error
        device = torch.device("cuda", torch.cuda.current_device())
        with torch.random.fork_rng(devices=[device.index]):
            yield device
