"""Cross entropy over a vocabulary that is split over the tp axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..missing import needs_gpu, refusing
from .normalization import widened

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup


def parallel_cross_entropy(
    inp: torch.Tensor,
    target: torch.Tensor,
    label_smoothing: float = 0.0,
    reduce_loss: bool = False,
    dist_process_group: ProcessGroup | None = None,
    ignore_idx: int = -100,
    is_cg_capturable: bool = False,
) -> torch.Tensor:
    """The loss of every token in float32 (or wider), through megatron-core's own
    vocabulary-parallel cross entropy.

    Args:
        inp: logits `[..., vocabulary / tp]`.
        target: token numbers `[...]`; `ignore_idx` among them counts as a loss of 0.
        label_smoothing: share of the loss that is spread over the vocabulary.
        reduce_loss: return the mean.
        dist_process_group: the ranks that share the vocabulary.
        ignore_idx: target that does not count.
        is_cg_capturable: of CUDA graphs; nothing here.
    """
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    if dist_process_group is None:
        needs_gpu("transformer_engine.pytorch.parallel_cross_entropy without a process group")
    ignored = target == ignore_idx
    loss: torch.Tensor = vocab_parallel_cross_entropy(
        widened(inp), target.masked_fill(ignored, 0), label_smoothing, tp_group=dist_process_group
    )
    loss = loss.masked_fill(ignored, 0.0)
    return loss.mean() if reduce_loss else loss


__getattr__ = refusing(__name__)
