"""The oldest supported release of megatron-core: all plans, and the library's tests.

The release is installed without its dependencies into a folder of pytest's cache. Where the package
index cannot be reached the tests are skipped, and in CI they fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from listed_differences import FILE, judge, read_list
from source_tree import source_tree
from upstream_rows import library_row, plan_rows, version_row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from source_tree import SourceTree
    from upstream_rows import Row

OLDEST = "0.16.0"

KNOW_NO_RELEASE = ("test_fused.py", "test_patterns.py", "folders/test_new_folder.py", "folders/test_regular_file.py")
"""Tests of modules that do not import megatron-core."""


@pytest.fixture(scope="module")
def oldest(wheel_of: Callable[[str], Path]) -> SourceTree:
    return source_tree(wheel_of(f"megatron-core=={OLDEST}"))


def _bad(oldest: SourceTree, *rows: Row) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    listed = read_list(FILE.read_text())
    judged = [judge(row, oldest.series, listed) for row in rows]
    return [(one.row.name, one.unlisted, one.gone) for one in judged if not one.is_good]


def test_plans_are_those_of_the_snapshots(oldest: SourceTree) -> None:
    assert _bad(oldest, version_row(oldest), *plan_rows(oldest)) == []


def test_the_library_works(oldest: SourceTree) -> None:
    row = library_row(oldest, *(f"--ignore=tests/clora/{name}" for name in KNOW_NO_RELEASE))
    assert _bad(oldest, row) == []
