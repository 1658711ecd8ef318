"""A verification as JSON: one document, or one line for each proof and one for the report. Pure."""

from __future__ import annotations

import msgspec

from clora_inspect.verify.report import ProofResult, VerifyReport


def render(report: VerifyReport) -> str:
    return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n"


def proof_line(result: ProofResult) -> str:
    return msgspec.json.encode(result).decode() + "\n"


def report_line(report: VerifyReport) -> str:
    """Return the last line: the report without its proofs, which have lines of their own, and
    whether it is ok.
    """
    document = {**msgspec.to_builtins(report), "ok": report.ok}
    del document["proofs"]
    return msgspec.json.encode(document).decode() + "\n"
