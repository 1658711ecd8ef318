"""What the base model is made of, whatever LoRA and layout: its class, how many modules of each
class, and a hash of them all.

A snapshot keeps this, so that a base model that changed (another release of megatron-core, another
spec, a layer more) is told apart from adapters that changed. The hash covers every module's path
with global layer numbers, its class, and the size of its own parameters in the whole model; so it
does not depend on how the model is spread over ranks.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from clora_inspect.job.module_path import global_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import nn

    from clora.plan import Placement, Plan, Skip

_EXPERT = re.compile(r"local_experts\.\d+")
"""Experts that are modules of their own; how many of them a rank has is the layout's choice."""

Module = tuple[str, str, int]
"""Global path, class name, elements of its own parameters in the whole model."""


class TreeFacts(NamedTuple):
    """What a model is made of."""

    class_name: str
    modules: dict[str, int]
    """Class name -> number of modules in the whole model."""
    fingerprint: str
    """Hash of every module's path, class and size."""


def stage_modules(plan: Plan, chunks: Sequence[nn.Module]) -> list[Module]:
    """The modules of one rank, in the order of its plan. `plan` was made of `chunks`."""
    from clora import linears

    inner = [linears.unwrap(chunk) for chunk in chunks]
    tp = linears.tensor_parallel_size(inner[0])
    records: tuple[Placement | Skip, ...] = (*plan.placements, *plan.skipped)
    paths = {(record.chunk, record.module): record.global_layer for record in records}
    found: dict[str, tuple[str, int]] = {"": (type(inner[0]).__name__, 0)}
    for (chunk, path), layer in paths.items():
        module = inner[chunk].get_submodule(path)
        numel = sum(1 for _ in module.parameters(recurse=False)) and linears.model_numel(
            module, linears.describe(module, path), tp
        )
        whole = _EXPERT.sub("local_experts.*", global_path(path, layer))
        found[whole] = (type(module).__name__, found.get(whole, ("", 0))[1] + numel)
    return [(path, name, numel) for path, (name, numel) in found.items()]


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
    lines = sorted(f"{path} {name} {numel}\n" for path, (name, numel) in by_path.items())
    classes = Counter(name for path, (name, _) in by_path.items() if path)
    return TreeFacts(
        class_name=by_path[""][0],
        modules=dict(sorted(classes.items())),
        fingerprint="sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def _prefixes(path: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`."""
    names = path.split(".")
    return [".".join(names[:end]) for end in range(1, len(names) + 1)]
