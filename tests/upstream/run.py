"""Try this checkout on source trees of megatron-core and Megatron-Bridge, and write
docs/can-i-use.md.

    make upstream MCORE=path/to/Megatron-LM BRIDGE=path/to/Megatron-Bridge
    python tests/upstream/run.py MCORE --release "main of 2026-08-22"
    python tests/upstream/run.py MCORE --bridge BRIDGE --only bridge --only jobs

Plans all configured jobs and compares them with `snapshots/`, runs the library's tests, and proves
the surgery of six kinds of models, two of them on two ranks. With Megatron-Bridge also once its own
surgery, and the tests of jobs that use `clora.bridge`. Prints one line for each. A difference fails
unless `differences.toml` lists it, and a listed one fails that no longer occurs.

The exit status is 0 if all is well, 1 if something differs, and 2 if a path is wrong.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import can_i_use
from listed_differences import FILE, Judged, judge, read_list
from source_tree import NoSourceTreeError, SourceTree, source_tree
from upstream_rows import BRIDGE_PARTS, PARTS, rows


def main(words: list[str] | None = None) -> int:
    """Run, print, write the page, and return the exit status."""
    options = _options(words)
    try:
        tree = source_tree(options.megatron, options.bridge, options.bridge_release)
    except NoSourceTreeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    release = options.release or tree.version
    bridge = f", Megatron-Bridge {tree.bridge_release}" if tree.bridge else ""
    print(f"megatron-core {release}{bridge}, Python {platform.python_version()}")
    listed = read_list(FILE.read_text())
    judged = []
    for row in rows(tree, tuple(options.only or PARTS)):
        judged.append(judge(row, tree.series, listed))
        print(line(judged[-1]), flush=True)
    _write(judged, tree, release)
    bad = sum(not one.is_good for one in judged)
    print(f"{len(judged)} rows, {bad} bad; {can_i_use.PAGE.name} is written")
    return int(bad > 0)


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("megatron", type=Path, metavar="MCORE", help="folder that holds megatron/core")
    parser.add_argument("--bridge", type=Path, help="folder that holds src/megatron/bridge")
    parser.add_argument("--bridge-release", help="what the page calls that; default: the version that it says")
    parser.add_argument("--release", help="what the page calls it; default: the version that the tree says")
    parser.add_argument("--only", action="append", choices=PARTS, help="run these rows only; repeatable")
    return parser.parse_args(words)


def line(judged: Judged) -> str:
    """Return what is printed about a row; bad ones have a line more for each difference."""
    outcome = "FAILED" if not judged.is_good else "differs as listed" if judged.reasons else "ok"
    more = [
        *(f"    {sentence}" for sentence in judged.unlisted),
        *(f"    listed, but no longer so: {change}" for change in judged.gone),
    ]
    return "\n".join([f"{judged.row.name:<28} {outcome:<18} {judged.row.summary}", *more])


def _write(judged: list[Judged], tree: SourceTree, release: str) -> None:
    bridge = f' BRIDGE=PATH BRIDGE_RELEASE="{tree.bridge_release}"' if tree.bridge else ""
    named = f' RELEASE="{release}"' if release != tree.version else ""
    new = [
        can_i_use.result_of(
            one,
            release=release,
            bridge=tree.bridge_release if one.row.name.startswith(BRIDGE_PARTS) else "",
            version=tree.version,
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            python=platform.python_version(),
            command=f"make upstream MCORE=PATH{bridge}{named}",
        )
        for one in judged
    ]
    # Read only now: another run may have written meanwhile.
    results = can_i_use.merged(can_i_use.read_results(can_i_use.RESULTS.read_text()), new)
    can_i_use.RESULTS.write_text(can_i_use.write_results(results))
    can_i_use.PAGE.write_text(can_i_use.page(results))


if __name__ == "__main__":
    sys.exit(main())
