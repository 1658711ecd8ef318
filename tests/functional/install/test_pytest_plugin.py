"""The pytest plugin, run in another pytest: its snapshots, its messages and its imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import bare_environment

TEST = """\
from pathlib import Path

from clora_inspect.job.plan import load

PLAN = load(Path("plan.json"))

def test_plan(clora_snapshot):
    assert clora_snapshot == PLAN

def test_two(clora_snapshot):
    assert clora_snapshot.named("again") == PLAN

def test_something_else():
    assert True
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=folder,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def folder(tmp_path: Path, saved_plan: Path) -> Path:
    (tmp_path / "plan.json").write_bytes(saved_plan.read_bytes())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_adapters.py").write_text(TEST)
    return tmp_path


def test_a_snapshot_is_missed_written_and_held(folder: Path) -> None:
    missing = run(folder)
    assert missing.returncode == 1
    assert "there is no the snapshot" not in missing.stdout
    assert "there is no snapshot __clora__/test_adapters/test_plan.json" in missing.stdout
    assert "pytest --clora-update test_adapters.py" in missing.stdout
    assert not (folder / "__clora__").exists()

    assert run(folder, "--clora-update=new-only", "-n", "2").returncode == 0
    kept = sorted(path.name for path in folder.glob("__clora__/test_adapters/*"))
    assert kept == ["test_plan.json", "test_two-again.json"]
    assert run(folder).returncode == 0

    changed = json.loads((folder / "plan.json").read_text())
    for ranks in changed["rank_classes"]:
        ranks["placements"] = [placed for placed in ranks["placements"] if placed["part"] != "k"]
    (folder / "plan.json").write_text(json.dumps(changed))
    differs = run(folder, "--clora-update=new-only")
    assert differs.returncode == 1
    assert "4 removed" in differs.stdout
    assert "decoder.layers.{0..3}.self_attention.linear_qkv[k]" in differs.stdout
    assert run(folder, "--clora-update").returncode == 0
    assert run(folder).returncode == 0


def test_a_spoilt_snapshot_is_told(folder: Path) -> None:
    assert run(folder, "--clora-update").returncode == 0
    (folder / "__clora__" / "test_adapters" / "test_plan.json").write_text("{")
    spoilt = run(folder)
    assert spoilt.returncode == 1
    assert "is damaged" in spoilt.stdout


def test_a_run_that_uses_no_snapshot_imports_nothing_of_ours(folder: Path) -> None:
    (folder / "test_adapters.py").write_text(
        "import sys\n\ndef test_modules():\n"
        "    heavy = {'torch', 'megatron', 'msgspec', 'click', 'clora', 'networkx'} & set(sys.modules)\n"
        "    assert not heavy\n    assert 'clora_inspect.pytest_plugin' in sys.modules\n"
    )
    ran = run(folder)
    assert ran.returncode == 0, ran.stdout


def test_a_file_behind_the_option_is_the_file(folder: Path) -> None:
    (folder / "test_other.py").write_text("def test_fails():\n    assert False\n")
    for word in ("--clora-update=new-only", "--clora-update"):
        ran = run(folder, word, "test_adapters.py")
        assert (ran.returncode, "3 passed" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    assert len(list(folder.glob("__clora__/test_adapters/*.json"))) == 2
    unknown = run(folder, "--clora-update=some", "test_adapters.py")
    assert unknown.returncode == 4
    assert "--clora-update" in unknown.stderr


MISUSES = {
    'clora_snapshot("llama3-8b")': "is compared and not called",
    '"llama3-8b" == clora_snapshot': "this is str",
    "clora_snapshot == Plan()": "this is a plan of one model",
    "clora_snapshot != None": "this is NoneType",
}


def test_misuse_of_the_fixture_says_how_to_use_it(folder: Path) -> None:
    tests = [f"def test_{number}(clora_snapshot):\n    assert {misuse}\n" for number, misuse in enumerate(MISUSES)]
    (folder / "test_adapters.py").write_text("\n".join(["class Plan:\n    pass\n", *tests]))
    ran = run(folder, "--clora-update")
    assert f"{len(MISUSES)} failed" in ran.stdout
    for said in MISUSES.values():
        assert said in ran.stdout
    assert ran.stdout.count("assert plan_job(Job(model=...)) == clora_snapshot") >= len(MISUSES)
    assert not (folder / "__clora__").exists()


def test_the_example_of_the_readme_runs(folder: Path) -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    example = readme.partition('```python title="test_placement.py"\n')[2].partition("```")[0]
    (folder / "test_adapters.py").write_text(example)
    assert run(folder, "--clora-update", "test_adapters.py").returncode == 0
    assert run(folder).returncode == 0
