"""Stand-in for `transformer_engine.pytorch.cross_entropy`: cross entropy over a vocabulary that is
split over the tp axis. Shapes: `V` size of the vocabulary, `T` tp ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from ..missing import needs_gpu, refuse_unknown_names
from .normalization import widened

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def parallel_cross_entropy(
    inp: torch.Tensor,
    target: torch.Tensor,
    label_smoothing: float = 0.0,
    reduce_loss: bool = False,
    dist_process_group: ProcessGroup | None = None,
    ignore_idx: int = -100,
    is_cg_capturable: bool = False,
    overwrite_input: bool = False,
) -> torch.Tensor:
    """Return the loss of each token `[...]` in float32 or float64, or the mean of all.

    It is computed by megatron-core's own function. The real one is a Triton kernel.

    Args:
        inp: logits `[..., V / T]`.
        target: token ids `[...]`.
        label_smoothing: share of the loss that is spread over the vocabulary.
        reduce_loss: whether to return the mean.
        dist_process_group: the ranks that share the vocabulary.
        ignore_idx: token id whose loss is 0.
        is_cg_capturable: ignored: whether a CUDA graph can capture the call.
        overwrite_input: ignored: whether the gradient takes the place of `inp`.

    Raises:
        NotImplementedError: there is no process group.
    """
    # Imported here, because megatron-core imports this file while it is imported.
    from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy

    if dist_process_group is None:
        needs_gpu("transformer_engine.pytorch.parallel_cross_entropy without a process group")
    if inp.device.type == "meta":
        loss_on_meta: torch.Tensor = _OnMeta.apply(inp, dist_process_group)  # type: ignore[no-untyped-call]
        return loss_on_meta.mean() if reduce_loss else loss_on_meta
    # The index of an ignored token may lie outside of the vocabulary, so another takes its place.
    ignored = target == ignore_idx
    loss: torch.Tensor = vocab_parallel_cross_entropy(
        widened(inp), target.masked_fill(ignored, 0), label_smoothing, tp_group=dist_process_group
    )
    loss = loss.masked_fill(ignored, 0.0)
    return loss.mean() if reduce_loss else loss


class _OnMeta(torch.autograd.Function):
    """The kernel's tensors and its message. The gradient takes the place of the logits
    (`cross_entropy_forward` in the real `triton/cross_entropy.py`).
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, group: ProcessGroup) -> torch.Tensor:
        rows = logits.numel() // logits.shape[-1]
        # The maximum, the sum of exponentials and the label's logit of each row.
        own = logits.new_empty(3 * rows, dtype=torch.float32)
        if group.size() > 1:
            distributed.all_gather_into_tensor(own.new_empty(group.size() * len(own)), own, group=group)
        ctx.save_for_backward(logits.detach())
        return logits.new_empty(logits.shape[:-1], dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.saved_tensors[0], None


__getattr__ = refuse_unknown_names(__name__)
