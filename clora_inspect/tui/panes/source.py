"""The Source pane: the classes of a module, and the lines of the configuration that decided about
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.plan import Fate, Placement, Skip
from clora_inspect.tui.panes.lines import (
    BLANK,
    Line,
    Link,
    Span,
    Target,
    Tone,
    keep_end,
    keep_start,
    labelled,
    line,
    wrapped,
)
from clora_inspect.tui.panes.scene import key_of

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

MANY = 12
"""Length of a list above which equal entries are counted instead of listed. A hybrid model's config
has lists with one entry per layer.
"""

AROUND = 4
"""Number of lines of the file that are shown before and after the one that decides."""


def source_lines(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    """Return the pane's lines for a row of the tree; None is the model itself."""
    where = row.path if row else scene.name
    lines = [line(Span(keep_end(where, width), Tone.TITLE)), BLANK]
    if row is not None:
        lines += _classes(scene, row, width)
    lines += _configuration(scene, row, width)
    if row is None:
        lines += [BLANK, *_model(scene, width)]
    return lines


def _classes(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    nodes = scene.tree.nodes
    lines = labelled("class", nodes.class_name(row.node) or "unknown", width)
    if nodes.fates[row.node] is Fate.WRAPPED:
        first = nodes.placements(row.node)[0]
        lines += labelled("wrapped by", f"clora.{first.wrapper}", width)
        lines += labelled("adapter", f"{first.adapter_class}, parameters {_parameter_names(first)}", width)
    return [*lines, BLANK]


def _parameter_names(placement: Placement) -> str:
    # Megatron-Bridge's names, in which checkpoints have them.
    middle = f"adapter.adapter_{placement.part}" if placement.part else "adapter"
    return f"{middle}.linear_in.weight (A) and {middle}.linear_out.weight (B)"


def _configuration(scene: Scene, row: TreeRow | None, width: int) -> list[Line]:
    lora = scene.plan.lora
    key, title = _key(scene, row)
    lines: list[Line] = wrapped(title, width) if title else []
    location = scene.location_of(key)
    if location is None or location.line is None:
        lines += wrapped("Not written in a configuration file: these are the settings of the plan.", width, Tone.DIM)
        lines.append(BLANK)
        for name, value in lora.fields().items():
            lines += labelled(name, _value(value), width, label_width=23)
        return lines
    place = location.address
    lines += [line(Span(place, Tone.LINK, Link(Target.FILE, place))), BLANK]
    first = max(location.line - AROUND, 1)
    for number, text in enumerate(scene.file_lines(location.file, first, location.line + AROUND), start=first):
        if number == location.line:
            # This line is wrapped and not cut, because the target may stand at its end.
            lines += wrapped(text, width, lead=f"▶{number:>5}  {' ' * (len(text) - len(text.lstrip()))}")
        else:
            lines.append(line(Span(f" {number:>5}  {keep_start(text, width - 8)}", Tone.DIM)))
    return lines


def _key(scene: Scene, row: TreeRow | None) -> tuple[str, str]:
    """Return the key of the configuration that decided about the row, and a sentence about it."""
    nodes = scene.tree.nodes
    entry = nodes.entries[row.node] if row else None
    if row is not None and nodes.fates[row.node] is Fate.WRAPPED:
        # A fused linear has no entry of its own: show the one of its first adapted part.
        entry = nodes.placements(row.node)[0]
    lora = scene.plan.lora
    if isinstance(entry, Placement) and (key := key_of("target_modules", lora.target_modules, entry.target)):
        return key, f'Chosen by {key.removeprefix("lora.")} "{entry.target}".'
    if isinstance(entry, Skip) and (key := key_of("exclude_modules", lora.exclude_modules, entry.by)):
        return key, f'Excluded by {key.removeprefix("lora.")} "{entry.by}".'
    return "lora.target_modules", ""


def _model(scene: Scene, width: int) -> list[Line]:
    config = scene.plan.model.config
    if config is None:
        return []
    lines = [line(Span("the model's config", Tone.TITLE))]
    for name, value in config.items():
        lines += labelled(name, _value(value), width, label_width=36)
    return lines


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        words = [_value(item) for item in value]
        if len(words) > MANY and len(set(words)) <= 3:
            return ", ".join(f"{word} ({words.count(word)} times)" for word in dict.fromkeys(words))
        return ", ".join(words) or "none"
    # TOML writes true and false in lower case.
    return str(value).lower() if isinstance(value, bool) else str(value)
