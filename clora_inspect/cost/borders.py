"""Cut a run at the borders of its layers, forward and backward."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch

from clora_inspect.job.traffic import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from clora_inspect.cost.live import LiveBytes
    from clora_inspect.cost.span import Span

Part = int | Literal["before", "behind"]
"""A layer, by its number, or what comes before all layers or behind them."""


class Borders:
    """The borders of layers in one run: when it crosses them, and between which it is now."""

    def __init__(self, layers: Sequence[nn.Module] = ()) -> None:
        self._layers = layers
        self._part: Part = "before"
        self._is_backward = False
        # Moments at which a layer begins; of the forward also its own, and the last layer's end.
        self._forward: dict[int, int] = {}
        self._backward: dict[int, int] = {}
        self._start = self._end = 0
        self._input: weakref.ref[Any] | None = None
        self._input_bytes = 0
        self.released = 0
        """Bytes of the first layer's input if the model lets it go when its forward returns."""

    def now(self) -> tuple[Part, Phase]:
        """Return the part and the phase of the operation that is running. A forward that is
        recomputed belongs to the backward.
        """
        return self._part, Phase.BACKWARD if self._is_backward else Phase.FORWARD

    @contextmanager
    def watched(self, live: LiveBytes) -> Iterator[None]:
        """Note the borders of a forward and of a backward inside, and forget those of others."""
        self._part, self._start = "before", live.moment
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                hook = self._entering(number, live)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(self._left(number, live)).remove)
            yield

    def forward_ends(self) -> None:
        """Note that the forward is over and the backward begins."""
        self._is_backward = True
        self._part = "behind"
        if self._input is not None and self._input() is None:
            self.released = self._input_bytes

    def forward_spans(self, live: LiveBytes, end: int) -> tuple[Span, ...]:
        """Return what comes before the layers, each layer, and what comes behind, up to `end`."""
        if not self._layers:
            return (live.span(self._start, end),)
        layers = (self._forward[number] for number in range(len(self._layers)))
        return _spans(live, [self._start, *layers, self._end, end])

    def backward_spans(self, live: LiveBytes, start: int, end: int) -> tuple[Span, ...]:
        """Return the same of the backward, in its order: what is behind the layers comes first.

        Nothing runs backward before the first layer, nor in layers before the first adapter.
        """
        layers = (self._backward.get(number, end) for number in reversed(range(len(self._layers))))
        return _spans(live, [start, *layers, end])

    def _entering(self, number: int, live: LiveBytes) -> Any:
        def note(_module: object, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            if self._is_backward:
                # A layer that is recomputed runs forward first.
                self._goes_back_to(number, live)
                return
            if number == 0:
                storage = (args[0] if args else options["hidden_states"]).untyped_storage()
                self._input, self._input_bytes = weakref.ref(storage), storage.nbytes()
            self._part = number
            self._forward[number] = live.moment

        return note

    def _left(self, number: int, live: LiveBytes) -> Any:
        def note(_module: object, _args: object, output: Any) -> None:
            if not self._is_backward and number == len(self._layers) - 1:
                self._part = "behind"
                self._end = live.moment
            states = output if isinstance(output, torch.Tensor) else output[0]
            if states.requires_grad:
                states.register_hook(lambda _gradient: self._goes_back_to(number, live))

        return note

    def _goes_back_to(self, number: int, live: LiveBytes) -> None:
        if number not in self._backward:
            self._part = number
            self._backward[number] = live.moment


def _spans(live: LiveBytes, moments: list[int]) -> tuple[Span, ...]:
    return tuple(live.span(start, end) for start, end in pairwise(moments))
