"""Two cuDNN libraries in one environment are found by their names; one is no reason for a note."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect.machine.cudnn import Cudnn, cudnn_note, cudnn_of_packages, cudnn_of_system

if TYPE_CHECKING:
    from pathlib import Path

HERE = Cudnn("9.20.0.48", "nvidia-cudnn-cu13")


def installed(folder: Path, name: str, release: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{release}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")


def library(folder: Path, release: str) -> None:
    """Make a library as a toolkit has it: two links to one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"libcudnn.so.{release}").touch()
    (folder / "libcudnn.so.9").symlink_to(f"libcudnn.so.{release}")
    (folder / "libcudnn.so").symlink_to("libcudnn.so.9")


def test_packages_are_found_by_their_metadata(tmp_path: Path) -> None:
    assert cudnn_of_packages([str(tmp_path)]) == []
    installed(tmp_path, "nvidia-cudnn-cu13", "9.20.0.48")
    assert cudnn_of_packages([str(tmp_path)]) == [HERE]
    installed(tmp_path, "nvidia-cudnn-cu12", "9.10.2.21")
    both = cudnn_of_packages([str(tmp_path)])
    assert [each.origin for each in both] == ["nvidia-cudnn-cu12", "nvidia-cudnn-cu13"]
    note = cudnn_note(both, [])
    assert note is not None
    assert "nvidia-cudnn-cu12 9.10.2.21 and nvidia-cudnn-cu13 9.20.0.48" in note


def test_libraries_of_the_system_are_found_in_the_order_in_which_they_are_loaded(tmp_path: Path) -> None:
    library(tmp_path / "home/lib64", "9.8.0")
    library(tmp_path / "linked", "9.9.0")
    library(tmp_path / "cuda/targets/x86_64-linux/lib", "9.10.2")
    (tmp_path / "cuda/lib64").symlink_to("targets/x86_64-linux/lib")
    (tmp_path / "linked/libcudnn.so.loop").symlink_to("libcudnn.so.loop")
    environ = {"CUDNN_HOME": str(tmp_path / "home"), "LD_LIBRARY_PATH": f":{tmp_path / 'linked'}", "CUDA_PATH": ""}
    found = cudnn_of_system(environ, [tmp_path / "cuda", tmp_path / "nowhere"])
    assert [each.release for each in found] == ["9.8.0", "9.9.0", "9.10.2"]
    assert found[0].origin == str(tmp_path / "home/lib64")
    assert cudnn_of_system({}, []) == []


@pytest.mark.parametrize(
    ("release", "is_told"), [("9.20.0", False), ("9.20.0.48", False), ("9.10.2", True), ("9", True), ("", True)]
)
def test_another_release_is_told(release: str, is_told: bool) -> None:
    note = cudnn_note([HERE], [Cudnn(release, "/usr/local/cuda/lib64")])
    assert (note is not None) is is_told
    if note is not None:
        assert f"/usr/local/cuda/lib64 {release}".strip() in note
        assert "slower kernels" in note


def test_one_is_enough() -> None:
    assert cudnn_note([HERE], []) is None
    assert cudnn_note([], [Cudnn("9.10.2", "/usr/lib64"), Cudnn("9.8.0", "/usr/lib")]) is None
