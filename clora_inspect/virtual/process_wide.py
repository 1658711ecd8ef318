"""What megatron-core keeps for the whole process while models run, such as the losses that a log
will show. Pure Python: torch is not imported.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CORE = "megatron.core.transformer"

_KEPT: dict[tuple[str, str | None, str], Callable[[], Any]] = {
    # Losses per layer, in tensors that have the size, the device and the groups of the first model.
    (f"{_CORE}.multi_token_prediction", "MTPLossLoggingHelper", "tracker"): dict,
    (f"{_CORE}.experimental_attention_variant.dsa", "DSAIndexerLossLoggingHelper", "tracker"): dict,
    (f"{_CORE}.moe.moe_utils", None, "_MOE_LAYER_WISE_LOGGING_TRACKER"): dict,
    # From 0.19.
    (f"{_CORE}.moe.moe_logging", None, "_MOE_METRICS_TRACKER"): lambda: None,
    # Scalars on the device of the first backward.
    (f"{_CORE}.moe.moe_utils", "MoEAuxLossAutoScaler", "main_loss_backward_scale"): lambda: None,
    (f"{_CORE}.experimental_attention_variant.dsa", "DSAIndexerLossAutoScaler", "main_loss_backward_scale"): (
        lambda: None
    ),
}
"""For each place (module, class, attribute): what it holds before the first model runs."""


@contextmanager
def of_one_model() -> Iterator[None]:
    """Give the model that runs inside fresh places; restore the earlier ones on exit.

    Without this, a model with more layers than the first of the process fails with an IndexError.
    """
    before = {place: value for place in _KEPT if (value := _read(place)) is not _UNLOADED}
    for place in before:
        _write(place, _KEPT[place]())
    try:
        yield
    finally:
        for place, fresh in _KEPT.items():
            # A module that was imported inside had nothing yet.
            _write(place, before[place] if place in before else fresh())


_UNLOADED = object()


def _owner(place: tuple[str, str | None, str]) -> Any:
    module, owner, attribute = place
    found: Any = sys.modules.get(module)
    if found is not None and owner is not None:
        found = vars(found).get(owner)
    # Not every release has every place.
    return found if found is not None and attribute in vars(found) else None


def _read(place: tuple[str, str | None, str]) -> Any:
    owner = _owner(place)
    return _UNLOADED if owner is None else vars(owner)[place[-1]]


def _write(place: tuple[str, str | None, str], value: Any) -> None:
    if (owner := _owner(place)) is not None:
        setattr(owner, place[-1], value)
