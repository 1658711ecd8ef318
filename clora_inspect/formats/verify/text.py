"""A verification as text for people: the run's settings, a line for each proof, the things that
were made smaller, and the failures in full. Pure text.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import count
from clora_inspect.verify.report import ProofResult, ProofStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.verify.report import VerifyReport

STYLES = {ProofStatus.PASSED: Style.GREEN, ProofStatus.FAILED: Style.RED, ProofStatus.SKIPPED: Style.YELLOW}


def render(report: VerifyReport, look: Look | None = None, *, failures_only: bool = False) -> str:
    """Return the whole text, which ends in a newline; with `failures_only` only the failures."""
    look = look or Look()
    lines = [line for each in report.proofs if each.status is ProofStatus.FAILED for line in _failure(each, look)]
    if not failures_only:
        lines = [*_head(report, look), "", *_table(report, look), "", *_limits(report, look), *lines]
        lines.append(look.paint(_conclusion(report), Style.BOLD))
    return "".join(f"{line}\n" for line in lines)


def _head(report: VerifyReport, look: Look) -> Iterator[str]:
    dot = f" {look.glyphs.dot} "
    ranks = "1 rank" if report.ranks == 1 else f"{report.ranks} ranks"
    words = [
        f"{report.job}{dot}{report.layout}",
        report.size,
        report.implementation,
        report.dtype,
        report.device,
        ranks,
        f"seed {report.seed}",
        *([f"weights of {report.weights}"] if report.weights else []),
    ]
    yield from look.wrapped(dot.join(words), style=Style.BOLD)


def _table(report: VerifyReport, look: Look) -> Iterator[str]:
    width = max(len(each.proof) for each in report.proofs)
    for each in report.proofs:
        # The time of a skipped proof says nothing; blanks keep the column.
        seconds = f"{each.seconds:5.1f} s" if each.status is not ProofStatus.SKIPPED else " " * 7
        lead = f"  {each.proof.ljust(width)}  {each.status.ljust(7)}  {seconds}  "
        yield from look.wrapped(_summary(each), lead, STYLES[each.status])


def _summary(each: ProofResult) -> str:
    """Return the text of one proof in the table. Failures follow in full below the table."""
    if each.status is ProofStatus.FAILED:
        return f"{each.code}, see below" + (f": {each.where}" if each.where else "")
    return each.detail + (measured(each) if each.status is ProofStatus.PASSED else "")


def measured(each: ProofResult) -> str:
    """Return the number of values compared and the largest error; empty if nothing was compared."""
    measures = []
    if each.elements:
        measures.append(f"{count(each.elements)} values")
    if each.largest_error is not None and each.largest_error > 0:
        measures.append(f"largest error {each.largest_error:.1e}" + (f" of {each.bound:.0e}" if each.bound else ""))
    return f" ({', '.join(measures)})" if measures else ""


def _limits(report: VerifyReport, look: Look) -> Iterator[str]:
    """Yield the report's sentences about things that were shrunk or could not be shown."""
    for label, sentences in (("shrunk:", report.shrunk), ("layout:", report.dropped)):
        for number, sentence in enumerate(sentences):
            yield from look.wrapped(sentence, f"  {(label if number == 0 else '').ljust(11)} ", Style.DIM)
    if report.shrunk or report.dropped:
        yield ""


def _failure(each: ProofResult, look: Look) -> Iterator[str]:
    where = f" at {each.where}" if each.where else ""
    rank = f", rank {each.rank}" if each.rank is not None else ""
    yield from look.wrapped(f"{each.code} error {each.proof}{where}{rank}: {each.detail}", style=Style.RED)
    yield look.paint(f"   = explain: clora-inspect explain {each.code}", Style.DIM)
    yield ""


def _conclusion(report: VerifyReport) -> str:
    numbers = Counter(each.status for each in report.proofs)
    seconds = sum(each.seconds for each in report.proofs)
    return (
        f"{'Verified' if report.ok else 'Not verified'}: {numbers[ProofStatus.PASSED]} proved, "
        f"{numbers[ProofStatus.FAILED]} failed, {numbers[ProofStatus.SKIPPED]} not run, in {seconds:.1f} s."
    )
