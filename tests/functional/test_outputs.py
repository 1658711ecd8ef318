"""An output never replaces another output, or what it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clora_inspect.cli.options.same_file import is_same_file
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from command_line import CommandLine

CHECK = "check llama3-8b --set model.num_layers=1 --no-snapshot"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "q.link").symlink_to("q.html")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "--write html=q.html --write json=q.html",
        "--write html=a/../q.html --write json=q.html",
        "--write html=./q.html --write json=q.html",
        "--write html=a/q.html --write json=link/q.html",
        "--write html=q.link --write json=q.html",
        "-o q.html --write json=q.html",
        "-o q.link --write json=a/../q.html",
    ],
)
def test_two_outputs_to_one_file_are_refused(clora_inspect: CommandLine, folder: Path, words: str) -> None:
    ran = clora_inspect(*CHECK.split(), *words.split())
    assert ran.status == ExitCode.USAGE
    assert "are one file, and one would replace the other" in ran.err
    assert not [*folder.rglob("*.html")]


def test_names_that_differ_in_case_are_one_file_where_the_folder_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = folder / "Q.html", folder / "q.html"
    one.touch()
    assert is_same_file(one, other) == other.exists()
    # As on a file system that ignores case.
    plain = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: plain(path) or plain(path.with_name(path.name.swapcase())))
    monkeypatch.setattr(Path, "samefile", lambda *_: True)
    assert is_same_file(one, other)
    assert not is_same_file(one, folder / "r.html")


FILES = {
    "clora-inspect.toml": '[jobs.j]\nmodel = "config.json"\nlora = "lora.toml"\n',
    "config.json": '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, '
    '"intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 1, "vocab_size": 256, '
    '"max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu"}',
    "lora.toml": 'peft_scheme = "canonical_lora"\n',
}


@pytest.mark.parametrize(
    "words",
    [
        *(f"{command} -o {file}" for file in FILES for command in ("plan j", "graph j", "check j", "verify j")),
        "fit j --gpus 2 -o config.json",
        "report j -o a/../config.json",
        "check j --no-snapshot --write json=clora-inspect.toml",
        "check config.json --no-snapshot --write json=link/../config.json",
        "plan config.json --isolated -o ./config.json",
        "plan config.json --isolated --lora lora.toml -o lora.toml",
        "fingerprint config.json -o config.json",
    ],
)
def test_an_output_does_not_replace_what_is_read(clora_inspect: CommandLine, folder: Path, words: str) -> None:
    for name, text in FILES.items():
        (folder / name).write_text(text)
    ran = clora_inspect(*words.split())
    assert ran.status == ExitCode.USAGE, ran
    assert "would replace" in ran.err
    assert {name: (folder / name).read_text() for name in FILES} == FILES


def test_a_difference_does_not_replace_a_plan(clora_inspect: CommandLine, saved_plan: Path) -> None:
    before = saved_plan.read_bytes()
    ran = clora_inspect("diff", str(saved_plan), str(saved_plan), "-o", str(saved_plan))
    assert ran.status == ExitCode.USAGE
    assert "would replace" in ran.err
    assert saved_plan.read_bytes() == before
