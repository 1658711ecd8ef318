"""`clora-inspect gate FILE -- COMMAND`: the exit status and the words, for each way a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import CommandLine, bare_environment, own_process

from clora_inspect.exit_code import ExitCode

MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}

# A run on one rank. `gate(model)` reads the environment that the command sets.
RUN = """\
import sys

from clora import CanonicalLoRA, apply
from clora_inspect import gate
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

definition = load_definition(sys.argv[1]).override({"params_dtype": "float32", "bf16": False})
with virtual_megatron("cpu"), virtual_cluster(Layout()):
    with quiet():
        chunks = build_chunks(definition, Layout())
    lora = CanonicalLoRA(dim=int(sys.argv[2]))
    apply(lora.plan(chunks), chunks, lora)
    gate(chunks)
print("the first step")
sys.exit(7)
"""


FLOAT32 = ("--set", "model.params_dtype=float32", "--set", "model.bf16=false")


# Two gates in a run that has no process groups any more, as a single process has none.
ALONE = """\
import sys

from clora import CanonicalLoRA
from clora_inspect import gate
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

definition = load_definition(sys.argv[1]).override({"params_dtype": "float32", "bf16": False})
with virtual_megatron("cpu"):
    with virtual_cluster(Layout()), quiet():
        chunks = build_chunks(definition, Layout())
        CanonicalLoRA(dim=4)(chunks)
    gate(chunks)
    gate(chunks, sys.argv[2])
"""

# The second rank dies, or never comes. The gate reads no model before it has met the others.
LOST = """\
import os
import sys
import time
from datetime import timedelta

import torch
from torch import distributed

from clora_inspect import gate

rank, file, end = int(sys.argv[1]), sys.argv[2], sys.argv[3]
store = distributed.FileStore(file, 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=8))
if rank == 1 and end != "comes":
    time.sleep(20 if end == "hangs" else 0)
    os._exit(9)
gate(torch.nn.Linear(1, 1))
print("the first step")
"""
PASSED, DIFFERED = (
    f"""echo '{{"passed":{passed},"ranks":1}}' > "$CLORA_INSPECT_GATE_ANSWER\"""" for passed in ("true", "false")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    (folder / "run.py").write_text(RUN)
    (folder / "config.json").write_text(json.dumps(MODEL))
    planned = own_process("plan", str(folder), "--dim", "4", *FLOAT32, "-f", "json", "-o", str(folder / "plan.json"))
    assert planned.returncode == ExitCode.OK, planned.stderr
    return folder


@pytest.fixture(scope="module")
def recorded(folder: Path) -> Path:
    ran = _gate(folder, 4, "--record", str(folder / "recorded"), str(folder / "plan.json"))
    assert ran.returncode == 7, ran.stderr
    return folder / "recorded"


def _gate(folder: Path, dim: int, *options: str) -> subprocess.CompletedProcess[str]:
    return own_process("gate", *options, "--", sys.executable, str(folder / "run.py"), str(folder), str(dim))


def test_a_run_that_is_as_planned_goes_on_and_its_exit_status_is_kept(folder: Path) -> None:
    record = folder / "checkpoint"
    ran = _gate(folder, 4, "--record", str(record), str(folder / "plan.json"))
    assert ran.returncode == 7, ran.stderr
    assert "gate: 1 rank as expected by" in ran.stderr
    assert "the first step" in ran.stdout
    recorded = json.loads((record / "clora-run.json").read_text())
    assert recorded["run"]["world_size"] == 1
    assert {line["a"][0] for line in recorded["placements"]} == {4}
    # The record of a run is a file that the next run can be compared with.
    again = _gate(folder, 8, str(record / "clora-run.json"))
    assert again.returncode == ExitCode.FOUND
    assert "decoder.layers.{0..1}.mlp.linear_fc2: rank 4, in 48, out 32" in again.stderr


