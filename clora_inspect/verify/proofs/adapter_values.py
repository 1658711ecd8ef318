"""Shared by proofs that take adapters out of a model and put them back: the whole matrices, and a
folder that all ranks can see.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.shards import Part, assembled, part_of
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def whole_factors(model: ModelUnderTest, adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """Return A and B of every adapter as whole matrices, by name, on every rank. Called on all
    ranks together.

    Raises:
        Refuted: replicated copies differ, or no rank has some entries.
    """
    own: list[Part] = [
        part_of(site, factor, parameter)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
    ]
    whole, wrong = assembled((part for parts in model.everywhere(own) for part in parts), bound=0.0)
    if wrong:
        raise Refuted(f"The adapters themselves: {wrong}.")
    return whole


@torch.no_grad()
def spoil(adapted: AdaptedModel) -> None:
    """Overwrite all A and B with a value that is never drawn, so that a factor that is not loaded
    shows.
    """
    for site in adapted.planned:
        site.a.fill_(-1.0)
        site.b.fill_(-1.0)


class shared_folder:  # noqa: N801 - used as a context manager
    """A temporary folder that all ranks see. The first rank makes it; it is deleted on exit."""

    def __init__(self, model: ModelUnderTest) -> None:
        self._model = model
        self._own = tempfile.TemporaryDirectory(prefix="clora-verify-", ignore_cleanup_errors=True)

    def __enter__(self) -> Path:
        return Path(self._model.everywhere(self._own.name)[0])

    def __exit__(self, *_exception: object) -> None:
        # Wait until no rank reads from it any more.
        self._model.everywhere(None)
        self._own.cleanup()
