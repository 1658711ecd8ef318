"""The Placement pane for the model itself, and for a module that holds others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.glyphs import UNICODE
from clora_inspect.formats.plan.summary import summary, trainable
from clora_inspect.formats.quantities import count
from clora_inspect.job.finding import Severity
from clora_inspect.tui.panes import fates
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
from clora_inspect.tui.panes.snapshot import totals

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene
    from clora_inspect.tui.tree.rows import TreeRow

LONGEST_LIST = 60
"""Number of modules that are listed; below a longer list a line says where to see the others."""

SHORT_LABELS = {"adapters, per rank": "per rank", "base, per rank": "base", "pipeline split": "split"}


def model_lines(scene: Scene, width: int) -> list[Line]:
    """Return the summary of the job: adapters, cost per rank, coverage, findings and drift."""
    plan = scene.plan
    lines = [
        line(Span(scene.name, Tone.TITLE), Span(f"  {layout_words(scene)}", Tone.DIM)),
        BLANK,
        *wrapped(trainable(plan), width),
        BLANK,
        *labelled("adapters", _adapters(scene), width),
        *labelled("LoRA", _lora(scene), width),
    ]
    for label, text in summary(plan, UNICODE):
        # The labels of the plan's text are wider than this pane's column of labels.
        short = SHORT_LABELS.get(label, label)
        lines += labelled(short, text, width, Tone.DIM if not label else Tone.PLAIN)
    lines += labelled("findings", _findings(scene), width, _worst(scene))
    return [*lines, *labelled("snapshot", _snapshot(scene), width)]


def layout_words(scene: Scene) -> str:
    """Return name and axes of the layout, such as `train: tp4 pp2 sp`; a saved plan has no name."""
    words = scene.plan.layout.label
    return f"{scene.layout_name}: {words}" if scene.layout_name else words


def _adapters(scene: Scene) -> str:
    totals = scene.plan.totals
    return f"{count(totals.placements)} in {count(totals.wrapped_modules)} modules"


def _lora(scene: Scene) -> str:
    lora = scene.plan.lora
    words = [f"dim {lora.dim}", f"alpha {lora.alpha}"]
    if lora.dropout:
        words.append(f"dropout {lora.dropout} {lora.dropout_position}")
    if lora.target_modules:
        words.append(f"target_modules {', '.join(lora.target_modules)}")
    else:
        words.append(f"all linears except {', '.join(lora.exclude_modules or ['none'])}")
    return " · ".join(words)


def _findings(scene: Scene) -> str:
    if not scene.findings:
        return "none"
    by_severity: dict[str, int] = {}
    for finding in scene.findings:
        by_severity[finding.severity] = by_severity.get(finding.severity, 0) + 1
    words = ", ".join(f"{number} {severity}{'s' if number > 1 else ''}" for severity, number in by_severity.items())
    return f"{words} (press n to walk through them)"


def _worst(scene: Scene) -> Tone:
    severities = {finding.severity for finding in scene.findings}
    return Tone.BAD if Severity.ERROR in severities else Tone.WARN if Severity.WARNING in severities else Tone.PLAIN


def _snapshot(scene: Scene) -> str:
    drift = scene.drift
    if drift is None:
        return scene.snapshot_note or "none"
    return f"clean: all {count(drift.kept)} adapters as in the snapshot" if drift.is_clean else totals(drift)


def container_lines(scene: Scene, row: TreeRow, width: int) -> list[Line]:
    """Return the modules below a row, with one line for modules that are alike."""
    nodes = scene.tree.nodes
    # Ask for one more than are listed, to know whether there are more.
    below = scene.tree.parts_of(row, LONGEST_LIST + 1)
    # The members of a folded row are alike: the sums of the first, times their number, are exact.
    adapters, params, unadapted = (
        sums[row.node] * row.times for sums in (nodes.adapters, nodes.params, nodes.unadapted)
    )
    lines = [
        line(Span(keep_end(row.path, width), Tone.TITLE)),
        line(Span(nodes.class_name(row.node) or "modules", Tone.DIM)),
        BLANK,
        *labelled("adapters", f"{count(adapters)} · {count(params)} parameters", width),
        *labelled("not adapted", f"{count(unadapted)} linears" if unadapted else "no linear", width),
        BLANK,
    ]
    lines += module_list(scene, below[:LONGEST_LIST], width, row.path)
    if len(below) > LONGEST_LIST:
        lines.append(line(Span("… and more: open the row in the tree", Tone.DIM)))
    return lines


def module_list(
    scene: Scene, rows: list[TreeRow], width: int, above: str = "", *, indent: str = "", link: bool = True
) -> list[Line]:
    """Return one line per row: glyph, name and fate.

    Args:
        scene: the plan that is shown.
        rows: the rows.
        width: the widest line, in cells.
        above: the path of a module above all of them, which their names leave out.
        indent: blanks before each line.
        link: whether the names lead to the modules.
    """
    nodes = scene.tree.nodes
    lines = []
    names = [row.path.removeprefix(above).removeprefix(".") if above else row.path for row in rows]
    room = width - len(indent) - 2
    # The words of a fate take at most 30 cells. If they do not fit, they are cut and not the name:
    # the glyph says the same as the words.
    longest = min(max(map(len, names), default=0), max(room - 30, 18))
    for row, name in zip(rows, names, strict=True):
        tone = fates.tone(nodes, row.node)
        words = fates.words(nodes, row.node) or nodes.class_name(row.node)
        lines.append(
            line(
                Span(f"{indent}{fates.glyph(nodes, row.node) or ' '} ", tone),
                Span(keep_end(name, longest).ljust(longest), Tone.PLAIN, Link(Target.NODE, row.path) if link else None),
                Span(keep_start(f"  {words}", room - longest), tone),
            )
        )
    return lines
