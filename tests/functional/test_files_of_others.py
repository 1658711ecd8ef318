"""Files that are not ours are never deleted, overwritten or written through."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import CommandLine

CONFIGURATION = """
snapshots = "FOLDER"
[jobs.j]
model = "llama3-8b"
set.model = { num_layers = 2 }
[jobs.j.lora]
dim = 8
target_modules = ["linear_proj"]
"""

FOREIGN = {
    "package": b'{"name": "app"}',
    "three of our keys": b'{"layout": 1, "totals": 2, "placements": 3}',
    "a plan": b'{"schema": 1, "model": {}}',
    "an array": b"[1, 2]",
    "text": b"notes",
    "binary": b"\xff\x00",
    "nested": b"[" * 100_000,
}

Tree = dict[str, bytes | str | None]


def tree(*folders: Path) -> Tree:
    """Return every path below `folders` with its content; of a link, its target."""
    found: Tree = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if ".clora_cache" not in path.parts:
                kept = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
                found[str(path)] = kept
    return found


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    return tmp_path / "outside"


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "repository"
    (folder / ".git").mkdir(parents=True)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.chdir(folder)
    configure("snapshots")
    return folder


def configure(folder: str, *, dim: int = 8) -> None:
    text = CONFIGURATION.replace("FOLDER", folder).replace("dim = 8", f"dim = {dim}")
    Path("clora-inspect.toml").write_text(text)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("words", [("--snapshot-dir", "."), ()])
def test_prune_leaves_what_is_no_snapshot(
    name: str, words: tuple[str, ...], clora_inspect: CommandLine, repository: Path
) -> None:
    configure(".")
    Path("src").mkdir()
    for file in ("src/package.json", "src/notes.json.new"):
        Path(file).write_bytes(FOREIGN[name])
    before = tree(repository)
    report = clora_inspect("check", "--no-require-snapshot", "--no-cache")
    assert "src" not in report.out
    assert "prune" not in report.out
    ran = clora_inspect("snapshot", "prune", *words)
    assert (ran.status, ran.err) == (0, "")
    assert "src" not in clora_inspect("snapshot", "list").out
    assert tree(repository) == before


@pytest.mark.parametrize("name", FOREIGN)
def test_accept_and_check_overwrite_no_file_of_somebody_else(
    name: str, clora_inspect: CommandLine, repository: Path
) -> None:
    Path("snapshots/j").mkdir(parents=True)
    for ending in (".json", ".json.new"):
        Path(f"snapshots/j/default{ending}").write_bytes(FOREIGN[name])
    before = tree(repository)
    ran = clora_inspect("snapshot", "accept", "--no-cache")
    assert ran.status == 2
    assert "snapshots/j/default.json is no snapshot, and is not overwritten" in ran.err
    report = clora_inspect("check", "--no-cache")
    assert report.status == 1
    assert "move it away" in report.out
    assert tree(repository) == before


def test_a_damaged_snapshot_is_ours(clora_inspect: CommandLine) -> None:
    assert clora_inspect("snapshot", "accept").status == 0
    path = Path("snapshots/j/default.json")
    good = path.read_bytes()
    for damaged in (b"", good[:100], b"<<<<<<< HEAD\n" + good, good.replace(b"linear_proj", b"x", 1)):
        path.write_bytes(damaged)
        assert clora_inspect("check").status == 1
        assert clora_inspect("snapshot", "accept").status == 0
        assert path.read_bytes() == good


@pytest.mark.parametrize("folder", ["ABSOLUTE", "../outside", "link", "../repository/../outside"])
def test_nothing_outside_of_the_repository_changes_unless_it_is_named(
    folder: str, clora_inspect: CommandLine, repository: Path, outside: Path
) -> None:
    Path("link").symlink_to(outside)
    written = str(outside) if folder == "ABSOLUTE" else folder
    configure(written)
    # Snapshots that are right, of a job that is configured and of one that is not.
    assert clora_inspect("snapshot", "accept", "--snapshot-dir", written).status == 0
    (outside / "gone").mkdir()
    (outside / "gone/default.json").write_bytes((outside / "j/default.json").read_bytes())
    (outside / "gone/default.json.new").write_bytes((outside / "j/default.json").read_bytes())
    configure(written, dim=16)
    before = tree(repository, outside)
    report = clora_inspect("check")
    assert report.status == 1
    assert "prune" not in report.out
    for words in (["snapshot", "accept"], ["snapshot", "prune"]):
        ran = clora_inspect(*words)
        assert ran.status == 2
        assert "where snapshots may be changed" in ran.err
        assert f"--snapshot-dir {repository / written}" in ran.err
    assert tree(repository, outside) == before
    # Asked for by name, both work, with the path that the message gives.
    assert clora_inspect("snapshot", "accept", "--snapshot-dir", str(repository / written)).status == 0
    assert clora_inspect("snapshot", "prune", "--snapshot-dir", str(repository / written)).status == 0
    assert sorted(path.name for path in outside.rglob("*.json*")) == ["default.json"]


@pytest.mark.parametrize("what", ["file", "job", "dangling"])
def test_nothing_is_written_through_a_link(
    what: str, clora_inspect: CommandLine, repository: Path, outside: Path
) -> None:
    assert clora_inspect("snapshot", "accept").status == 0
    snapshot = Path("snapshots/j/default.json")
    (outside / "default.json").write_bytes(snapshot.read_bytes())
    (outside / "default.json.new").write_bytes(b"")
    snapshot.unlink()
    if what == "job":
        snapshot.parent.rmdir()
        snapshot.parent.symlink_to(outside)
    else:
        target = outside / ("default.json" if what == "file" else "missing")
        snapshot.symlink_to(target)
        Path(f"{snapshot}.new").symlink_to(outside / "default.json.new")
    configure("snapshots", dim=16)
    before = tree(repository, outside)
    assert clora_inspect("check").status == 1
    assert clora_inspect("snapshot", "accept").status == 2
    assert clora_inspect("snapshot", "prune").status == 0
    assert tree(repository, outside) == before


def test_attributes_are_written_into_a_folder_of_ours_only(clora_inspect: CommandLine, outside: Path) -> None:
    configure(".")
    assert clora_inspect("snapshot", "accept").status == 0
    assert not Path(".gitattributes").exists()
    configure("snapshots")
    assert clora_inspect("snapshot", "accept").status == 0
    assert "eol=lf" in Path("snapshots/.gitattributes").read_text()
    configure("other")
    Path("other").mkdir()
    Path("other/.gitattributes").symlink_to(outside / "missing")
    assert clora_inspect("snapshot", "accept").status == 0
    assert not list(outside.iterdir())


def test_a_name_that_no_folder_can_have(clora_inspect: CommandLine) -> None:
    configure(r"a\u0000b")
    for words in (["snapshot", "accept"], ["snapshot", "prune"], ["diff", "j"], ["snapshot", "show", "j"]):
        assert clora_inspect(*words).status == 2
    assert clora_inspect("check").status == 1
