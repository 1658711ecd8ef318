"""The version of megatron-core is that of the package that an import finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE_INFO = 'MAJOR = 0\nMINOR = 99\nPATCH = 3\nPRE_RELEASE = "rc1"\n'
SEEN = "from clora_inspect.job.versions import versions; print(versions()['megatron-core'])"


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        # A source tree is imported before the installed release, whose metadata would be found.
        ({"package_info.py": PACKAGE_INFO}, "0.99.3rc1"),
        ({"package_info.py": PACKAGE_INFO.replace('"rc1"', "''")}, "0.99.3"),
        # Without a version of its own, a tree is taken for what is installed.
        ({"package_info.py": "VERSION = (0, 99, 3)\n"}, None),
        ({}, None),
    ],
)
def test_the_version_is_that_of_the_package_that_is_imported(
    tmp_path: Path, files: dict[str, str], seen: str | None
) -> None:
    core = tmp_path / "megatron" / "core"
    core.mkdir(parents=True)
    for name, text in {"__init__.py": "raise SystemExit('imported')", **files}.items():
        (core / name).write_text(text)
    assert _seen(tmp_path) == (seen or _seen())


def _seen(*first: Path) -> str:
    path = os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", SEEN], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
