"""The declared dependencies: the supported releases of megatron-core are the same everywhere, and
what megatron-core imports without declaring it comes with us.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from clora.megatron_releases import PINNED, SUPPORTED
from clora_inspect.rules.environment import UntestedVersion

ROOT = Path(__file__).parents[3]

UNDECLARED = {
    "psutil": "saving a checkpoint hangs without it: the processes that write it die, and nobody notices",
    "einops": "Mamba mixers and gated delta nets cannot be made without it",
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_what_megatron_core_needs_without_saying_so_comes_with_us(name: str) -> None:
    def needed(package: str) -> set[str]:
        declared = [Requirement(line) for line in requires(package) or ()]
        return {requirement.name for requirement in declared if requirement.marker is None}

    assert name in needed("clora-inspect"), UNDECLARED[name]
    assert name not in needed("megatron-core"), "it is declared there now: leave it out here"


def test_the_releases_of_megatron_core_are_the_same_everywhere() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [line for line in declared if line.startswith("megatron-core")] == [f"megatron-core>={SUPPORTED[0]}"]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in constraints if line.startswith("megatron-core")] == [f"megatron-core=={PINNED}"]
    assert PINNED in SUPPORTED
    assert sorted(SUPPORTED, key=Version) == list(SUPPORTED)
    first, last = (".".join(each.split(".")[:2]) for each in (SUPPORTED[0], SUPPORTED[-1]))
    assert f"Good: megatron-core {first} to {last}" in str(UntestedVersion.__doc__)
