"""`SourceTree`: checkouts of megatron-core and Megatron-Bridge that our code is run with."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clora_inspect.job.versions import release_of_source

REPOSITORY = Path(__file__).parents[2]


class NoSourceTreeError(Exception):
    """The folder holds no megatron-core, or no Megatron-Bridge."""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The folders that come first on PYTHONPATH, and which release they are."""

    megatron: Path
    """Holds `megatron/core`: a checkout, or what `pip install --target` made of a wheel."""
    version: str
    """As the tree itself says it: `0.17.1`."""
    bridge: Path | None = None
    """Holds `megatron/bridge`; None to leave Megatron-Bridge out."""
    bridge_release: str = ""
    """The name of that release: `0.6.0`, `main of 2026-08-22`; empty without Megatron-Bridge."""

    @property
    def series(self) -> str:
        """The part of the version that differences are listed by: `0.17`."""
        return ".".join(self.version.split(".")[:2])

    def environment(self) -> dict[str, str]:
        """Return the variables of a process that imports this tree and this checkout of ours."""
        # `megatron` is a namespace package: two trees on the path make one package.
        folders = [self.megatron, *([self.bridge] if self.bridge else []), REPOSITORY]
        path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
        # A test that runs this tool has variables of its own test run.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        # The tests of `clora.bridge` ask for the release by its number, or for `main`.
        release = {"CLORA_BRIDGE_RELEASE": self.bridge_release.split()[0]} if self.bridge else {}
        return {"OMP_NUM_THREADS": "1", **kept, **release, "PYTHONPATH": os.pathsep.join(path)}

    def run(self, *words: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run `python -m WORDS` with this tree, in the root of the repository."""
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=REPOSITORY,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def source_tree(megatron: Path, bridge: Path | None = None, bridge_release: str | None = None) -> SourceTree:
    """Find the release in `megatron`, and the package in `bridge`, a checkout or its `src`.

    Args:
        megatron: holds `megatron/core`.
        bridge: None to leave Megatron-Bridge out.
        bridge_release: what that is called; default: the version that it says.

    Raises:
        NoSourceTreeError: one of the folders holds something else.
    """
    core = megatron / "megatron" / "core"
    version = release_of_source(core)
    if version is None:
        raise NoSourceTreeError(
            f"MCORE={megatron} is no source tree of megatron-core: {core / 'package_info.py'} does not say its version"
        )
    if bridge is not None:
        bridge = next((folder for folder in (bridge / "src", bridge) if (folder / "megatron/bridge").is_dir()), None)
        if bridge is None:
            raise NoSourceTreeError("BRIDGE is no source tree of Megatron-Bridge: it has no src/megatron/bridge")
        bridge = bridge.resolve()
        bridge_release = bridge_release or release_of_source(bridge / "megatron/bridge")
        if not bridge_release:
            raise NoSourceTreeError("BRIDGE does not say its version; name it: --bridge-release 0.6.0")
    return SourceTree(megatron.resolve(), version, bridge, bridge_release if bridge and bridge_release else "")
