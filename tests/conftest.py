"""Shared by tests of several folders: the mark `fast`, and `wheel_of`, which installs releases that
cannot be dependencies, because their own dependencies want CUDA.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

# Two workers with two threads each wait for each other on two cores: small tensors then take five
# times as long. Set before torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

HERE = Path(__file__).parent

FAST = (
    "clora/test_canonical_lora.py",
    "clora/test_fused.py",
    "clora/test_hf_names.py",
    "clora/test_patterns.py",
    "clora/test_planner.py",
    "clora/test_surgery.py",
    "clora/test_surgery_meta.py",
    "clora/test_wrappers.py",
    "clora_inspect/check",
    "clora_inspect/config",
    "clora_inspect/formats",
    "clora_inspect/graph",
    "clora_inspect/job",
    "clora_inspect/rules",
    "clora_inspect/snapshot",
    "clora_inspect/sources",
    "clora_inspect/virtual/test_building.py",
    "clora_inspect/virtual/test_restoration.py",
    "clora_inspect/virtual/test_unknown_names.py",
    "clora_inspect/verify/test_proof_table.py",
    "clora_inspect/verify/test_premises.py",
    "functional/test_explain.py",
    "functional/test_graph_command.py",
    "functional/test_help.py",
    "functional/test_plan_command.py",
    "golden/test_golden_configs.py",
    "tui/test_keys.py",
    "tui/test_panes.py",
    "tui/test_plan_file.py",
    "tui/test_tree_model.py",
    "tui/test_what_if_form.py",
)
"""Files and folders of the tests marked `fast`: each package, without processes of ranks, terminals
and forwards of many models.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the files and folders in `FAST`."""
    for item in items:
        path = item.path.relative_to(HERE)
        if not {str(path), *map(str, path.parents)}.isdisjoint(FAST) and not item.get_closest_marker("nightly"):
            item.add_marker("fast")


@pytest.fixture(scope="session", autouse=True)
def _state_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the secret of the cache of plans out of the home of whoever runs the tests."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def wheel_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function: `wheel_of("name==1.2.3")` is a folder with that release and none of its
    dependencies, kept between runs in pytest's cache.
    """
    # Without the cache plugin (`-p no:cacheprovider`) the wheels are kept for one session.
    cache = getattr(request.config, "cache", None)

    def folder_of(requirement: str) -> Path:
        name = requirement.replace("==", "-")
        shelf = Path(cache.mkdir("wheels") if cache else tmp_path_factory.getbasetemp().parent)
        folder = shelf / name
        if not folder.is_dir():
            _install(requirement, folder)
        return folder

    return folder_of


def _install(requirement: str, folder: Path) -> None:
    """Install into a temporary folder and rename it, so that `folder` is always complete, even if
    two workers install at once or one is interrupted.
    """
    making = mkdtemp(prefix=f"{folder.name}-", dir=folder.parent)
    try:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--target",
            making,
        ]
        done = subprocess.run([*pip, requirement], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            reason = f"the wheel of {requirement} cannot be installed: {done.stderr.strip().splitlines()[-1:]}"
            # Without a network the test is skipped. In CI a skip would go unnoticed.
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            Path(making).rename(folder)
        except OSError:
            # Another worker was faster: its folder is as good as this one.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
