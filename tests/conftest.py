"""What tests of several folders share: released packages that cannot be dependencies, because their
own want CUDA.
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


@pytest.fixture(scope="session")
def wheel_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`wheel_of("name==1.2.3")`: a folder with that release and none of its dependencies, kept
    between runs where pytest keeps anything.
    """
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
    """Into another folder first: what stands under the name is whole, also when workers do this at
    once or one is interrupted.
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
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            Path(making).rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
