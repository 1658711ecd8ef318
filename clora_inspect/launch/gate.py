"""`gate`: end a run before its first step unless its ranks hold what was accepted.

from clora_inspect import gate

lora(model)
gate(model, "snapshots/llama3-8b/train.json")
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import torch

from clora import linears
from clora.errors import CloraError, described, one_line
from clora_inspect.exit_code import ExitCode
from clora_inspect.launch import report
from clora_inspect.launch.agreement import Ranks, facts_of
from clora_inspect.launch.answer import Answer, is_first_of_node, write_answer
from clora_inspect.launch.comparison import (
    compare_facts,
    compare_rank,
    held_lines,
    missing_differences,
    params_difference,
)
from clora_inspect.launch.difference import Difference, Topic, ordered
from clora_inspect.launch.expected import Expected, read_expected
from clora_inspect.launch.live import LiveRank, read_rank
from clora_inspect.launch.recording import record_run
from clora_inspect.launch.settings import FILE_VARIABLE, RECORD_VARIABLE
from clora_inspect.machine.cudnn import note_on_this_machine
from clora_inspect.machine.faults import RankLostError

if TYPE_CHECKING:
    from clora.linears import Model


def gate(
    model: Model,
    expected: str | os.PathLike[str] | None = None,
    *,
    record: str | os.PathLike[str] | None = None,
) -> None:
    """Compare what every rank holds with `expected`, and end the run unless they are the same.

    Call it on all ranks, after surgery and before the first step; the process groups of the job
    must exist. Rank 0 prints one report on stderr. Nothing is changed.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks, wrapped or not.
        expected: a snapshot, the record of a run, or a saved plan, at the same path on all ranks.
            None takes the file in the environment variable `CLORA_INSPECT_GATE`.
        record: a folder, such as that of the run's checkpoint, in which `clora-run.json` is
            written if the run passes: what it is, with which the gate of a later run can compare.
            None takes the folder in the environment variable `CLORA_INSPECT_GATE_RECORD`, if it is
            set. With `record` alone nothing is compared but the ranks with each other.

    Raises:
        CloraError: the record cannot be written.
        SystemExit: on all ranks, with code 1 if any of them differs, 2 if there is no file to
            compare with, and 3 if a rank died, or did not come within the time limit of the process
            group.
    """
    device = _device_of(model)
    ranks = Ranks(device)
    name = expected if expected is not None else os.environ.get(FILE_VARIABLE)
    folder = record if record is not None else os.environ.get(RECORD_VARIABLE)
    try:
        verdict = judge(model, Path(name) if name else None, ranks, needs_file=not folder)
    except RankLostError as error:
        _say(f"gate: {error}")
        _say(write_answer(Answer(passed=False, ranks=ranks.size)))
        raise SystemExit(int(ExitCode.BUILD)) from None
    answer = Answer(passed=verdict.code == ExitCode.OK, ranks=ranks.size)
    if ranks.rank == 0:
        _say(verdict.text)
        _say_note_on_cudnn(device.type)
        _say(write_answer(answer))
    elif is_first_of_node():
        # A launcher of its own may have been started there, by a command of its own.
        write_answer(answer)
    if verdict.code != ExitCode.OK:
        # Another rank that ends first would take the report with it: launchers kill the others.
        with suppress(RankLostError):
            ranks.any_of(False)
        raise SystemExit(int(verdict.code))
    if folder:
        record_run(model, Path(folder), verdict.live)


def _say(text: str | None) -> None:
    if text:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def _say_note_on_cudnn(device: str) -> None:
    """Tell of two releases of cuDNN, which change what real kernels compute."""
    note = note_on_this_machine() if device == "cuda" else None
    _say(f"gate: note: {note}" if note else None)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The result on which all ranks agree."""

    code: ExitCode
    text: str
    """The report."""
    live: LiveRank | None
    """The facts of this rank; None if it cannot be read."""


def judge(model: Model, path: Path | None, ranks: Ranks, *, needs_file: bool = True) -> Verdict:
    """Return the verdict on a run. All ranks call this, and all get the same one.

    Without a file, which `needs_file=False` allows, the ranks are compared with each other.
    """
    differences: list[Difference] = []
    expected = _read(path, differences) if path is not None or needs_file else None
    cannot_compare = ranks.any_of(bool(differences))
    same_file = ranks.are_equal(expected.digest if expected is not None else "0")
    if not cannot_compare and not same_file:
        differences.append(Difference(topic=Topic.FILE, text="the ranks read different files at this path"))
    live = _live(model, differences)
    if expected is not None and live is not None:
        differences += compare_rank(expected, live)
    elif live is not None:
        differences += live.not_in_effect
    if not cannot_compare and same_file and expected is not None:
        differences += _whole_model(expected, live, ranks)
    differences += _unlike_rank_0(live, ranks)
    found = ordered(list(dict.fromkeys(differences)))
    if ranks.any_of(bool(found)):
        groups, untold = ranks.groups(found, 0 if live is None else live.stage)
        code = ExitCode.USAGE if cannot_compare else ExitCode.FOUND
        name = "what is expected" if path is None else str(path)
        return Verdict(code=code, text=report.differs(name, ranks.size, groups, untold), live=live)
    text = report.same(expected, ranks.size, 0 if live is None else len(live.lines))
    return Verdict(code=ExitCode.OK, text=text, live=live)


def _read(path: Path | None, differences: list[Difference]) -> Expected | None:
    if path is None:
        text = f"no file to compare with: gate(model, FILE), or set {FILE_VARIABLE}"
        differences.append(Difference(topic=Topic.FILE, text=text))
        return None
    try:
        return read_expected(path)
    except CloraError as error:
        differences.append(Difference(topic=Topic.FILE, text=str(error)))
        return None


def _live(model: Model, differences: list[Difference]) -> LiveRank | None:
    try:
        return read_rank(model)
    # A rank that fails alone would leave the others waiting, whatever a foreign module raises.
    except Exception as error:  # noqa: BLE001
        is_ours = isinstance(error, CloraError)
        text = one_line(error) if is_ours else f"the model cannot be read: {described(error)}"
        differences.append(Difference(topic=Topic.RANK, text=text))
        return None


def _whole_model(expected: Expected, live: LiveRank | None, ranks: Ranks) -> list[Difference]:
    """Compare what only all ranks together tell. Rank 0 has the differences."""
    unread = ranks.any_of(live is None)
    params = ranks.sum_of(live.model_params if live is not None and live.is_first_of_stage else 0)
    nothing = [False] * len(expected.snapshot.placements)
    held = ranks.any_of_each(held_lines(expected, live) if live is not None else nothing)
    # Where a rank could not be read, its share is missing from both.
    if unread or ranks.rank:
        return []
    return [*params_difference(expected, params), *missing_differences(expected, held)]


def _unlike_rank_0(live: LiveRank | None, ranks: Ranks) -> list[Difference]:
    first = ranks.facts_of_rank_0(facts_of(live) if live is not None else {})
    if not first or live is None:
        return []
    own = facts_of(live)
    topics = {"config": Topic.CONFIG, "versions": Topic.VERSIONS, "layout": Topic.LAYOUT}
    return [each for key, topic in topics.items() for each in compare_facts(first[key], own[key], topic)]


def _device_of(model: Model) -> torch.device:
    """Return where the job communicates: NCCL takes tensors of a GPU, gloo those of the CPU."""
    parameter = next((each for chunk in linears.chunks_of(model) for each in chunk.parameters()), None)
    on_gpu = parameter is not None and parameter.device.type == "cuda"
    return parameter.device if on_gpu and parameter is not None else torch.device("cpu")
