"""A verification as text for people: what was run, a line for each proof, what was made smaller,
and what a failure means. Pure text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.quantities import count
from clora_inspect.verify.report import ProofResult, ProofStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.verify.report import VerifyReport

STYLES = {ProofStatus.PASSED: Style.GREEN, ProofStatus.FAILED: Style.RED, ProofStatus.SKIPPED: Style.YELLOW}


def render(report: VerifyReport, look: Look | None = None, *, failures_only: bool = False) -> str:
    """The whole text, ending in a newline; with `failures_only` nothing but what failed."""
    look = look or Look()
    lines = [line for each in report.proofs if each.status is ProofStatus.FAILED for line in _failure(each, look)]
    if not failures_only:
        lines = [*_head(report, look), "", *_table(report, look), "", *_made_smaller(report, look), *lines]
        lines.append(look.paint(_last(report), Style.BOLD))
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
        said = (
            each.detail
            if each.status is not ProofStatus.FAILED
            else f"{each.code}, see below" + (f": {each.where}" if each.where else "")
        )
        if each.status is ProofStatus.PASSED:
            said += _measured(each)
        seconds = f"{each.seconds:5.1f} s" if each.status is not ProofStatus.SKIPPED else "       "
        yield from look.wrapped(
            said, f"  {each.proof.ljust(width)}  {each.status.ljust(7)}  {seconds}  ", STYLES[each.status]
        )


def _measured(each: ProofResult) -> str:
    """Tensors, elements, and how close they came."""
    said = []
    if each.elements:
        said.append(f"{count(each.elements)} values")
    if each.largest_error is not None and each.largest_error > 0:
        said.append(f"largest error {each.largest_error:.1e}" + (f" of {each.bound:.0e}" if each.bound else ""))
    return f" ({', '.join(said)})" if said else ""


def _made_smaller(report: VerifyReport, look: Look) -> Iterator[str]:
    for label, sentences in (("shrunk:", report.shrunk), ("not shown:", report.dropped)):
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


def _last(report: VerifyReport) -> str:
    by_status = {status: sum(each.status is status for each in report.proofs) for status in ProofStatus}
    seconds = sum(each.seconds for each in report.proofs)
    said = f"{by_status[ProofStatus.PASSED]} proved, {by_status[ProofStatus.FAILED]} failed, {by_status[ProofStatus.SKIPPED]} not run, in {seconds:.1f} s."
    return f"Verified: {said}" if report.ok else f"Not verified: {said}"
