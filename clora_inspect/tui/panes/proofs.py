"""The results of proofs as lines: a row for each proof, with its detail and the module to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.formats.quantities import count
from clora_inspect.tui.panes.lines import Line, Link, Span, Target, Tone, keep_end, labelled, line, wrapped
from clora_inspect.verify.report import ProofStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clora_inspect.verify.report import ProofResult, ReportEnd

GLYPHS = {ProofStatus.PASSED: "✔", ProofStatus.FAILED: "✖", ProofStatus.SKIPPED: "○"}
TONES = {ProofStatus.PASSED: Tone.GOOD, ProofStatus.FAILED: Tone.BAD, ProofStatus.SKIPPED: Tone.DIM}

INDENT = 11
"""Width, in cells, of the column with glyph and status. Details are indented by as much."""


def proof_lines(proofs: Sequence[ProofResult], width: int) -> list[Line]:
    """Return status, name and closeness of every proof; below them its detail, and a link to the
    module that it failed at.
    """
    lines: list[Line] = []
    longest = max((len(proof.proof) for proof in proofs), default=0)
    for proof in proofs:
        lines.append(
            line(
                Span(f"{GLYPHS[proof.status]} {proof.status:<8}", TONES[proof.status]),
                Span(proof.proof.ljust(longest), Tone.TITLE),
                f"  {_closeness(proof):<22}",
                Span(f"{count(proof.tensors)} tensors" if proof.tensors else "", Tone.DIM),
            )
        )
        tone = Tone.BAD if proof.status is ProofStatus.FAILED else Tone.DIM
        lines += wrapped(proof.detail, width, tone, lead=" " * INDENT)
        if proof.where:
            where = Span(keep_end(proof.where, width - INDENT), Tone.LINK, Link(Target.NODE, proof.where))
            lines.append(line(" " * INDENT, where))
    return lines


def proof_totals(proofs: Sequence[ProofResult], width: int) -> list[Line]:
    """Return how many proofs passed, failed and were skipped."""
    statuses = [proof.status for proof in proofs]
    words = ", ".join(f"{statuses.count(status)} {status}" for status in ProofStatus)
    return wrapped(words, width, Tone.BAD if ProofStatus.FAILED in statuses else Tone.GOOD)


def caveat_lines(end: ReportEnd, width: int) -> list[Line]:
    """Return what was made smaller, and what of the layout the ranks could not show."""
    lines: list[Line] = []
    for label, sentences in (("shrunk:", end.shrunk), ("layout:", end.dropped)):
        for number, sentence in enumerate(sentences):
            lines += labelled("" if number else label, sentence, width, Tone.WARN)
    return lines


def _closeness(proof: ProofResult) -> str:
    if proof.largest_error is None:
        return ""
    return "bit-identical" if proof.largest_error == 0 else f"largest error {proof.largest_error:.1e}"
