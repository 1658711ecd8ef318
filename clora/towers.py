"""Find the towers of a model: its language model, vision and audio towers, and projectors.

Structure decides first. A language, vision or projector module of megatron-core is a tower wherever
it hangs. Names decide for modules of other classes: `visual` is a vision tower. What no tower holds
belongs to the model itself, which is a language model then.

The *decoder* is the stacks of layers of the language towers: `decoder` in a GPTModel,
`language_model.decoder` in a LLaVAModel, `encoder` in a BertModel. All counts, rules and pieces of
advice that say "decoder" mean these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clora import linears
from clora.plan import Tower, TowerKind
from clora.wrappers import base_children

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

# The order decides: a `vision_projection` is a projector.
_WORDS = {
    TowerKind.PROJECTOR: {"projector", "projection", "merger", "connector", "aligner", "resampler"},
    TowerKind.VISION: {"vision", "visual", "vit", "image", "video"},
    TowerKind.AUDIO: {"audio", "speech", "sound", "whisper"},
}
_LISTS = ("layers", "blocks", "h")
"""Names of lists of layers in the models of megatron-core, Hugging Face and users."""
_PREDICTION = "mtp"
"""megatron-core's name of the multi-token-prediction block, whose layers are not the decoder's."""


def kind_of_name(name: str) -> TowerKind | None:
    """Return the kind of tower that a module called `name` is; None if the name does not tell."""
    words = set(name.lower().split("_"))
    return next((kind for kind, known in _WORDS.items() if words & known), None)


def towers_of(model: nn.Module) -> tuple[Tower, ...]:
    """Return the towers of one model chunk, in the order of its modules."""
    found: dict[str, _Found] = {}
    for path, module, kind in _modules_outside_layers(model):
        tower = _tower_above(found, path)
        if kind is not None and (tower is None or tower.kind is not kind):
            tower = found[path] = _Found(path, kind, by_class=linears.tower_kind(module) is kind)
            tower.gated = linears.has_gate(module)
        block = _block_at(module, path, "" if tower is None else tower.path)
        if block is not None:
            # Layers that stand in no tower are those of a language model of the user's own classes.
            holder = tower or found.setdefault("", _Found("", TowerKind.LANGUAGE, by_class=False))
            holder.blocks.append(block)
            if holder.gated is None:
                holder.gated = linears.has_gate(module)
    senses = any(tower.kind in (TowerKind.VISION, TowerKind.AUDIO) for tower in found.values())
    # A language model may call a linear of its own a projection.
    kept = [tower for tower in found.values() if tower.by_class or senses or tower.kind is not TowerKind.PROJECTOR]
    return tuple(Tower(path=each.path, kind=each.kind, blocks=tuple(each.blocks), gated=each.gated) for each in kept)


@dataclass
class _Found:
    """A tower while its blocks are collected."""

    path: str
    kind: TowerKind
    by_class: bool
    blocks: list[str] = field(default_factory=list)
    gated: bool | None = None


def _modules_outside_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, TowerKind | None]]:
    """Yield the modules that stand in no layer, parents first, with the kind of tower that class or
    name gives them.
    """
    stack: list[tuple[str, nn.Module, TowerKind | None]] = [("", model, None)]
    while stack:
        path, module, above = stack.pop()
        name = path.rpartition(".")[2]
        kind = linears.tower_kind(module)
        # Inside a vision tower, names tell nothing: `visual.vision_embedding` is a part of it.
        if kind is None and above in (None, TowerKind.LANGUAGE) and _may_be_a_tower(module, path):
            kind = kind_of_name(name)
        yield path, module, kind
        if name == _PREDICTION or linears.is_block(module) or _is_list_of_layers(module, name):
            continue
        children = [(f"{path}.{each}" if path else each, child, kind or above) for each, child in base_children(module)]
        stack.extend(reversed(children))


def _may_be_a_tower(module: nn.Module, path: str) -> bool:
    """Return whether `module` holds others or is a linear: a norm or an embedding is no tower."""
    return bool(path) and (any(True for _ in base_children(module)) or linears.describe(module, path) is not None)


def _is_list_of_layers(module: nn.Module, name: str) -> bool:
    return linears.is_list(module) and name in _LISTS


def _block_at(module: nn.Module, path: str, tower: str) -> str | None:
    """Return the path of the stack of layers that `module` is, or whose list it is."""
    if linears.is_block(module):
        return path
    parent, _, name = path.rpartition(".")
    if not _is_list_of_layers(module, name):
        return None
    # The list alone, where what stands beside it belongs to the whole tower.
    return path if parent == tower else parent


def _tower_above(found: dict[str, _Found], path: str) -> _Found | None:
    """Return the tower with the longest path that `path` is or lies below."""
    while path:
        if path in found:
            return found[path]
        path = path.rpartition(".")[0]
    return found.get("")
