"""`Reference`: the Megatron-Bridge that will train a job, and its faults. Pure.

Megatron-Bridge has the reference implementation of canonical LoRA. Releases differ in their faults,
so rules ask which faults the release has that is installed, or that the job names. What each
release does was found out by running it: `python -m tests.upstream.reference_probes`. Here its
source is parsed at most and not imported, because importing it needs Transformer Engine. If no
release is installed and none is named, we assume the faults of all, and a finding says which
releases have it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.bridge.installed import find

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = "../models/transformer_config.py"
"""The file of the config that a model is built with, relative to the folder of the LoRA sources."""


class Fault(StrEnum):
    """A behaviour of Megatron-Bridge that is wrong, or differs from clora's."""

    REGEX_WILDCARDS = "wildcards are regular expressions"
    FIRST_MATCH_WINS = "the first target that matches a module wins"
    PARTIAL_CRASHES = "the forward calls an adapter that is left out"
    PARTIAL_UNSAVED = "an adapter that is left out breaks the checkpoint"
    CATCH_ALL = "a wildcard that matches a fused linear wraps it without an adapter"
    EXCLUDE_CRASHES = "exclude_modules is asserted away"
    NO_TARGET_IS_ONE_KIND = "no target at all adapts the first kind of linear only"
    UNMATCHED_IS_SILENT = "a target that selects nothing is not reported"
    EMBEDDING_BREAKS_OFF = "a target without LoRA form stops the surgery half-way"
    NO_OUTPUT_GATE = "the query part is sized without the output gate"
    SPLITS_UNGATED = "an fc1 without a gate is split in two"
    SPLITS_EXPERTS = "fc1 of grouped experts is split in two"
    ROUTER_CRASHES = "an adapted router takes no padding mask"
    APPLIED_TWICE = "a second application freezes every adapter"
    RECOMPUTE = "a recomputed piece whose input wants no gradient trains nothing"
    DELAYED_GRADIENTS = "wrappers have no backward_dw"
    QK_CLIP = "wrappers have no weight for qk_clip"
    QK_CLIP_LOST = "qk_clip of latent attention scales a copy of the weight"
    ABSORPTION = "wrappers cannot be absorbed into a cache of latents"
    ODD_RANK = "a rank that tp does not divide stops the surgery half-way"
    GROUPS_BELOW_TP = "q, k and v are interleaved by the head counts of all ranks"
    ODD_TOKENS = "q, k and v are interleaved for a multiple of tp tokens only"
    WEIGHT_TP_INIT = "A is drawn with the fan of one rank's shard"
    SHARDS_DUPLICATED = "adapters on replicated linears are split under sequence parallelism"
    SHARED_OVERLAP = "adapters of the overlapped shared expert are reduced twice, or crash"
    EXPERT_TP = "expert adapters under expert tensor parallelism are not exact"
    EXPERT_GROUP = "expert adapters are averaged over the wrong ranks"
    UNSYNCHRONISED_EXPERTS = "shared expert adapters start differently on every expert-parallel rank"
    DRIFTING_EXPERTS = "shared expert adapters get another gradient on every expert-parallel rank"
    FUSED_GRADIENTS = "shared expert adapters do so where weight gradients are fused"
    META_EXPERTS = "shared expert adapters cannot be made on the meta device"
    SPLIT_FACTORY = "up and gate adapters are saved as if they were fused"
    EXPERT_AXIS = "shared expert adapters are saved with a dim for the experts"
    EXPERT_EXPORT = "gate and up rows of experts change places at export"
    LEAKS_PATTERNS = "nothing turns targets into names of Hugging Face"


RUN = ("0.3.1", "0.4.2", "0.5.1", "0.6.0", "0.7.0")
"""Releases on which `tests/upstream/reference_probes.py` ran. 0.7.0 is not released: it is the main
branch of 2026-08-22.
"""

OLDEST = "0.2"
"""The oldest release that canonical LoRA was read in. It was not run."""


class History(NamedTuple):
    """The releases that have one fault."""

    since: str = OLDEST
    mended: str | None = None
    """The first release without it; None where `RUN` has none."""
    probed: tuple[str, ...] = RUN

    def is_in(self, version: str) -> bool:
        """Return whether the release called `version` has the fault."""
        release = _release(version)
        return _release(self.since) <= release and (self.mended is None or release < _release(self.mended))

    @property
    def label(self) -> str:
        """The releases, for messages."""
        if self.mended is None:
            return f"releases from {self.since} on"
        if self.since == OLDEST:
            return f"releases before {self.mended}"
        return f"releases from {self.since} to before {self.mended}"


