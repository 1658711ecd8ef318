"""The proofs, one file each. Each has a function `prove` that takes the `ModelUnderTest` and
returns `Proved`, or raises `Refuted` or `NotRun`. `verify/proof_table.py` lists them.

The files without `prove` are shared by several proofs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.verify.model.model_under_test import ModelUnderTest
    from clora_inspect.verify.outcome import Proved
    from clora_inspect.verify.proof_table import Proof


def function_of(proof: Proof) -> Callable[[ModelUnderTest], Proved]:
    """Import the file of `proof` and return its function `prove`."""
    function: Callable[[ModelUnderTest], Proved] = import_module(f"{__name__}.{proof.module}").prove
    return function
