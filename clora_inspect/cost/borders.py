"""Cut a run at the borders of its layers, forward and backward."""

from __future__ import annotations

import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from clora_inspect.job.traffic import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from clora_inspect.cost.live import LiveBytes

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
    def forward(self, live: LiveBytes) -> Iterator[None]:
        """Note the borders of a forward inside, and forget those of the one before."""
        self._part, self._is_backward, self._start = "before", False, live.moment
        with self._watched(live):
            yield
        if self._input is not None and self._input() is None:
            self.released = self._input_bytes

    @contextmanager
    def backward(self, live: LiveBytes) -> Iterator[None]:
        """Note the borders of a backward inside."""
        self._part, self._is_backward = "behind", True
        with self._watched(live):
            yield

    @contextmanager
    def _watched(self, live: LiveBytes) -> Iterator[None]:
        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                hook = self._entering(number, live)
                stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
                stack.callback(layer.register_forward_hook(self._left(number, live)).remove)
            yield

    def forward_moments(self, end: int) -> list[int]:
        """Return the moments at which a forward begins, enters each layer, leaves the last, ends.

        Args:
            end: the moment at which it ends.
        """
        if not self._layers:
            return [self._start, end]
        return [self._start, *(self._forward[number] for number in range(len(self._layers))), self._end, end]

    def backward_moments(self, start: int, end: int) -> list[int]:
        """Return the moments at which a backward begins, enters each layer, and ends.

        Nothing runs backward before the first layer, nor in layers before the first adapter.
        """
        return [start, *(self._backward.get(number, end) for number in reversed(range(len(self._layers)))), end]

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
