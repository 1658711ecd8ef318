"""Runs in a process of its own, so that the interface never imports torch and a plan can be
cancelled: requests in, plans out.

A request is one line of JSON on stdin. The answer on stdout is one line of JSON,
`{"kind": ..., "bytes": N}`, and N bytes: the plan's JSON, or the text of an error. It stays warm:
the second plan takes a fraction of the first.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from clora_inspect.tui.job.plan_request import PlanRequest

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    """Answer requests until stdin ends."""
    # Whatever megatron-core or the user's model prints goes to stderr: stdout carries answers only.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for request_line in sys.stdin.buffer:
        request = msgspec.json.decode(request_line, type=PlanRequest)
        _answer(answers, lambda request=request: _plan(request))  # type: ignore[misc]


def _answer(answers: BinaryIO, make: Callable[[], bytes]) -> None:
    from clora.errors import CloraError

    kind = "plan"
    try:
        body = make()
    except CloraError as error:
        kind, body = "mistake", str(error).encode()
    except Exception as error:  # noqa: BLE001  # the user's model may raise anything, and the interface shows it
        kind, body = "failure", f"{type(error).__name__}: {error}".encode()
    answers.write(msgspec.json.encode({"kind": kind, "bytes": len(body)}) + b"\n" + body)
    answers.flush()


def _plan(request: PlanRequest) -> bytes:
    from pathlib import Path

    from clora_inspect.config.working_folder import working_in
    from clora_inspect.job.plan import encode
    from clora_inspect.pipeline import plan_job

    with working_in(Path(request.folder).resolve()):
        return encode(plan_job(request.job()), indent=0)


if __name__ == "__main__":
    main()
