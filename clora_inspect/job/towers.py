"""`Towers`: which language model, vision or audio tower or projector holds a path. Pure.

`clora.towers` finds them in the modules and `clora.plan.Tower` is what it keeps. The *main* towers
are the language models; where there is none, as in a vision model that stands alone, all are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from clora.plan import ALONE, Tower, TowerKind, merged_towers

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_TOWER = Tower(path="", kind=TowerKind.LANGUAGE)
"""Where a module stands that no tower holds, such as a head beside a language model."""


# No `slots`: `cached_property` keeps its values in `__dict__`.
@dataclass(frozen=True)
class Towers:
    """The towers of one model."""

    towers: tuple[Tower, ...] = ALONE

    @property
    def are_several(self) -> bool:
        """True if the model has more than a language model."""
        return len(self.towers) > 1

    def of(self, module: str) -> Tower:
        """Return the tower that holds the module at path `module`."""
        # A model of 120,000 modules asks for each of them, and mostly has this one tower.
        if self.towers == ALONE:
            return ALONE[0]
        path = module
        while path:
            if path in self._by_path:
                return self._by_path[path]
            path = path.rpartition(".")[0]
        return self._by_path.get("", NO_TOWER)

    def at(self, path: str) -> Tower:
        """Return the tower whose module is at `path`."""
        return self._by_path.get(path, NO_TOWER)

    def is_main(self, tower: Tower) -> bool:
        """Return whether the layers of `tower` are those of the decoder."""
        return tower.kind is TowerKind.LANGUAGE or all(each.kind is not TowerKind.LANGUAGE for each in self.towers)

    @cached_property
    def decoder(self) -> tuple[str, ...]:
        """Paths of the stacks of layers that are the decoder, such as `language_model.decoder`."""
        return tuple(block for tower in self.towers if self.is_main(tower) for block in tower.blocks)

    def in_decoder(self, module: str) -> bool:
        """Return whether the module at path `module` stands in the decoder."""
        return any(not block or module.startswith(f"{block}.") for block in self.decoder) and self.is_main(
            self.of(module)
        )

    def rank_of(self, tower: Tower) -> int:
        """Return a sort key: the main towers first, the others in the order of the model."""
        return 0 if self.is_main(tower) else 1 + self.towers.index(tower)

    @cached_property
    def _by_path(self) -> dict[str, Tower]:
        return {tower.path: tower for tower in self.towers}


LANGUAGE_MODEL = Towers()
"""The towers of a language model alone."""


def towers_to_record(stages: Iterable[tuple[Tower, ...]]) -> tuple[Tower, ...] | None:
    """Return the towers of the whole model from those of each pipeline stage; None where they are
    those of most models.
    """
    towers = merged_towers(stages)
    plain = {(tower.path, tower.kind, tower.blocks) for tower in ALONE}
    # Nothing that a plan says depends on the towers of a model without any stack of layers.
    if {(tower.path, tower.kind, tower.blocks) for tower in towers} <= plain:
        return None
    return towers


def below(path: str, name: str) -> str:
    """Return the path of the child `name` of the module at `path`, which is empty for the model."""
    return f"{path}.{name}" if path else name
