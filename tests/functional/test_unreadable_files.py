"""Every file that a user names, as a pipe, a device, 30 GB, a link to itself or a folder.

No command may wait for it, read it whole or fail on it: it ends with exit 2 and names the file.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clora.errors import CheckpointError, HFAdapterError
from clora.folders.checkpoint_metadata import read_tensors
from clora.folders.hf_folder import read_folder, read_hf_config
from clora_inspect.verify.model.weights import WeightsError, weights_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from command_line import CommandLine

CONFIGURATION = """
snapshots = "snapshots"
[jobs.j]
model = "MODEL"
set.model = { num_layers = 2 }
"""


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(30_000_000_000)


MADE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "30 GB": sparse,
    "loop": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
}

# What is made -> the words of the command, and what it says of the file.
NAMED = {
    "config.json": ("plan", "config.json", "--isolated"),
    "config.toml": ("check", "--config", "config.toml"),
    "saved.json": ("diff", "saved.json", "llama3-8b"),
    "waiting.json.new": ("plan", "waiting.json.new"),
    "function.py": ("plan", "function.py:build", "--isolated"),
    "model/config.json": ("plan", "model", "--isolated"),
}


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_is_refused(name: str, kind: str, clora_inspect: CommandLine) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    MADE[kind](Path(name))
    ran = clora_inspect(*NAMED[name])
    assert ran.status == 2
    assert name.split("/", maxsplit=1)[0] in ran.err
    assert "internal error" not in ran.err


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("model", ["model.json", "folder", "f.py:build", "/dev/zero", r"a\\u0000b"])
def test_a_file_that_a_job_names_fails_that_job(model: str, kind: str, clora_inspect: CommandLine) -> None:
    Path("clora-inspect.toml").write_text(CONFIGURATION.replace("MODEL", model.replace("\\\\", "\\")))
    Path("folder").mkdir()
    for name in ("model.json", "folder/config.json", "f.py"):
        MADE[kind](Path(name))
    for words in (["--check"], ["plan", "j"], ["snapshot", "accept"]):
        ran = clora_inspect(*words)
        assert ran.status == 2, (words, ran.err, ran.out)
        assert "internal error" not in ran.err + ran.out


@pytest.mark.parametrize("kind", MADE)
def test_snapshots_and_cache_entries(kind: str, clora_inspect: CommandLine) -> None:
    Path("clora-inspect.toml").write_text(CONFIGURATION.replace("MODEL", "llama3-8b"))
    assert clora_inspect("snapshot", "accept").status == 0
    snapshot = Path("snapshots/j/default.json")
    entries = list(Path(".clora_cache").glob("*.json"))
    assert entries
    for path in (snapshot, *entries):
        path.unlink()
        MADE[kind](path)
    # The cache only saves time. The snapshot is a finding, as a damaged one is.
    ran = clora_inspect("--check")
    assert (ran.status, "internal error" in ran.err + ran.out) == (1, False)
    assert "snapshots/j/default.json cannot be read" in ran.out


@pytest.mark.parametrize("kind", MADE)
def test_the_files_of_the_library(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    MADE[kind](folder / "adapter_config.json")
    with pytest.raises(HFAdapterError, match=r"adapter_config\.json cannot be read"):
        read_folder(folder)
    with pytest.raises(HFAdapterError, match=r"adapter_config\.json.* cannot be read"):
        read_hf_config(folder / "adapter_config.json")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    MADE[kind](folder / "adapter_model.safetensors")
    with pytest.raises(HFAdapterError, match=r"adapter_model\.safetensors"):
        read_folder(folder)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
@pytest.mark.parametrize("name", ["metadata.json", ".metadata", "common.pt", "__0_0.distcp"])
def test_the_files_of_a_checkpoint(name: str, kind: str, tmp_path: Path) -> None:
    for other in ("metadata.json", ".metadata"):
        (tmp_path / other).write_bytes(b"{}")
    (tmp_path / name).unlink(missing_ok=True)
    MADE[kind](tmp_path / name)
    with pytest.raises(CheckpointError, match=r"cannot be read|no complete"):
        read_tensors(tmp_path)


def test_the_latest_iteration_of_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "latest_checkpointed_iteration.txt")
    with pytest.raises(WeightsError, match=r"latest_checkpointed_iteration\.txt cannot be read: it is a pipe"):
        weights_folder(tmp_path)


# The words of a command that takes a folder, or a path below one, and gets a file.
BELOW_A_FILE = {
    "a recorded run": (("check", "llama3-8b", "--recorded", "notes.md"), "notes.md is a file. Name the folder"),
    "an output": (("config", "schema", "-o", "notes.md/x.json"), "notes.md is a file, not a folder"),
    "a deeper output": (("config", "schema", "-o", "notes.md/x/y.json"), "notes.md is a file, not a folder"),
    "an output that is a folder": (("config", "schema", "-o", "folder"), "folder is a folder: name a file in it"),
    "a model": (("plan", "notes.md/config.json"), "notes.md is a file, not a folder"),
    "a LoRA": (("plan", "llama3-8b", "--lora", "notes.md/adapter_config.json"), "notes.md is a file, not a folder"),
    "snapshots": (("snapshot", "accept", "--snapshot-dir", "notes.md"), "notes.md is a file, not a folder"),
}


@pytest.mark.parametrize("name", BELOW_A_FILE)
def test_a_file_in_place_of_a_folder_is_named(name: str, clora_inspect: CommandLine) -> None:
    Path("notes.md").write_text("# Notes")
    Path("folder").mkdir()
    Path("clora-inspect.toml").write_text(CONFIGURATION.replace("MODEL", "llama3-8b"))
    words, said = BELOW_A_FILE[name]
    ran = clora_inspect(*words)
    assert ran.status == 2, ran.out + ran.err
    assert said in ran.err
    assert "Not a directory" not in ran.err


def test_an_adapter_is_a_folder() -> None:
    Path("notes.md").write_text("# Notes")
    with pytest.raises(HFAdapterError, match=r"^notes\.md is a file\. An adapter of PEFT is a folder"):
        read_folder(Path("notes.md"))
    with pytest.raises(HFAdapterError, match=r"^there is no folder nowhere\. An adapter of PEFT is a folder"):
        read_folder(Path("nowhere"))
