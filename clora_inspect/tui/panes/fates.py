"""The glyph, tone and words that show the fate of a module in the interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate
from clora_inspect.tui.panes.lines import Tone

if TYPE_CHECKING:
    from clora_inspect.tui.tree.nodes import ModelNodes

# Each glyph has an ASCII spelling in `widgets/filters.py`.
GLYPHS = {
    Fate.WRAPPED: "●",
    Fate.UNMATCHED: "○",
    Fate.EXCLUDED: "⊘",
    Fate.NOT_ADAPTABLE: "·",
    Fate.NO_PARAMETERS: "",
}
TONES = {
    Fate.WRAPPED: Tone.GOOD,
    Fate.UNMATCHED: Tone.PLAIN,
    Fate.EXCLUDED: Tone.WARN,
    Fate.NOT_ADAPTABLE: Tone.DIM,
    Fate.NO_PARAMETERS: Tone.DIM,
}
PARTLY_GLYPH, PARTLY_TONE = "◐", Tone.WARN
"""For a wrapped module of which a canonical part has no adapter."""

LEGEND = (
    (GLYPHS[Fate.WRAPPED], TONES[Fate.WRAPPED], "wrapped: it gets an adapter"),
    (PARTLY_GLYPH, PARTLY_TONE, "partly wrapped: a fused linear of which only some parts get an adapter"),
    (GLYPHS[Fate.UNMATCHED], TONES[Fate.UNMATCHED], "unmatched: it could be adapted, and no target names it"),
    (GLYPHS[Fate.EXCLUDED], TONES[Fate.EXCLUDED], "excluded by exclude_modules"),
    (GLYPHS[Fate.NOT_ADAPTABLE], TONES[Fate.NOT_ADAPTABLE], "not adaptable: a norm or an embedding"),
)
"""Glyph, tone and meaning, for the page of help."""


def glyph(nodes: ModelNodes, node: int) -> str:
    """Return the sign of a node; empty for a container."""
    return PARTLY_GLYPH if nodes.is_partly_wrapped(node) else GLYPHS[nodes.fates[node]]


def tone(nodes: ModelNodes, node: int) -> Tone:
    """Return the tone of a node's glyph and words."""
    return PARTLY_TONE if nodes.is_partly_wrapped(node) else TONES[nodes.fates[node]]


def words(nodes: ModelNodes, node: int) -> str:
    """Return the fate in words, such as `wrapped`, `up adapted, not gate` or `unmatched`.

    A container has no words, unless nothing in it holds parameters.
    """
    fate = nodes.fates[node]
    parts = [child for child in nodes.children(node) if nodes.names[child].startswith("[")]
    if parts:
        adapted = [nodes.names[part][1:-1] for part in parts if nodes.fates[part] is Fate.WRAPPED]
        others = [nodes.names[part][1:-1] for part in parts if nodes.fates[part] is not Fate.WRAPPED]
        return f"{' '.join(adapted)} adapted" + (f", not {' '.join(others)}" if others else "")
    if fate is Fate.NO_PARAMETERS and nodes.shown[node]:
        return ""
    # Modules are wrapped; a canonical part is adapted.
    if fate is Fate.WRAPPED and nodes.names[node].startswith("["):
        return "adapted"
    return fate.word