HISTORIES: dict[Fault, History] = {
    Fault.UNMATCHED_IS_SILENT: History(mended="0.5.0"),
    Fault.SPLITS_EXPERTS: History(mended="0.4.0"),
    Fault.ROUTER_CRASHES: History(since="0.3.0", mended="0.4.0"),
    Fault.QK_CLIP_LOST: History(since="0.6.0"),
    Fault.EXPERT_GROUP: History(since="0.5.0", mended="0.6.0"),
    Fault.UNSYNCHRONISED_EXPERTS: History(mended="0.6.0"),
    Fault.DRIFTING_EXPERTS: History(mended="0.5.1"),
    Fault.META_EXPERTS: History(since="0.6.0"),
    Fault.EXPERT_AXIS: History(since="0.5.1"),
    Fault.EXPERT_EXPORT: History(since="0.5.0"),
    Fault.LEAKS_PATTERNS: History(mended="0.4.0"),
}
"""Fault -> its releases. Those that are not here are in all of them."""


def history_of(fault: Fault) -> History:
    """Return the releases that have `fault`."""
    return HISTORIES.get(fault, History())


def faults_of(version: str) -> frozenset[Fault]:
    """Return the faults of the release called `version`, by what ran; a newer release than any that
    ran has those of the newest.
    """
    return frozenset(fault for fault in Fault if history_of(fault).is_in(version))


@dataclass(frozen=True, slots=True)
class Reference:
    """A release of Megatron-Bridge, or what we assume if none is installed."""

    version: str | None
    """None when no release is installed, and the job names none."""
    faults: frozenset[Fault]
    sets_etp: bool = False
    """True if it takes 1 for an etp that is not set where ep > 1. megatron-core, and releases
    before 0.6, take tp.
    """
    about: Fault | None = None
    """The fault that a message is about."""

    @property
    def label(self) -> str:
        """Name and version for messages, such as `Megatron-Bridge 0.3.1`."""
        if self.version:
            return f"Megatron-Bridge {self.version}"
        which = history_of(self.about).label if self.about else f"releases from {OLDEST} on"
        return f"Megatron-Bridge (none is installed here; {which})"


ANY_RELEASE = Reference(None, frozenset(Fault))
"""A release with all faults, to assume where none is installed."""

SETS_ETP = "0.6.0"
"""The first release that takes 1 for an etp that is not set where ep > 1."""


@cache
def installed() -> Reference:
    """Return the Megatron-Bridge of this environment; `ANY_RELEASE` when there is none."""
    found = find()
    return ANY_RELEASE if found is None else probed(found.release, found.folder / "peft")


MAIN = "main"
"""Names the main branch, in place of a release."""


def is_release(name: str) -> bool:
    """Return whether `name` names a release, such as `0.4.2`, or is `MAIN`."""
    return name == MAIN or re.fullmatch(r"\d+\.\d+(\.\d+)?([a-z.+-].*)?", name) is not None


@cache
def released(version: str) -> Reference:
    """Return the release called `version`, which need not be installed. `MAIN` is the newest that
    ran.
    """
    if version == MAIN:
        return replace(released(RUN[-1]), version=MAIN)
    return Reference(version, faults_of(version), _release(version) >= _release(SETS_ETP))


def probed(version: str, folder: Path) -> Reference:
    """Return the release called `version`, with its `peft` package in `folder`.

    It has the faults of its number, except those that its source shows to be mended: a build from
    source is often newer than its number.
    """
    source = {
        name: _source(folder / f"{name}.py") for name in ("utils", "canonical_lora", "module_matcher", "lora_layers")
    }
    mended = {fault for fault, is_mended in PROBES.items() if is_mended(source)}
    sets_etp = _assigns_one(_source(folder / CONFIG), "expert_tensor_parallel_size")
    return Reference(version, faults_of(version) - mended, sets_etp)


Source = dict[str, ast.Module]


def _counts_local_heads(source: Source) -> bool:
    interleave = _function(source["canonical_lora"], "_interleave_qkv")
    return _mentions(interleave, "tensor_model_parallel_size", "tp_size", "world_size")


# A fix of one of these faults cannot do without a name that the probe looks for.
PROBES: dict[Fault, Callable[[Source], bool]] = {
    Fault.REGEX_WILDCARDS: lambda source: _mentions(
        _function(source["utils"], "wildcard_match"), "escape", "fnmatch", "fnmatchcase"
    ),
    Fault.NO_OUTPUT_GATE: lambda source: _mentions(source["canonical_lora"], "attention_output_gate"),
    Fault.SPLITS_UNGATED: lambda source: _mentions(source["canonical_lora"], "gated_linear_unit"),
    Fault.PARTIAL_CRASHES: lambda source: _tests_none(_function(source["canonical_lora"], "forward")),
    Fault.GROUPS_BELOW_TP: _counts_local_heads,
    Fault.ODD_TOKENS: _counts_local_heads,
}
"""Fault -> a test of the source that tells whether the fault is mended in it."""


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
    """Return the numbers of a release: `0.6.1rc2` -> (0, 6, 1), `0.6` -> (0, 6, 0)."""
    # `packaging` would read this too, but is no dependency of ours.
    numbers = []
    for piece in [*version.split("."), "0", "0"][:3]:
        digits = piece[: len(piece) - len(piece.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)
