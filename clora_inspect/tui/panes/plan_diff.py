"""Two plans side by side: what a what-if would change, before anything is decided. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.plan import memory
from clora_inspect.formats.quantities import count, size, spread
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.record import take
from clora_inspect.tui.panes.findings import GLYPHS, TONES
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line, wrapped
from clora_inspect.tui.panes.snapshot import change_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift

BYTES = memory.ADAPTER_WEIGHT + memory.GRADIENT + memory.ADAM_STATES


def diff_plans(before: JobPlan, after: JobPlan) -> Drift:
    """What changes from one plan to the other, in the words of a snapshot's drift."""
    return compare(take(before, before.model_source), take(after, after.model_source))


def plan_diff_lines(
    before: JobPlan, after: JobPlan, drift: Drift, findings: tuple[Finding, ...], width: int
) -> list[Line]:
    """The two plans' figures, then every placement that changes.

    Args:
        before: the job's plan.
        after: what the form makes of it.
        drift: what `diff_plans` says of them.
        findings: what is found in `after`.
        width: cells.
    """
    rows = [
        ("adapters", count(before.totals.placements), count(after.totals.placements)),
        ("parameters", count(before.totals.trainable_params), count(after.totals.trainable_params)),
        ("linears adapted", _coverage(before), _coverage(after)),
        ("ranks", count(before.layout.world), count(after.layout.world)),
        ("parameters, one rank", _per_rank(before, count), _per_rank(after, count)),
        ("memory, one rank", _per_rank(before, lambda n: size(n * BYTES)), _per_rank(after, lambda n: size(n * BYTES))),
        ("base, one rank", _base(before), _base(after)),
    ]
    label_width = max(len(label) for label, *_ in rows) + 2
    old_width = max(len("job now"), *(len(old) for _, old, _ in rows))
    new_width = max(len("what-if"), *(len(new) for *_, new in rows))
    lines = [
        line(
            Span(" " * label_width + "job now".rjust(old_width), Tone.DIM),
            "  ",
            Span("what-if".rjust(new_width), Tone.TITLE),
        )
    ]
    for label, old, new in rows:
        same = old == new
        value = Span(new.rjust(new_width), Tone.PLAIN if same else Tone.WARN)
        lines.append(line(Span(label.ljust(label_width), Tone.DIM), old.rjust(old_width), "  ", value))
    lines.append(BLANK)
    for finding in findings:
        lines += wrapped(
            f"{finding.code} {finding.message}", width, TONES[finding.severity], lead=f"{GLYPHS[finding.severity]} "
        )
        lines += wrapped(finding.help, width, Tone.DIM, lead="  = ") if finding.help else []
    if findings:
        lines.append(BLANK)
    if drift.is_clean:
        return [*lines, line(Span("Nothing changes.", Tone.GOOD))]
    for sentence in (*drift.settings, *drift.layout, *drift.base):
        lines += wrapped(sentence, width, Tone.WARN, lead="~ ")
    return [*lines, *change_lines(drift.lines, width)]


def _coverage(plan: JobPlan) -> str:
    return f"{count(plan.totals.adapted_linears)} of {count(plan.totals.linears)}"


def _per_rank(plan: JobPlan, show: Callable[[int], str]) -> str:
    return spread((each.trainable_params for each in plan.rank_classes), show, " – ")


def _base(plan: JobPlan) -> str:
    dtype = plan.model.weights_dtype
    return spread((memory.weight_bytes(each.base_params, dtype) for each in plan.rank_classes), size, " – ")
