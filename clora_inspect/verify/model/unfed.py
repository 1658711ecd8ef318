"""Find the towers that get no input from the tokens of a proof: one for pictures has none to see.
Nothing can be said of their adapters, and nothing that they do not do is their fault.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clora.plan import TowerKind
from clora.towers import towers_of
from clora_inspect.verify.model.running import outputs_of

if TYPE_CHECKING:
    from torch import nn

    from clora_inspect.verify.model.model_under_test import ModelUnderTest
    from clora_inspect.verify.model.sites import Site

TowerKey = tuple[int, str]
"""Chunk, and path of the tower in it."""


@dataclass(frozen=True, slots=True)
class Unfed:
    """Towers that get no input."""

    here: tuple[TowerKey, ...] = ()
    """Towers of this rank."""
    anywhere: tuple[str, ...] = ()
    """Paths of the towers of all ranks."""

    def holds(self, site: Site) -> bool:
        """Return whether the adapter is in one of the towers of this rank."""
        return any(site.chunk == chunk and site.module.startswith(f"{path}.") for chunk, path in self.here)

    @property
    def note(self) -> str:
        """An addition to a proof's sentence: what it says nothing of; empty if there is nothing."""
        if not self.anywhere:
            return ""
        return f"; cannot judge the adapters of {' and '.join(self.anywhere)}, which tokens alone give no input"


def unfed_towers(model: ModelUnderTest) -> Unfed:
    """Run the base forward and return its vision and audio towers and projectors in which every
    linear got nothing. All ranks call this together.
    """
    base = model.base()
    towers = [
        (number, tower.path)
        for number, chunk in enumerate(base)
        for tower in towers_of(chunk)
        if tower.path and tower.kind is not TowerKind.LANGUAGE
    ]
    if not any(model.everywhere(bool(towers))):
        return Unfed()
    fed: set[TowerKey] = set()

    def note(key: TowerKey, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(isinstance(given, torch.Tensor) and given.numel() for given in (*args, *kwargs.values())):
            fed.add(key)

    with ExitStack() as stack:
        for number, path in towers:
            for module in base[number].get_submodule(path).modules():
                if _sees_input(module):
                    hook = module.register_forward_pre_hook(partial(note, (number, path)), with_kwargs=True)
                    stack.callback(hook.remove)
        model.together(lambda: outputs_of(base, model.batch()))
    here = tuple(key for key in towers if key not in fed)
    paths = [path for _, path in here]
    return Unfed(here, tuple(dict.fromkeys(path for paths in model.everywhere(paths) for path in paths)))


def _sees_input(module: nn.Module) -> bool:
    """Return whether the module has weights for what it is given. An embedding of positions is
    looked up whether there is a picture or not.
    """
    is_leaf = next(module.children(), None) is None
    return is_leaf and next(module.parameters(), None) is not None and not isinstance(module, torch.nn.Embedding)
