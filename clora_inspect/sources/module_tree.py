"""Describe the base model: its class, the number of modules of each class, and a hash of all
modules. LoRA and layout change none of this.

A snapshot keeps these facts, to tell a base model that changed (another release of megatron-core,
another spec, one more layer) from adapters that changed. The hash covers the path of every module
with global layer numbers, its class, and the size of its own parameters in the whole model. Modules
that a release has only renamed have their oldest name in it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from clora import linears
from clora.layer_pattern import without_release
from clora.wrappers import base_class_of
from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement, Plan, Skip

# The layout decides how many sequential experts a rank has, so all of a layer share one entry.
_EXPERT = re.compile(r"local_experts\.\d+")

Module = tuple[str, str, int]
"""Global path, class name, elements of its own parameters in the whole model."""


class TreeFacts(NamedTuple):
    """Facts of the base model that neither LoRA nor layout change."""

    class_name: str
    modules: dict[str, int]
    """Class name -> number of modules in the whole model."""
    fingerprint: str
    """Hash of every module's path, class and size."""


def stage_modules(plan: Plan, chunks: Sequence[nn.Module]) -> list[Module]:
    """Return the modules of one rank, in the order of `plan`, which was made of `chunks`."""
    inner = [linears.unwrap(chunk) for chunk in chunks]
    tp = linears.tensor_parallel_size(inner[0])
    copies = [linears.copied_parameters(chunk) for chunk in inner]
    records: tuple[Placement | Skip, ...] = (*plan.placements, *plan.skipped)
    paths = {(record.chunk, record.module): record.global_layer for record in records}
    found: dict[str, tuple[str, int]] = {"": (base_class_of(inner[0]).__name__, 0)}
    for (chunk, path), layer in paths.items():
        module = inner[chunk].get_submodule(path)
        numel = sum(1 for _ in module.parameters(recurse=False)) and linears.model_numel(
            module, linears.describe(module, path), tp, copies[chunk]
        )
        whole = without_release(_EXPERT.sub("local_experts.*", global_path(path, layer)))
        found[whole] = (base_class_of(module).__name__, found.get(whole, ("", 0))[1] + numel)
    return [(path, name, numel) for path, (name, numel) in found.items()]


def bypassing_modules(chunks: Sequence[nn.Module]) -> dict[str, str]:
    """Return class -> field of the config, for the modules of one rank that never call the linears
    in them.
    """
    found = ((type(module).__name__, linears.bypassed_by(module)) for chunk in chunks for module in chunk.modules())
    return {name: option for name, option in found if option is not None}


def tree_facts(modules: Iterable[Module]) -> TreeFacts:
    """Return class, module counts and fingerprint of a model whose stages hold `modules`.

    A module that several stages hold (a tied embedding) counts once, with its parameters. Modules
    without parameters below them (dropout, an attention kernel's choices) are left out: they come
    and go with releases and mean nothing here.
    """
    by_path: dict[str, tuple[str, int]] = {}
    for path, name, numel in modules:
        by_path[path] = max(by_path.get(path, (name, 0)), (name, numel), key=itemgetter(1))
    weighty = {prefix for path, (_, numel) in by_path.items() if numel for prefix in _prefixes(path)}
    by_path = {path: found for path, found in by_path.items() if path in weighty or not path}
    # Snapshots in users' repositories have the hash: any change of this format changes them all.
    lines = sorted(f"{path} {name} {numel}\n" for path, (name, numel) in by_path.items())
    classes = Counter(name for path, (name, _) in by_path.items() if path)
    return TreeFacts(
        class_name=by_path[""][0],
        modules=dict(sorted(classes.items())),
        fingerprint="sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def _prefixes(path: str) -> list[str]:
    """Return `a`, `a.b` and `a.b.c` for `a.b.c`."""
    names = path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names) + 1)]
