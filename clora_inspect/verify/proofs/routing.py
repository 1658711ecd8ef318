"""The same experts in two runs: in a dtype of few bits, rounding alone turns a router's choice, and
all that follows is another computation.

Only the choice is repeated. What a router makes of the experts that it chose is computed anew, with
its gradients.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.running import entering, leaving, unwrapped
from clora_inspect.virtual.attributes import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import nn

FEW_BITS = (torch.bfloat16, torch.float16)
"""Where choices are repeated. With more bits, two runs of one function choose alike."""

Key = tuple[int, str]


class Choices:
    """What the routers of a model chose, in the order in which they were asked."""

    def __init__(self, dtype: torch.dtype, *, repeat: bool = True) -> None:
        self.may_turn = dtype in FEW_BITS
        """Whether rounding may turn them."""
        self._matter = self.may_turn and repeat
        self._chosen: dict[Key, list[torch.Tensor]] = {}

    @property
    def said(self) -> str:
        """For the report: that routers were told what to choose; empty where they were not."""
        return (
            "; routers choose in both what they chose in the first, which rounding alone may turn"
            if self._chosen
            else ""
        )

    @contextmanager
    def kept(self, chunks: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, what is chosen is kept."""

        def choose(key: Key, real: Callable[..., Any], scores: torch.Tensor, options: dict[str, Any]) -> Any:
            top = real(scores, **options)
            self._chosen.setdefault(key, []).append(top.indices)
            return top

        with self._asked(chunks, choose):
            yield

    @contextmanager
    def repeated(self, chunks: Sequence[nn.Module]) -> Iterator[None]:
        """Inside, the same is chosen once more, by routers of the same paths."""
        left = {key: iter(chosen) for key, chosen in self._chosen.items()}

        def choose(key: Key, real: Callable[..., Any], scores: torch.Tensor, options: dict[str, Any]) -> Any:
            indices = next(left.get(key, iter(())), None)
            if indices is None:
                return real(scores, **options)
            return torch.return_types.topk((scores.gather(options.get("dim", -1), indices), indices))

        with self._asked(chunks, choose):
            yield

    @contextmanager
    def _asked(self, chunks: Sequence[nn.Module], choose: Callable[..., Any]) -> Iterator[None]:
        if not self._matter:
            yield
            return
        running: list[Key] = []
        real = torch.topk

        def topk(scores: torch.Tensor, k: int, dim: int = -1, **options: Any) -> Any:
            options = {"k": k, "dim": dim, **options}
            return choose(running[-1], real, scores, options) if running else real(scores, **options)

        with ExitStack() as stack:
            stack.enter_context(replaced(torch, {"topk": topk}))
            for number, chunk in enumerate(chunks):
                for path, module in unwrapped(chunk).named_modules():
                    if path.rpartition(".")[2] == "router":
                        stack.callback(module.register_forward_pre_hook(entering(running, (number, path))).remove)
                        stack.callback(module.register_forward_hook(leaving(running)).remove)
            yield
