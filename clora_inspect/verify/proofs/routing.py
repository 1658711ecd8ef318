"""Let routers choose the same experts in two runs. Shared by proofs that compare the runs.

In bf16 and fp16 rounding alone can turn a router's choice, and everything after it is another
computation. Only the choice is repeated: the scores of the chosen experts are computed anew, with
their gradients.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.running import ModuleKey, end_hook, start_hook, unwrapped
from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

FEW_BITS = (torch.bfloat16, torch.float16)
"""Dtypes in which choices are repeated. With more bits, two runs of one function choose alike."""


class Choices:
    """The choices of a model's routers, in the order in which they were made."""

    def __init__(self, dtype: torch.dtype, *, repeat: bool = True) -> None:
        """Start without choices.

        Args:
            dtype: dtype of the model; only those in `FEW_BITS` keep and repeat anything.
            repeat: False keeps and repeats nothing in any dtype.
        """
        self.may_turn = dtype in FEW_BITS
        """True if rounding can turn a choice."""
        self._active = self.may_turn and repeat
        self._chosen: dict[ModuleKey, list[torch.Tensor]] = {}

    @property
    def note(self) -> str:
        """Addition to the report where choices were repeated; else empty."""
        if not self._chosen:
            return ""
        return "; routers choose in both what they chose in the first, which rounding alone may turn"

    @contextmanager
    def kept(self, chunks: Sequence[nn.Module]) -> Iterator[None]:
        """Record the choices that routers make inside."""

        def choose(key: ModuleKey, real: Callable[..., Any], scores: torch.Tensor, options: dict[str, Any]) -> Any:
            top = real(scores, **options)
            self._chosen.setdefault(key, []).append(top.indices)
            return top

        with self._choosing(chunks, choose):
            yield

    @contextmanager
    def repeated(self, chunks: Sequence[nn.Module]) -> Iterator[None]:
        """Make routers of the same paths repeat the recorded choices inside."""
        remaining = {key: iter(chosen) for key, chosen in self._chosen.items()}

        def choose(key: ModuleKey, real: Callable[..., Any], scores: torch.Tensor, options: dict[str, Any]) -> Any:
            # No choice was recorded for this run of the router: let it choose.
            indices = next(remaining.get(key, iter(())), None)
            if indices is None:
                return real(scores, **options)
            return torch.return_types.topk((scores.gather(options.get("dim", -1), indices), indices))

        with self._choosing(chunks, choose):
            yield

    @contextmanager
    def _choosing(self, chunks: Sequence[nn.Module], choose: Callable[..., Any]) -> Iterator[None]:
        """Call `choose` in place of `torch.topk`, with which megatron-core's routers choose, while
        a router runs.
        """
        if not self._active:
            yield
            return
        # Keys of the routers that run, the innermost last: `topk` elsewhere is left alone.
        running: list[ModuleKey] = []
        real = torch.topk

        def topk(scores: torch.Tensor, k: int, dim: int = -1, **options: Any) -> Any:
            options = {"k": k, "dim": dim, **options}
            return choose(running[-1], real, scores, options) if running else real(scores, **options)

        with ExitStack() as stack:
            stack.enter_context(replaced(torch, {"topk": topk}))
            for number, chunk in enumerate(chunks):
                for path, module in unwrapped(chunk).named_modules():
                    if path.rpartition(".")[2] == "router":
                        stack.callback(module.register_forward_pre_hook(start_hook(running, (number, path))).remove)
                        stack.callback(module.register_forward_hook(end_hook(running)).remove)
            yield
