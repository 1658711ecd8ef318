"""Shared by proofs that take adapters out of a model and put them back: the whole matrices, and a
folder that all ranks can see.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clora_inspect.machine.temporary import temporary_folder
from clora_inspect.verify.model.shards import Part, assembled, part_of
from clora_inspect.verify.outcome import Refuted

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def shared_folder(model: ModelUnderTest) -> Iterator[Path]:
    """Make a temporary folder that all ranks see: the first rank's. It is deleted on exit."""
    with temporary_folder("verify") as own:
        yield Path(model.everywhere(str(own))[0])
        # Wait until no rank reads from it any more. Not after an exception, which other ranks may
        # not have.
        model.everywhere(None)