@pytest.mark.parametrize(
    ("options", "status", "codes"),
    [
        (("--dim", "4"), 0, []),
        (("--dim", "8"), 1, ["CL704"]),
        (("--alpha", "7", "--dim", "4"), 1, ["CL704"]),
        (("--dim", "4", "--tp", "2"), 1, ["CL706"]),
        (("--dim", "4", "--target-modules", "linear_q"), 1, ["CL703"]),
        (("--dim", "4", "--set", "model.num_layers=3"), 1, ["CL702", "CL705", "CL706", "CL709"]),
        (("--dim", "4", "--set", "model.layernorm_epsilon=0.001"), 1, ["CL709"]),
    ],
)
def test_a_job_is_checked_against_the_recorded_run(
    recorded: Path, clora_inspect: CommandLine, options: tuple[str, ...], status: int, codes: list[str]
) -> None:
    words = ("check", str(recorded.parent), *FLOAT32, *options, "--recorded", str(recorded), "--select", "CL7")
    ran = clora_inspect(*words, "-f", "json")
    assert ran.status == status, ran.err
    assert [finding["code"] for finding in json.loads(ran.out)["findings"]] == codes


def test_the_words_are_of_the_recorded_run(recorded: Path, clora_inspect: CommandLine) -> None:
    changed = ("--dim", "8", "--set", "model.layernorm_epsilon=0.001")
    ran = clora_inspect("check", str(recorded.parent), *FLOAT32, *changed, "--recorded", str(recorded))
    assert ran.status == ExitCode.FOUND
    assert "placements differ from the recorded run" in ran.out
    assert "rank 4 -> 8" in ran.out
    assert "layernorm_epsilon 1e-06 -> 0.001" in ran.out
    assert "clora-inspect gate --record DIR" in ran.out
    assert "clora-run.json" in ran.out


def test_a_folder_without_a_record_is_a_mistake(recorded: Path, clora_inspect: CommandLine, tmp_path: Path) -> None:
    def ask(folder: Path) -> str:
        ran = clora_inspect("check", str(recorded.parent), "--recorded", str(folder))
        assert (ran.status, ran.out) == (ExitCode.USAGE, "")
        return ran.err

    assert f"{tmp_path} has no clora-run.json, the record of a run. Record one when it starts" in ask(tmp_path)
    (tmp_path / "clora-run.json").write_text("{")
    assert "clora-run.json is damaged" in ask(tmp_path)
    content = json.loads((recorded / "clora-run.json").read_text())
    del content["run"]
    (tmp_path / "clora-run.json").write_text(json.dumps(content))
    assert "is a snapshot of a job and not the record of a run" in ask(tmp_path)


def test_a_record_is_of_one_job(recorded: Path, clora_inspect: CommandLine) -> None:
    ran = clora_inspect("check", "llama3-8b", str(recorded.parent), "--recorded", str(recorded))
    assert ran.status == ExitCode.USAGE
    assert "--recorded compares one run with one job on one layout. Name one of llama3-8b" in ran.err


def test_a_run_is_recorded_without_a_file_to_compare_with(folder: Path, tmp_path: Path) -> None:
    # The command is a file itself, and stands behind the `--`.
    ran = _gate(folder, 4, "--record", str(tmp_path / "run"))
    assert ran.returncode == 7, ran.stderr
    assert (tmp_path / "run" / "clora-run.json").exists()


def test_a_run_that_differs_ends_before_its_first_step(folder: Path) -> None:
    ran = _gate(folder, 8, str(folder / "plan.json"))
    assert ran.returncode == ExitCode.FOUND, ran.stderr
    assert "gate: 1 of 1 rank differs from" in ran.stderr
    assert "rank 4, in 48, out 32, A in/tp, B out/tp -> rank 8" in ran.stderr
    assert "the first step" not in ran.stdout


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        (("true",), "true ended with exit status 0"),
        (("sh", "-c", "exit 5"), "sh ended with exit status 5"),
        (("sh", "-c", "kill -KILL $$"), "sh ended with exit status 137"),
        (("sh", "-c", 'test "$1" = -- && exit 6', "sh", "--"), "sh ended with exit status 6"),
    ],
)
def test_a_command_that_never_asks_is_a_finding(
    folder: Path, clora_inspect: CommandLine, command: tuple[str, ...], ended: str
) -> None:
    ran = clora_inspect("gate", str(folder / "plan.json"), "--", *command)
    assert ran.status == ExitCode.FOUND
    assert f"error: the gate was never reached: {ended}, and no rank called clora_inspect.gate(model)." in ran.err


