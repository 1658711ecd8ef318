"""`Bridge`: the canonical LoRA of the installed Megatron-Bridge, as an implementation to prove."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.folders.socket_folder import keep_socket_paths_short
from clora.linears import sharded_state

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from clora.canonical_lora import CanonicalLoRA
    from clora_inspect.bridge.canonical_lora import BridgeLoRA


class Bridge:
    """The installed release of Megatron-Bridge."""

    name = "megatron-bridge"
    is_ours = False
    # Megatron-Bridge merges and exports whole checkpoints with scripts, not a live model.
    merges = False
    exports = False

    def __init__(self, lora: BridgeLoRA) -> None:
        self.apply = lora.apply

    def apply_again(self, chunks: list[nn.Module], lora: CanonicalLoRA) -> list[nn.Module]:
        # A script that resumes has a new object of the class, and so does `apply`.
        return self.apply(chunks, lora)

    def merge(self, chunks: list[nn.Module]) -> None:
        raise NotImplementedError

    def unmerge(self, chunks: list[nn.Module]) -> None:
        raise NotImplementedError

    def save(self, chunks: list[nn.Module], folder: Path) -> None:
        from megatron.core import dist_checkpointing

        # All ranks make the same folder.
        folder.mkdir(exist_ok=True)
        keep_socket_paths_short()
        dist_checkpointing.save(_adapter_state(chunks), str(folder))

    def load(self, chunks: list[nn.Module], folder: Path) -> None:
        from megatron.core import dist_checkpointing

        loaded = dist_checkpointing.load(_adapter_state(chunks), str(folder))
        for chunk in chunks:
            # Not strict, because the checkpoint has the adapters alone.
            chunk.load_state_dict(loaded, strict=False)


def _adapter_state(chunks: list[nn.Module]) -> dict[str, Any]:
    """Return the sharded state of the adapters, by the name that Megatron-Bridge filters by."""
    state: dict[str, Any] = {}
    for chunk in chunks:
        state |= {name: value for name, value in sharded_state(chunk).items() if ".adapter." in name}
    return state
