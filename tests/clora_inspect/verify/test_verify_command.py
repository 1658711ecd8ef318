"""`clora-inspect verify` as a user runs it: formats, exit codes, and reasons for proofs not run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from clora_inspect.formats.verify import json as verify_json
from clora_inspect.formats.verify import text as verify_text
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLORA_INSPECT_")}
    command = [sys.executable, "-m", "clora_inspect", "verify", "--isolated", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)


def test_jsonl_has_a_line_for_each_proof_and_one_for_the_report() -> None:
    done = run("deepseek-v2-lite", "--tp", "2", "--proof", "zero-b", "--proof", "layout", "-f", "jsonl")
    assert done.returncode == 0, done.stderr
    *proofs, report = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(proof["proof"], proof["status"]) for proof in proofs] == [
        ("placements", "passed"),
        ("zero-b", "passed"),
        ("layout", "skipped"),
    ]
    assert proofs[1]["largest_error"] == 0.0
    assert proofs[1]["elements"] > 0
    assert "--procs N" in proofs[2]["detail"]
    assert report["ok"]
    assert any("27 layers to 3" in sentence for sentence in report["shrunk"])
    assert any(sentence.startswith("tp2: not shown") for sentence in report["dropped"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("llama3-8b", "--device", "cuda"), 3, "--device cuda needs a CUDA GPU"),
        (("llama3-8b", "--size", "layer", "--procs", "2"), 2, "--size layer runs on one rank"),
        (("llama3-8b", "--weights", "."), 2, "--weights needs --size full"),
        (("no-such-model",), 2, "is no built-in architecture"),
        (("llama3-8b", "--tp", "3"), 2, "tp = 3"),
        (("llama3-8b", "--device", "meta"), 2, "tensors on the meta device have no values"),
        (("llama3-8b", "--seed", "1" + "0" * 30), 2, "--seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_told_with_its_exit_code(arguments: tuple[str, ...], code: int, said: str) -> None:
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


def report(*proofs: ProofResult) -> VerifyReport:
    return VerifyReport(
        versions={},
        job="llama3-8b",
        layout="tp2 sp",
        implementation="clora",
        size="tiny",
        dtype="float32",
        device="cpu",
        seed=1,
        ranks=2,
        shrunk=("32 layers to 2.",),
        dropped=("cp2: not shown.",),
        proofs=proofs,
    )


PASSED = ProofResult(
    proof="merge",
    code="CL505",
    status=ProofStatus.PASSED,
    detail="the same",
    elements=8192,
    largest_error=3e-7,
    bound=1e-4,
)
FAILED = ProofResult(
    proof="liveness",
    code="CL503",
    status=ProofStatus.FAILED,
    detail="It is dead.",
    where="decoder.layers.3.mlp.linear_fc1[up]",
    rank=1,
)


def test_text_names_the_module_and_the_rank_of_a_failure_and_what_was_measured() -> None:
    text = verify_text.render(report(PASSED, FAILED))
    assert "llama3-8b · tp2 sp · tiny · clora · float32 · cpu · 2 ranks · seed 1" in text
    assert "the same (8,192 values, largest error 3.0e-07 of 1e-04)" in text
    assert "CL503 error liveness at decoder.layers.3.mlp.linear_fc1[up], rank 1: It is dead." in text
    assert "shrunk:     32 layers to 2." in text
    assert "layout:     cp2: not shown." in text
    assert text.endswith("Not verified: 1 proved, 1 failed, 0 not run, in 0.0 s.\n")


def test_quiet_text_has_failures_only() -> None:
    assert verify_text.render(report(PASSED), failures_only=True) == ""
    assert verify_text.render(report(PASSED, FAILED), failures_only=True).startswith("CL503 error liveness")


def test_json_is_the_whole_report() -> None:
    document = json.loads(verify_json.render(report(PASSED, FAILED)))
    assert [proof["proof"] for proof in document["proofs"]] == ["merge", "liveness"]
    assert json.loads(verify_json.report_line(report(PASSED)))["ok"] is True
    assert "proofs" not in json.loads(verify_json.report_line(report(PASSED)))
