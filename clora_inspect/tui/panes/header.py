"""The texts above the panes: both ends of the header, and the line about the filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count, short_count
from clora_inspect.job.finding import Severity
from clora_inspect.tui.panes.coordinates import coordinates
from clora_inspect.tui.panes.findings import GLYPHS, TONES
from clora_inspect.tui.panes.lines import Link, Span, Target, Tone
from clora_inspect.tui.panes.overview import layout_words
from clora_inspect.tui.tree.rows import TreeFilter

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene


def scene_words(scene: Scene) -> tuple[str, ...]:
    """Return the texts for job, layout, and the chosen rank or all ranks."""
    layout = scene.plan.layout
    if scene.rank is None:
        where = f"all {count(layout.world)} ranks" if layout.world > 1 else "1 rank"
    else:
        place = coordinates(layout, scene.rank).described(layout)
        where = f"rank {scene.rank} of {count(layout.world)}" + (f" ({place})" if place else "")
    return scene.name, layout_words(scene), where


def problem_counts(scene: Scene) -> tuple[Span, ...]:
    """Return the number of findings of each severity and of drifted adapters, each a link there.

    The number of errors is shown even when it is 0, because users look for it first.
    """
    spans: list[Span] = []
    for severity in Severity:
        number = sum(finding.severity is severity for finding in scene.findings)
        if number or severity is Severity.ERROR:
            word = severity.value + ("s" if number != 1 and severity is not Severity.INFO else "")
            glyph, tone = (GLYPHS[severity], TONES[severity]) if number else ("●", Tone.GOOD)
            spans.append(Span(f"{glyph} {number} {word}  ", tone, Link(Target.ACTION, "next-finding")))
    if scene.drift is not None and not scene.drift.is_clean:
        drifted = scene.drift.added + scene.drift.removed + scene.drift.changed
        spans.append(Span(f"↕ {count(drifted)} drifted", Tone.WARN, Link(Target.ACTION, "diff")))
    return tuple(spans)


def filter_words(scene: Scene) -> str:
    """Return the number of modules that the filter keeps; without a filter, the adapters' size."""
    tree, totals = scene.tree, scene.plan.totals
    words = []
    if tree.only is not TreeFilter.ALL:
        words.append(f"only {tree.only}")
    if tree.is_filtered:
        words.append(f"{count(tree.hits)} module{'s' if tree.hits != 1 else ''}")
    else:
        # The adapters are part of the whole, as in `print_trainable_parameters` of PEFT.
        share = 100 * totals.trainable_params / max(totals.base_params + totals.trainable_params, 1)
        words.append(f"{count(totals.placements)} adapters · {short_count(totals.trainable_params)} · {share:.2f} %")
    return " · ".join(words)
