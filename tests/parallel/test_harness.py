"""The harness returns results in rank order, reports failures, and leaves no process behind."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import psutil
import pytest
import torch
from gloo import RankError, on_ranks

from clora.errors import GeometryError, LayoutError
from clora_inspect.exit_code import ExitCode, exit_code_for
from clora_inspect.job.layout import Layout
from clora_inspect.machine.faults import RankLostError
from clora_inspect.virtual import processes

TP2 = Layout(tp=2)


def test_every_rank_answers_and_they_talk_to_each_other() -> None:
    answers = on_ranks(TP2, "harness_tasks:sums", 10.0)
    assert [answer["rank"] for answer in answers] == [0, 1]
    assert all(torch.equal(answer["total"], torch.tensor([21.0])) for answer in answers)
    assert {answer["tp"] for answer in answers} == {2}


def test_processes_serve_one_layout_after_another() -> None:
    first = on_ranks(TP2, "harness_tasks:process_id")
    assert [answer["tp"] for answer in on_ranks(Layout(), "harness_tasks:sums", 1.0, ranks=2)] == [1, 1]
    assert on_ranks(TP2, "harness_tasks:process_id") == first


def test_a_failure_names_rank_error_and_line() -> None:
    with pytest.raises(RankError, match=r"rank 1: builtins\.ZeroDivisionError: the number of this rank") as raised:
        on_ranks(TP2, "harness_tasks:fails_on", 1)
    assert "\n" not in str(raised.value)
    assert "in fails_on" in "".join(raised.value.__notes__)
    assert len(on_ranks(TP2, "harness_tasks:process_id")) == 2


def test_a_users_mistake_stays_one() -> None:
    with pytest.raises(GeometryError, match="dim = 3"):
        on_ranks(TP2, "harness_tasks:user_mistake")


@pytest.mark.parametrize(
    ("task", "message", "log"),
    [
        ("sleeps", r"Rank 0 of 2 did not answer in time \(1 s", r"(?s)about to sleep.*in sleeps"),
        ("dies", r"Rank 0 of 2 died \(exit status \d+\)", ""),
    ],
)
def test_a_rank_that_does_not_answer_is_killed(
    task: str, message: str, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    on_ranks(TP2, "harness_tasks:process_id")
    with pytest.raises(RankLostError, match=message) as raised:
        on_ranks(TP2, f"harness_tasks:{task}", timeout_s=1)
    assert re.search(log, "".join(raised.value.__notes__))
    assert exit_code_for(raised.value) is ExitCode.BUILD


def test_the_rank_that_died_is_named_and_not_one_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.5)
    on_ranks(TP2, "harness_tasks:process_id")
    with pytest.raises(RankLostError, match=r"Rank 1 of 2 died \(exit status 7\)"):
        on_ranks(TP2, "harness_tasks:dies_on", 1)


def test_a_layout_that_does_not_divide_the_processes_is_refused() -> None:
    with pytest.raises(LayoutError, match="multiple of 4 processes and there are 2"):
        on_ranks(Layout(tp=4), "harness_tasks:process_id", ranks=2)


def test_ranks_that_have_kept_many_threads_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:

    with processes.Processes(1) as ranks:
        first = ranks.run("os:getpid", Layout())
        assert ranks.run("os:getpid", Layout()) == first
        monkeypatch.setattr(processes, "MAX_THREADS", 0)
        ranks.run("os:getpid", Layout())
        assert ranks.run("os:getpid", Layout()) != first


@pytest.mark.skipif(sys.platform != "linux", reason="threads of a process are read from /proc")
def test_ranks_are_forked_from_a_process_with_one_thread() -> None:
    (server,) = set(on_ranks(TP2, "harness_tasks:parent"))
    assert server != os.getpid()
    assert len(list(Path(f"/proc/{server}/task").iterdir())) == 1


def test_a_rank_has_the_environment_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes.Processes(1) as one:
        monkeypatch.setenv("SET_AFTER_THE_FORK_SERVER", "yes")
        assert one.run("os:getenv", Layout(), "SET_AFTER_THE_FORK_SERVER") == ["yes"]


def test_a_rank_that_is_killed_leaves_none_of_its_own_processes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "EXIT_S", 0.0)
    with processes.Processes(1) as one:
        one.run("checkpoint_tasks:save", Layout(), "gqa", {}, str(tmp_path / "checkpoint"), True, {})
        (rank,) = one.run("os:getpid", Layout())
        managers = psutil.Process(rank).children(recursive=True)
        assert managers
    _, alive = psutil.wait_procs(managers, timeout=60)
    assert not alive