@pytest.mark.parametrize("words", [("plan.json", "--quiet"), ("--quiet", "plan.json")])
def test_options_may_stand_on_both_sides_of_the_file(
    folder: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    ran = clora_inspect("gate", *words, "--", "sh", "-c", 'test "$1" = -q && exit 6', "sh", "-q")
    assert ran.status == ExitCode.FOUND
    assert "sh ended with exit status 6" in ran.err


def test_options_of_the_command_stay_its_own(
    folder: Path, clora_inspect: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    ran = clora_inspect("gate", "plan.json", "sh", "-c", 'test "$1$2" = -q-- && exit 6', "sh", "-q", "--")
    assert "sh ended with exit status 6" in ran.err


def test_the_status_of_a_run_that_a_signal_ended_is_128_and_the_signal(
    folder: Path, clora_inspect: CommandLine
) -> None:
    answered = f"{PASSED}; kill -KILL $$"
    assert clora_inspect("gate", str(folder / "plan.json"), "--", "sh", "-c", answered).status == 137


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no.json", "--", "touch", "started"), "no.json cannot be read: No such file or directory"),
        (("damaged.json", "--", "touch", "started"), "damaged.json"),
        (("run-6", "--", "touch", "started"), "run-6 is a folder. Name its file run-6/clora-run.json"),
        ((".", "--", "touch", "started"), ". cannot be read: it is a folder, not a regular file"),
        (("plan.json", "--", "no-such-launcher"), "no-such-launcher cannot be started: No such file or directory"),
        (("plan.json",), "name the command that starts the run: clora-inspect gate plan.json -- COMMAND"),
        ((), "name a file to compare with, or --record DIR"),
        (("plan.json", "--record", "run", "touch", "started"), "'--record' is no command. Write -- before it"),
    ],
)
def test_what_cannot_start_is_refused_before_it_starts(
    folder: Path,
    clora_inspect: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "damaged.json").write_text('{"schema": 1, "job":')
    (folder / "run-6").mkdir(exist_ok=True)
    (folder / "run-6" / "clora-run.json").touch()
    ran = clora_inspect("gate", *words)
    assert ran.status == ExitCode.USAGE
    assert said in ran.err
    assert not (folder / "started").exists()


def test_the_gate_brings_nothing_into_a_trainer_that_it_has_not() -> None:
    code = "import sys, clora_inspect; light = set(sys.modules); clora_inspect.gate; print(*light, '|', *sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    light, with_gate = (set(names.split()) for names in ran.stdout.split("|"))
    assert not {"torch", "megatron", "msgspec", "clora"} & light
    assert "torch" in with_gate
    assert not {"click", "rich", "textual", "networkx"} & with_gate


def test_a_command_gets_the_environment_of_the_user(folder: Path) -> None:
    """A script finds the modules beside it, which the command line keeps from itself."""
    (folder / "beside.py").write_text("print('found')")
    (folder / "script.py").write_text("import beside")
    ran = own_process("gate", str(folder / "plan.json"), "--", sys.executable, str(folder / "script.py"))
    assert ran.stdout == "found\n"
    code = "import os; print(os.environ['PYTHONPATH'], os.environ.get('PYTHONSAFEPATH'))"
    path = os.pathsep.join(["", *sys.path])
    ran = own_process("gate", str(folder / "plan.json"), "--", sys.executable, "-c", code, PYTHONPATH=path)
    assert ran.stdout == f"{path} None\n"


