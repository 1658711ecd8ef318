"""Run the cases of a file, one after the other, in this process and under limits, and print a line
of JSON for each: name, exit code, seconds, output, and the largest memory so far.

    python run_cases.py CASES.json FOLDER

The seconds are those of the process: another one on the machine does not count.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 20
ADDRESS_SPACE = 12 << 30
"""Bytes. torch alone maps some gigabytes that it never uses."""


class Late(BaseException):
    """A case has used its time. No `except Exception` may hold it up."""


def late(_number: int, _frame: object) -> None:
    raise Late


def run(case: dict[str, Any], folder: Path) -> tuple[int, str]:
    """Return the exit code of a case, and what it printed on stderr."""
    from clora.errors import CloraError
    from clora_inspect.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if case["words"]:
                return int(main(case["words"])), err.getvalue()
            if case["reader"] == "adapter":
                from clora.folders.hf_folder import read_folder

                read_folder(folder)
            else:
                from clora.folders.checkpoint_metadata import read_tensors

                read_tensors(folder)
        except CloraError as error:
            return 2, f"error: {error}"
    return 0, err.getvalue()


def peak_bytes() -> int:
    """Return the most memory that this process has had so far."""
    # `ru_maxrss` would not do: a child begins with its parent's, and a run of pytest is large.
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    cases, root = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGPROF, late)
    for number, case in enumerate(cases):
        folder = root / str(number)
        folder.mkdir()
        for name, text in case["files"].items():
            (folder / name).write_bytes(bytes.fromhex(text))
        os.chdir(folder)
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            status, text = run(case, folder)
        except Late:
            status, text = -1, f"it took more than {SECONDS} seconds"
        except BaseException as error:  # noqa: BLE001 - the table asserts that there is none
            status, text = -2, f"{type(error).__name__}: {error}"[:300]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        peak = peak_bytes()
        made = sorted({path.name for path in folder.iterdir()} - set(case["files"]))
        line = {"name": case["name"], "status": status, "text": text[-3000:], "peak": peak, "made": made}
        sys.__stdout__.write(json.dumps(line | {"seconds": time.process_time() - start}) + "\n")


if __name__ == "__main__":
    main()
