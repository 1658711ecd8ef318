"""The whole matrices that all ranks together hold, and a folder that all of them see."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clora_inspect.verify.model.shards import Part, assembled, part_of
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    import torch

    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest


def whole_factors(model: ModelUnderTest, adapted: AdaptedModel) -> dict[str, torch.Tensor]:
    """A and B of every adapter, by name, on every rank. Called by all ranks together."""
    own: list[Part] = [
        part_of(site, factor, parameter)
        for site in adapted.planned
        for factor, parameter in (("a", site.a), ("b", site.b))
    ]
    whole, wrong = assembled((part for parts in model.everywhere(own) for part in parts), bound=0.0)
    if wrong:
        raise Refuted(f"The adapters themselves: {wrong}.")
    return whole


class shared_folder:  # noqa: N801 - used as a context manager
    """A folder that all ranks see, made by the first and gone afterwards."""

    def __init__(self, model: ModelUnderTest) -> None:
        self._model = model
        self._own = tempfile.TemporaryDirectory(prefix="clora-verify-", ignore_cleanup_errors=True)

    def __enter__(self) -> Path:
        return Path(self._model.everywhere(self._own.name)[0])

    def __exit__(self, *_exception: object) -> None:
        if self._model.ranks > 1:
            self._model.everywhere(None)
        self._own.cleanup()
