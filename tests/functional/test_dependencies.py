"""What megatron-core imports when it is needed and does not ask for when it is installed, our users
get from us.
"""

from __future__ import annotations

from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

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
