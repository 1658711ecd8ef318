"""What a user's function may do without harm: exit, raise, read argv, print, start threads, change
the process. Each is an error of its job alone, with the last line of the user's file and a hint.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import torch

from clora import CanonicalLoRA
from clora.errors import ModelError
from clora_inspect.job.job import Job
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
import argparse, importlib.util, os, sys, threading, time
import torch
from functools import partial
from torch import nn
from megatron.core import parallel_state

def model():
    return nn.Sequential(nn.Linear(8, 8))

class Stop(BaseException):
    pass

class Unreadable(Exception):
    def __str__(self):
        raise RuntimeError

def exits(): sys.exit(0)
def exits_with_text(): sys.exit("no licence")
def parses(): argparse.ArgumentParser().parse_args(["--what"])
def stops(): raise Stop("enough")
def unreadable(): raise Unreadable
def long(): raise ValueError("x" * 100_000)
def inner(): torch.zeros(2) + torch.zeros(3)
def groups(): torch.distributed.init_process_group("gloo")
def megatron_groups(): parallel_state.initialize_model_parallel(1)
def destroys():
    torch.distributed.destroy_process_group()
    return model()
def rank(): return os.environ["RANK"]
def value(): return nn.Linear(2, 2).weight.sum().item()
def flash(): import flash_attn
def missing(): import no_such_package
def weights(): open("weights.pt")
def wants(args, tokenizer): return model()

def nothing(): pass
def a_class(): return nn.Linear
def a_dict(): return {"model": model()}
def a_function(): return model
def a_partial(): return partial(model)
async def a_coroutine(): return model()
def no_chunks(): return []
def three_chunks(): return [model(), model(), model()]
def not_all(): return [model(), 3]

def prints():
    print('{"argv": %d}' % len(sys.argv))
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout.buffer.write(b"bytes too")
    return model()

def changes():
    torch.set_default_dtype(torch.float64)
    os.chdir("/")
    threading.Thread(target=time.sleep, args=(60,)).start()
    return model()

def optional():
    absent = [importlib.util.find_spec(name) for name in ("flash_attn", "apex", "deep_ep")]
    assert absent == [None, None, None], absent
    try:
        import flash_attn.ops
    except ModuleNotFoundError:
        return model()

def interrupted(): raise KeyboardInterrupt
"""
LINES = SOURCE.splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "user_jobs.py"
    path.write_text(SOURCE)
    return path


def plan(source: Path, function: str) -> None:
    plan_job(Job(model=f"{source}:{function}", lora=CanonicalLoRA(target_modules=["0"])))


def line_of(function: str) -> int:
    return next(number for number, line in enumerate(LINES, 1) if line.startswith(f"def {function}("))


FAILURES = {
    "exits": ("called sys.exit(0)", "returns its model"),
    "exits_with_text": ("called sys.exit('no licence')", "returns its model"),
    "parses": ("called sys.exit(2)", "sys.argv is empty here. Give the parser its words"),
    "stops": ("raised Stop: enough", ""),
    "unreadable": ("raised Unreadable: an error without a readable text", ""),
    "long": ("raised ValueError: xxx", ""),
    "inner": ("raised RuntimeError: Attempting to broadcast", ""),
    "groups": ("raised ValueError", "process groups of the job's layout exist already"),
    "megatron_groups": ("raised AssertionError", "process groups of the job's layout exist already"),
    "rank": ("raised KeyError: 'RANK'", "RANK is not set: nothing launched this process"),
    "value": ("raised RuntimeError", "built on the meta device"),
    "flash": ("raised ModuleNotFoundError", "flash_attn needs CUDA, and is absent"),
    "missing": ("raised ModuleNotFoundError", "It is not installed: pip install no_such_package"),
    "weights": ("raised FileNotFoundError", "Relative paths begin at the folder of the job"),
    "wants": ("needs args, tokenizer", "may ask for pre_process, post_process, vp_stage, layout, config"),
}


@pytest.mark.parametrize("function", FAILURES)
def test_a_failure_has_the_users_own_line_and_a_hint(source: Path, function: str) -> None:
    what, hint = FAILURES[function]
    with pytest.raises(BuildError) as raised:
        plan(source, function)
    message, _, advice = str(raised.value).partition("\n")
    assert what in message
    assert f"(user_jobs.py:{line_of(function)})" in message
    assert hint in advice
    assert bool(hint) == bool(advice)
    assert len(message) < 1_000


RETURNED = {
    "nothing": ("None", "`return`"),
    "a_class": ("the class Linear", "Return an object"),
    "a_dict": ("dict", "torch.nn.Module"),
    "a_function": ("the function model", "call it"),
    "a_partial": ("the function model", "call it"),
    "a_coroutine": ("a coroutine", "async"),
    "no_chunks": ("0 chunks", "as many as vpp"),
    "three_chunks": ("3 chunks", "as many as vpp"),
    "not_all": ("a list that holds int", "torch.nn.Module"),
    "destroys": ("changed the process groups", "leave them as they are"),
}


@pytest.mark.parametrize("function", RETURNED)
def test_what_is_no_model_is_refused_with_the_mistake_behind_it(source: Path, function: str) -> None:
    with pytest.raises(BuildError) as raised:
        plan(source, function)
    message, _, advice = str(raised.value).partition("\n")
    assert RETURNED[function][0] in message
    assert RETURNED[function][1] in advice


def test_what_it_prints_goes_to_stderr_once(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(source, "prints")
    plan(source, "prints")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ['{"argv": 1}', "bytes too"]


def test_the_process_is_as_before(source: Path) -> None:
    before = (os.getcwd(), torch.get_default_dtype(), sys.argv[:], sys.stdout)  # noqa: PTH109
    threads = set(threading.enumerate())
    plan(source, "changes")
    assert (os.getcwd(), torch.get_default_dtype(), sys.argv, sys.stdout) == before  # noqa: PTH109
    assert [thread.daemon for thread in set(threading.enumerate()) - threads] == [True]


def test_packages_that_need_cuda_are_absent_as_python_says_it(source: Path) -> None:
    plan(source, "optional")
    assert sys.modules.get("flash_attn", "not there") == "not there"


def test_ctrl_c_still_interrupts(source: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        plan(source, "interrupted")


@pytest.mark.parametrize("text", ["import sys; sys.exit(0)", "raise SystemExit('x')", "def broken(:"])
def test_importing_the_file_is_contained_as_well(tmp_path: Path, text: str) -> None:
    path = tmp_path / "imports.py"
    path.write_text(text)
    with pytest.raises(BuildError, match=r"importing .*imports\.py .*\(imports\.py:1\)"):
        plan_job(Job(model=f"{path}:build"))


def test_a_module_that_is_not_there_is_still_no_failure_of_code() -> None:
    with pytest.raises(ModelError, match="there is no module no_such_module"):
        plan_job(Job(model="no_such_module:build"))