def test_a_script_that_swallows_the_exit_status_of_its_trainer_does_not_hide_the_verdict(
    folder: Path, clora_inspect: CommandLine
) -> None:
    assert clora_inspect("gate", str(folder / "plan.json"), "--", "sh", "-c", DIFFERED).status == ExitCode.FOUND
    assert clora_inspect("gate", str(folder / "plan.json"), "--", "sh", "-c", f"{DIFFERED}; exit 9").status == 9
    assert clora_inspect("gate", str(folder / "plan.json"), "--", "sh", "-c", PASSED).status == ExitCode.OK


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "answered", "status", "said"),
    [
        (signal.SIGINT, False, ExitCode.INTERRUPT, "interrupted: "),
        (signal.SIGTERM, False, ExitCode.FOUND, "ended with exit status 143, and no rank called"),
        (signal.SIGTERM, True, 143, ""),
    ],
)
def test_a_signal_ends_the_command_with_all_its_children_and_leaves_no_file(
    folder: Path, tmp_path: Path, number: int, answered: bool, status: int, said: str
) -> None:
    temporary, pids = tmp_path / "temporary", tmp_path / "pids"
    temporary.mkdir()
    # The shell starts the first sleep with Ctrl-C ignored. Only the second one hears it.
    answer = f"{PASSED}; " if answered else ""
    script = f"{answer}sleep 300 & echo $! >> {pids}.new; echo $$ >> {pids}.new; mv {pids}.new {pids}; exec sleep 300"
    process = subprocess.Popen(
        [sys.executable, "-m", "clora_inspect", "gate", str(folder / "plan.json"), "--", "sh", "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env=bare_environment() | {"TMPDIR": str(temporary)},
        # Without a terminal, as under a scheduler: nobody else tells the command.
        start_new_session=True,
        # A shell that starts the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )
    try:
        end = time.monotonic() + 100
        while not pids.exists() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == status
    assert said in stderr
    assert not list(temporary.iterdir())
    # The system may still be at it.
    end = time.monotonic() + 20
    while any(map(_is_alive, pids.read_text().split())) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in pids.read_text().split() if _is_alive(pid)]


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    # A child of init that nobody has waited for yet.
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or ") Z " not in state.read_text()


def test_a_run_without_process_groups_passes_and_may_be_asked_twice(folder: Path) -> None:
    (folder / "alone.py").write_text(ALONE)
    plan = str(folder / "plan.json")
    ran = own_process("gate", plan, "--", sys.executable, str(folder / "alone.py"), str(folder), plan)
    assert ran.returncode == ExitCode.OK, ran.stderr
    assert ran.stderr.count(f"gate: 1 rank as expected by {plan}: 14 adapters") == 2


@pytest.mark.parametrize("end", ["dies", pytest.param("hangs", marks=pytest.mark.nightly)])
def test_a_rank_that_never_comes_ends_the_others_with_one_sentence(folder: Path, tmp_path: Path, end: str) -> None:
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    environment = bare_environment() | {"CLORA_INSPECT_GATE": str(folder / "plan.json"), "GLOO_SOCKET_IFNAME": "lo"}
    first, second = (
        subprocess.Popen(
            [sys.executable, str(script), rank, str(tmp_path / "store"), end],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in "01"
    )
    out, err = first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert first.returncode == ExitCode.BUILD
    assert "gate: rank 0 of 2 waited for the others, and one died or did not come in time: " in err
    assert "Traceback" not in err
    assert out == ""


def test_the_first_rank_of_every_node_answers_the_command_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lost.py").write_text(LOST)
    environment = bare_environment() | {"CLORA_INSPECT_GATE": str(folder / "plan.json"), "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "lost.py"), rank, str(tmp_path / "store"), "comes"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment | {"LOCAL_RANK": "0", "CLORA_INSPECT_GATE_ANSWER": str(tmp_path / f"answer-{rank}")},
        )
        for rank in "01"
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    # The model is none of megatron-core's.
    assert [rank.returncode for rank in ranks] == [ExitCode.FOUND, ExitCode.FOUND]
    assert ["gate: 2 of 2 ranks differ" in each for each in said] == [True, False]
    assert [(tmp_path / f"answer-{rank}").read_text() for rank in "01"] == ['{"passed":false,"ranks":2}'] * 2


def test_a_folder_that_a_rank_cannot_write_to_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clora_inspect.launch.answer import Answer, write_answer

    answer = Answer(passed=True, ranks=1)
    assert write_answer(answer) is None
    monkeypatch.setenv("CLORA_INSPECT_GATE_ANSWER", str(folder / "none" / "answer.json"))
    assert "cannot be written: No such file or directory. Start it with TMPDIR on" in str(write_answer(answer))
