"""A path that means no checkpoint: one finding that says what it is, and nothing of it runs."""

from __future__ import annotations

import json
import os
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import CommandLine

INDEX, FORMAT, COMMON = ".metadata", "metadata.json", "common.pt"
TORCH_DIST = '{"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch"}'


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def _files(**contents: str) -> Callable[[Path], None]:
    names = {"index": INDEX, "format": FORMAT, "common": COMMON}

    def make(folder: Path) -> None:
        for name, content in contents.items():
            (folder / names.get(name, name)).write_text(content)

    return make


def _pickle(folder: Path) -> None:
    _files(format=TORCH_DIST, common="")(folder)
    (folder / INDEX).write_bytes(pickle.dumps(Runs(folder / "it_ran")))


def _endless(folder: Path) -> None:
    _files(format=TORCH_DIST, common="")(folder)
    (folder / INDEX).symlink_to("/dev/zero")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "latest_checkpointed_iteration.txt")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    # What is there, and a regular expression for what is said.
    "an empty folder": (_files(), "it lacks metadata.json, common.pt, .metadata"),
    "pickles of ranks": (lambda folder: (folder / "mp_rank_00_000").mkdir(), "one pickle for each rank"),
    "Hugging Face": (_files(**{"model.safetensors": ""}), "has Hugging Face weights"),
    "torch's own format": (_files(index="", **{"__0_0.distcp": ""}), "fsdp_dtensor or torch_dcp"),
    "zarr": (_files(index="", format='{"sharded_backend": "zarr"}'), "has the format 'zarr'"),
    "iterations without a latest": (lambda folder: (folder / "iter_0000010").mkdir(), "has iterations and no latest"),
    "a latest that is not there": (_files(**{"latest_checkpointed_iteration.txt": "20"}), "no folder .*iter_0000020"),
    "a latest that leads away": (_files(**{"latest_checkpointed_iteration.txt": "../../etc"}), "not an iteration"),
    "a damaged format": (_files(index="", format="[" * 10_000), "is damaged"),
    "a damaged index": (_files(index="no pickle", format=TORCH_DIST, common=""), "damaged or no index"),
    "an index that runs": (_pickle, "names .*open"),
    "an index without end": (_endless, "it is a device"),
    "a pipe": (_pipe, "it is a pipe"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_checkpoint(name: str, tmp_path: Path, clora_inspect: CommandLine) -> None:
    make, said = CASES[name]
    make(tmp_path)
    options = ("--isolated", "--no-snapshot", "--set", "model.num_layers=2", "-f", "json")
    ran = clora_inspect("check", "qwen2.5-0.5b", *options, "--checkpoint", str(tmp_path))
    assert ran.status == 2, ran.err
    (finding,) = [each for each in json.loads(ran.out)["findings"] if each["severity"] == "error"]
    assert finding["code"] == "CL620"
    assert re.search(said, finding["message"]), finding["message"]
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("path", ["missing", "/dev/zero", "a" * 5000, "config.json"])
def test_what_is_no_folder(path: str, tmp_path: Path, clora_inspect: CommandLine) -> None:
    (tmp_path / "config.json").write_text("{}")
    options = ("--isolated", "--no-snapshot", "--set", "model.num_layers=2", "--select", "CL62", "-f", "concise")
    ran = clora_inspect("-C", str(tmp_path), "check", "qwen2.5-0.5b", *options, "--checkpoint", path)
    assert ran.status == 2
    assert "CL620" in ran.out
    assert "Traceback" not in ran.err
