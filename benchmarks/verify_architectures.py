"""Run `clora-inspect verify` for each built-in architecture, and print its time and outcome.

    python benchmarks/verify_architectures.py                         # all, with --size tiny
    python benchmarks/verify_architectures.py --size layer llama3-70b deepseek-v3

Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

from clora_inspect.sources import architectures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=architectures.names())
    parser.add_argument("--size", default="tiny", choices=["tiny", "layer"])
    arguments = parser.parse_args()
    print(f"{'model':22} {'wall s':>7} {'CPU s':>7} {'peak GB so far':>14}  proved / failed / not run")
    for model in arguments.models:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.perf_counter()
        # --isolated: the default LoRA on one rank, not the job that this repository configures
        # under the model's name.
        verify = [sys.executable, "-m", "clora_inspect", "verify", "--isolated", model]
        command = [*verify, "--size", arguments.size, "-f", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        outcome = done.stderr.strip()[-200:]
        if done.returncode in (0, 1):
            proofs = json.loads(done.stdout)["proofs"]
            counts = [sum(proof["status"] == status for proof in proofs) for status in ("passed", "failed", "skipped")]
            outcome = " / ".join(map(str, counts)) + "".join(
                f"; {proof['proof']} {proof['status']}: {proof['detail'][:100]}"
                for proof in proofs
                if proof["status"] == "failed"
            )
        print(f"{model:22} {wall:7.1f} {cpu:7.1f} {after.ru_maxrss / 1e6:14.2f}  {outcome}", flush=True)


if __name__ == "__main__":
    main()
