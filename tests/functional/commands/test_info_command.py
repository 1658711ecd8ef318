"""`clora-inspect info`, `--version` and `--help`, which need no job."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest
from command_line import own_process

from clora_inspect.cli import with_aliases
from clora_inspect.cli.table import COMMANDS

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine


def test_info_as_json(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("info", "-f", "json")
    facts = json.loads(ran.out)
    assert facts["versions"]["torch"] == version("torch")
    assert facts["importable"]["megatron-core"] is True
    assert (ran.status, ran.err) == (0, "")


def test_info_as_text_says_the_same(clora_inspect: CommandLine) -> None:
    out = clora_inspect("info").out
    assert f"megatron-core        {version('megatron-core')}" in out
    assert "networkx             yes" in out


def test_two_releases_of_cudnn_are_told(
    clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from clora_inspect.cli.commands import verify
    from clora_inspect.launch import gate

    assert json.loads(clora_inspect("info", "-f", "json").out)["notes"] == []
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64" / "libcudnn.so.9.1.0").touch()
    package = tmp_path / "nvidia_cudnn_cu12-9.10.2.21.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-cudnn-cu12\nVersion: 9.10.2.21\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDNN_HOME", str(tmp_path))
    out = clora_inspect("info").out
    assert f"cudnn: nvidia-cudnn-cu12 9.10.2.21, {tmp_path / 'lib64'} 9.1.0" in out
    assert "notes: there are two releases of cuDNN" in out
    # On a GPU the gate and verify say it, too: there is none here, so their last step alone is run.
    for device in ("cpu", "cuda"):
        verify._note_on_cudnn(device)
        gate._say_note_on_cudnn(device)
    err = capfd.readouterr().err
    assert err.count("note: there are two releases of cuDNN") == 2
    assert err.count("gate: note: there are two") == 1


@pytest.mark.parametrize(
    ("shell", "said"), [("bash", "complete -o nosort"), ("zsh", "compdef"), ("fish", "complete --no-files")]
)
def test_the_completion_script(clora_inspect: CommandLine, shell: str, said: str) -> None:
    out = clora_inspect("info", "--completion", shell).out
    assert said in out
    assert "_CLORA_INSPECT_COMPLETE" in out


def test_version_and_help(clora_inspect: CommandLine) -> None:
    assert clora_inspect("--version").out == f"clora-inspect {version('clora-inspect')}\n"
    assert clora_inspect("-V").out == clora_inspect("--version").out
    shown = clora_inspect("--help").out
    for name, (_, words) in COMMANDS.items():
        assert name in shown
        assert words.split(".")[0] in " ".join(shown.split())
    assert clora_inspect("help", "plan").out == clora_inspect("plan", "-h").out


def test_check_is_also_an_option() -> None:
    assert with_aliases(["--check", "llama3-8b"]) == ["check", "llama3-8b"]
    assert with_aliases(["plan", "--check"]) == ["plan", "--check"]


def test_help_into_a_closed_pipe_is_silent() -> None:
    import os

    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = own_process("--help", stdout=writer)
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")
