"""Choose between the virtual world and this machine's GPU by the `device` of a job."""

from __future__ import annotations

import importlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora.errors import DeviceError
from clora_inspect.virtual.releases import naming_the_release, refuse_older_releases
from clora_inspect.virtual.world import enter_world, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from clora_inspect.job.job import Device

_FIX = "Leave out --device for shapes (meta), or use --device cpu for small models with values."


@contextmanager
def megatron_on(device: Device) -> Iterator[torch.device]:
    """Enter the world for `device`: the virtual one for meta and cpu, the real one for cuda.

    Yields:
        The device on which parameters are created.

    Raises:
        WorldError: a world is entered already; they do not nest.
        DeviceError: `device` is cuda, and there is no GPU or no Transformer Engine that works.
    """
    with real_megatron() if device == "cuda" else virtual_megatron(device) as where:
        yield where


@contextmanager
def real_megatron() -> Iterator[torch.device]:
    """Use this machine's GPU and the installed Transformer Engine. Nothing is replaced; random
    states are restored on exit.

    `virtual_cluster` works inside as it does in the virtual world: this process plays any rank of
    any cluster, with parameters on its GPU.

    Yields:
        The current CUDA device.

    Raises:
        WorldError: a world is entered already.
        DeviceError: there is no GPU, or Transformer Engine cannot be imported.
        ReleaseError: megatron-core is not installed, or it is a release that is not supported.
    """
    refuse_older_releases()
    with enter_world("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise DeviceError(
                f"--device cuda needs a CUDA GPU, found none "
                f"(torch {torch.__version__}, CUDA {torch.version.cuda}). {_FIX}"
            )
        try:
            importlib.import_module("transformer_engine.pytorch")
        except (ImportError, FileNotFoundError, RuntimeError, AssertionError) as error:
            # Transformer Engine looks for its compiled libraries while it is imported. It raises
            # any of these if they are missing or were built for another CUDA.
            raise DeviceError(
                f"--device cuda needs Transformer Engine, found {type(error).__name__}: {error}. "
                f"Install clora-inspect[te] on this machine. {_FIX}"
            ) from error
        device = torch.device("cuda", torch.cuda.current_device())
        with torch.random.fork_rng(devices=[device.index]), naming_the_release():
            yield device
