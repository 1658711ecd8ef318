"""The diff of two plans, for the screen that shows what the what-if form would change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count, size, spread
from clora_inspect.job.memory import training_bytes, weight_bytes
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.record import take
from clora_inspect.tui.panes.findings import GLYPHS, TONES
from clora_inspect.tui.panes.lines import BLANK, Line, Span, Tone, line, wrapped
from clora_inspect.tui.panes.snapshot import change_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift


def diff_plans(before: JobPlan, after: JobPlan) -> Drift:
    """Compare two plans in the same way as a plan and its snapshot."""
    return compare(take(before, before.model_source), take(after, after.model_source))


def plan_diff_lines(
    before: JobPlan,
    after: JobPlan,
    drift: Drift,
    findings: tuple[Finding, ...],
    width: int,
    memory: Sequence[Line] = (),
) -> list[Line]:
    """Return the figures of two plans side by side, then each adapter that changes.

    Args:
        before: the job's plan.
        after: the plan with the values of the form.
        drift: the result of `diff_plans` for the two.
        findings: the findings of `after`.
        width: the widest line, in cells.
        memory: what is said of the peak memory, below the figures.
    """
    rows = [
        ("adapters", count(before.totals.placements), count(after.totals.placements)),
        ("parameters", count(before.totals.trainable_params), count(after.totals.trainable_params)),
        ("linears adapted", _coverage(before), _coverage(after)),
        ("ranks", count(before.layout.world), count(after.layout.world)),
        ("parameters, one rank", _per_rank(before, count), _per_rank(after, count)),
        ("adapters' memory, one rank", _per_rank(before, _memory), _per_rank(after, _memory)),
        ("base, one rank", _base(before), _base(after)),
    ]
    label_width = max(len(label) for label, *_ in rows) + 2
    old_width = max(len("job now"), *(len(old) for _, old, _ in rows))
    new_width = max(len("what-if"), *(len(new) for *_, new in rows))
    # Figures are aligned at the right: digits of the same value stand above each other.
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
    lines += [BLANK, *memory]
    for finding in findings:
        lines += wrapped(
            f"{finding.code} {finding.message}", width, TONES[finding.severity], lead=f"{GLYPHS[finding.severity]} "
        )
        lines += wrapped(finding.help, width, Tone.DIM, lead="  = ") if finding.help else []
    if findings:
        lines.append(BLANK)
    if drift.is_clean:
        unchanged = "Nothing changes." if before.workload == after.workload else "No adapter changes."
        return [*lines, line(Span(unchanged, Tone.GOOD))]
    for sentence in (*drift.settings, *drift.layout, *drift.base):
        lines += wrapped(sentence, width, Tone.WARN, lead="~ ")
    return [*lines, *change_lines(drift.lines, width)]


def _coverage(plan: JobPlan) -> str:
    return f"{count(plan.totals.adapted_linears)} of {count(plan.totals.linears)}"


def _per_rank(plan: JobPlan, show: Callable[[int], str]) -> str:
    return spread((each.trainable_params for each in plan.rank_classes), show, " – ")


def _memory(params: int) -> str:
    return size(training_bytes(params))


def _base(plan: JobPlan) -> str:
    dtype = plan.model.weights_dtype
    return spread((weight_bytes(each.base_params, dtype) for each in plan.rank_classes), size, " – ")
