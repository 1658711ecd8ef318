"""`Reference`: the Megatron-Bridge that will train a job, and its faults. Pure.

Megatron-Bridge has the reference implementation of canonical LoRA. Releases differ in their faults,
so rules ask which faults the installed release has. Its source is parsed and not imported, because
importing it needs Transformer Engine. If no release is installed, we assume the faults of the
releases that we examined, 0.2 to 0.6, and the finding says so.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGE = "megatron-bridge"
FOLDER = "megatron/bridge/peft"
"""Folder of the LoRA sources below site-packages."""

CONFIG = "../models/transformer_config.py"
"""The file of the config that a model is built with, relative to `FOLDER`."""


class Fault(StrEnum):
    """A behaviour of Megatron-Bridge that is wrong, or differs from clora's."""

    REGEX_WILDCARDS = "wildcards are regular expressions"
    FIRST_MATCH_WINS = "the first target that matches a module wins"
    PARTIAL_CRASHES = "an adapter that is left out is called all the same"
    EXCLUDE_CRASHES = "exclude_modules is asserted away"
    NO_OUTPUT_GATE = "the query part is sized without the output gate"
    SPLITS_UNGATED = "an fc1 without a gate is split in two"
    GLOBAL_HEAD_COUNTS = "q, k and v are interleaved by head counts of all ranks"
    WEIGHT_TP_INIT = "A is drawn with the fan of one rank's shard"
    SHARDS_DUPLICATED = "adapters on replicated linears are split under sequence parallelism"
    UNSYNCHRONISED_EXPERTS = "shared expert adapters start differently on every expert-parallel rank"
    EXPERT_TP = "expert adapters under expert tensor parallelism are not exact"
    EXPERT_GROUP = "expert adapters are averaged over the wrong ranks"
    SHARED_OVERLAP = "the overlapped shared expert is reduced twice"
    RECOMPUTE = "a recomputed piece whose input wants no gradient trains nothing"
    FAST_PATHS = "wrappers lack what megatron-core's fast paths read of a linear"
    LEAKS_PATTERNS = "patterns go into adapter_config.json as they are"
    SPLIT_FACTORY = "up and gate adapters are saved as if they were fused"


@dataclass(frozen=True, slots=True)
class Reference:
    """A release of Megatron-Bridge, or what we assume if none is installed."""

    version: str | None
    """None when no release is installed."""
    faults: frozenset[Fault]
    sets_etp: bool = False
    """True if it takes 1 for an etp that is not set where ep > 1. megatron-core, and releases
    before 0.6, take tp.
    """

    @property
    def label(self) -> str:
        """Name and version for messages, such as `Megatron-Bridge 0.3.1`."""
        return (
            f"Megatron-Bridge {self.version}"
            if self.version
            else "Megatron-Bridge (none is installed here; releases 0.2 to 0.6)"
        )


ANY_RELEASE = Reference(None, frozenset(Fault))
"""A release with all faults, to assume where none is installed."""


@cache
def installed() -> Reference:
    """Return the Megatron-Bridge of this environment; `ANY_RELEASE` when there is none."""
    # importlib.metadata imports the parser of e-mails, for which `explain` need not wait.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return ANY_RELEASE
    return probed(package.version, Path(str(package.locate_file(FOLDER))))


def probed(version: str, folder: Path) -> Reference:
    """Return the release called `version`, with its `peft` package in `folder`.

    It has every fault except those that its source shows to be fixed, and those that a release
    up to `version` is known to have fixed.
    """
    source = {
        name: _source(folder / f"{name}.py") for name in ("utils", "canonical_lora", "module_matcher", "lora_layers")
    }
    fixed = {fault for fault, is_fixed in PROBES.items() if is_fixed(source)}
    fixed |= {fault for fault, first in FIXED_IN.items() if _release(version) >= first}
    return Reference(
        version, frozenset(Fault) - fixed, _assigns_one(_source(folder / CONFIG), "expert_tensor_parallel_size")
    )


Source = dict[str, ast.Module]

# A fix of one of these faults cannot do without a name that the probe looks for.
PROBES: dict[Fault, Callable[[Source], bool]] = {
    Fault.REGEX_WILDCARDS: lambda source: _mentions(
        _function(source["utils"], "wildcard_match"), "escape", "fnmatch", "fnmatchcase"
    ),
    Fault.NO_OUTPUT_GATE: lambda source: _mentions(source["canonical_lora"], "attention_output_gate"),
    Fault.SPLITS_UNGATED: lambda source: _mentions(source["canonical_lora"], "gated_linear_unit"),
    Fault.PARTIAL_CRASHES: lambda source: _tests_none(_function(source["canonical_lora"], "forward")),
    Fault.GLOBAL_HEAD_COUNTS: lambda source: _mentions(
        _function(source["canonical_lora"], "_interleave_qkv"), "tensor_model_parallel_size", "tp_size", "world_size"
    ),
}
"""Fault -> a test of the source that tells whether the fault is fixed in it."""

FIXED_IN: dict[Fault, tuple[int, ...]] = {Fault.UNSYNCHRONISED_EXPERTS: (0, 6), Fault.EXPERT_GROUP: (0, 6)}
"""Fault that its source does not show -> the first release without it."""


def _source(path: Path) -> ast.Module:
    try:
        return ast.parse(read_regular_file(path, LARGEST_SOURCE))
    except (OSError, SyntaxError, ValueError):
        # A file that cannot be read shows no fix: all faults are assumed.
        return ast.Module(body=[], type_ignores=[])


def _function(tree: ast.Module, name: str) -> ast.Module:
    """Collect the functions called `name`, methods included."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name]
    return ast.Module(body=list(found), type_ignores=[])


def _mentions(tree: ast.AST, *names: str) -> bool:
    """Return whether the code uses one of `names`, also as the string of a `getattr`. Comments and
    docstrings do not count.
    """
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.add(node.value)
    return not used.isdisjoint(names)


def _assigns_one(tree: ast.AST, field: str) -> bool:
    """Return whether the code sets the field called `field` of any object to 1."""
    return any(
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and node.value.value == 1
        and any(isinstance(target, ast.Attribute) and target.attr == field for target in node.targets)
        for node in ast.walk(tree)
    )


def _tests_none(tree: ast.AST) -> bool:
    """Return whether the code compares anything with None."""
    return any(
        isinstance(node, ast.Compare)
        and any(isinstance(right, ast.Constant) and right.value is None for right in node.comparators)
        for node in ast.walk(tree)
    )


def _release(version: str) -> tuple[int, ...]:
    """Return major and minor number: `0.6.1rc2` -> (0, 6)."""
    # `packaging` would read this too, but is no dependency of ours.
    numbers = []
    for piece in version.split(".")[:2]:
        digits = piece[: len(piece) - len(piece.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)
