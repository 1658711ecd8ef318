"""Decide which asks of a tree are made when megatron-core is imported in the virtual world, and
which of them fail.

An ask is *guarded* if megatron-core can be imported without what it asks for: it is in a function,
in a `try` that goes on, below a flag that is false, or in a module that nothing imports. A flag
such as `HAVE_TE` that is true guards nothing, because the code below it runs.
"""

from __future__ import annotations

import ast
import re
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.version import Version

import clora
import clora_inspect
from clora_inspect.virtual.census import offered
from clora_inspect.virtual.census.core_tree import CORE
from clora_inspect.virtual.census.reading import After, Ask, Condition, Deferred, If, Tried
from clora_inspect.virtual.sharded_data_parallel import is_deferred, is_refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from clora_inspect.virtual.census.reading import Reading

_IMPORT = re.compile(r"^\s*(?:from|import) (megatron\.core[\w.]*)(?: import ([\w, ]+))?", re.MULTILINE)

_PASSES = 20
"""Largest number of rounds in which failures spread from module to module; a tree needs about 4."""

SIDE = tuple(
    f"{CORE}.{folder}"
    for folder in (
        "datasets",
        "distributed.fsdp",
        "export",
        "inference",
        "post_training",
        "resharding",
        "ssm.triton_cache_manager",
        "tokenizers",
    )
)
"""Packages and modules that building a model does not need. What they ask for counts only where a
module outside of them imports them without a guard.
"""


class Guard(StrEnum):
    NONE = "unguarded"
    TRY = "try"
    FLAG = "flag"
    FUNCTION = "function"
    ASIDE = "not imported"


class Verdicts:
    """What holds in a tree, module name -> what its file asks for.

    Args:
        readings: of all modules of the tree.
        unread: modules whose files cannot be parsed.
    """

    def __init__(self, readings: Mapping[str, Reading], unread: Iterable[str] = ()) -> None:
        self._readings = readings
        self._modules = {*readings, *unread}
        self._packages = {parent for module in self._modules for parent in _parents(module)} - self._modules
        self._failing = set(unread)
        self._te = _stand_in_version()
        for _ in range(_PASSES):
            failing = {module for module in readings if self._fails(module)} | set(unread)
            if failing == self._failing:
                break
            self._failing = failing
        self._imported = self._reached()

    def guard(self, module: str, ask: Ask) -> Guard:
        """Return what guards an ask of `module`."""
        own = self._own_guard(module, ask)
        if own is Guard.NONE and module not in self._imported:
            return Guard.ASIDE
        return own

    def is_missing(self, module: str, ask: Ask) -> bool:
        """Return whether the ask of `module` fails, if it is made."""
        if not is_of_tree(ask.module):
            return not offered.has(ask.module, ask.name)
        target = self._target(ask)
        return self.is_absent(module, target) or (target in self._failing and not is_deferred(target, module))

    def is_absent(self, module: str, target: str) -> bool:
        """Return whether the tree has no module `target`, or the virtual world hides it from
        `module`.
        """
        hidden = any(is_refused(name, module) for name in (*_parents(target), target))
        return hidden or target not in self._modules | self._packages

    def _own_guard(self, module: str, ask: Ask) -> Guard:
        guard = self._guarding(module, ask.conditions, attribute=ask.through is not None)
        # A name that a guarded import did not bind: the code below uses another, such as a mock.
        if guard is Guard.NONE and ask.through is not None and self.is_missing(module, ask.through):
            return self._guarding(module, ask.through.conditions, attribute=False)
        return guard

    def _guarding(self, module: str, conditions: Iterable[Condition], *, attribute: bool) -> Guard:
        """Return the first guard among the conditions, from the outside inwards."""
        for condition in conditions:
            match condition:
                case Deferred():
                    return Guard.FUNCTION
                case Tried() if condition.attributes if attribute else condition.imports:
                    return Guard.TRY
                case After() if self._failed(module, condition.number) is not condition.failed:
                    return Guard.TRY
                case If():
                    holds = self._holds(module, condition.test)
                    if holds is None and _names_a_flag(condition.test):
                        return Guard.FLAG
                    if holds is not None and holds is condition.negated:
                        return Guard.FLAG
                case _:
                    pass
        return Guard.NONE

    def _failed(self, module: str, number: int) -> bool:
        """Return whether the body of the `try` fails."""
        reading = self._readings[module]
        for index in reading.tries[number]:
            ask = reading.asks[index]
            depth = next(i for i, c in enumerate(ask.conditions) if isinstance(c, Tried) and c.number == number)
            inside = self._guarding(module, ask.conditions[depth + 1 :], attribute=ask.through is not None)
            if inside is Guard.NONE and self.is_missing(module, ask):
                return True
        return False

    def _holds(self, module: str, test: ast.expr) -> bool | None:
        """Return whether a condition is true in the virtual world, None if that is not known."""
        value: bool | None = None
        match test:
            case ast.Constant():
                value = bool(test.value)
            case ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"):
                value = False
            case ast.Compare(left=ast.Name(id="__name__")):
                value = False
            case ast.Name():
                value = self._flag(module, test.id)
            case ast.UnaryOp(op=ast.Not()):
                operand = self._holds(module, test.operand)
                value = None if operand is None else not operand
            case ast.BoolOp():
                values = {self._holds(module, part) for part in test.values}
                decisive = isinstance(test.op, ast.Or)
                value = decisive if decisive in values else None if None in values else not decisive
            case ast.Call(func=ast.Name(id="is_te_min_version"), args=[ast.Constant(value=str(least)), *_]):
                value = self._te >= Version(least)
        return value

    def _flag(self, module: str, name: str) -> bool | None:
        flag = self._readings[module].flags.get(name) if module in self._readings else None
        if isinstance(flag, int):
            return not self._failed(module, flag)
        if isinstance(flag, Ask):
            return self._flag(flag.module, flag.name) if flag.module != module else None
        # A name that is set to itself, or to one that is set to it, is not followed for ever.
        if isinstance(flag, ast.expr) and not any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(flag)):
            return self._holds(module, flag)
        return None

    def _fails(self, module: str) -> bool:
        return any(
            self._own_guard(module, ask) is Guard.NONE and self.is_missing(module, ask)
            for ask in self._readings[module].asks
        )

    def _roots(self) -> set[str]:
        """Return the modules that clora-inspect imports itself, and those that a user may import:
        no other module of the tree imports them.
        """
        imported = {self._target(ask) for reading in self._readings.values() for ask in reading.asks}
        imported |= {parent for module in self._modules for parent in _parents(module)}
        side = {module for module in self._modules if any(f"{module}.".startswith(f"{s}.") for s in SIDE)}
        return (self._modules - imported - side) | (self._modules & modules_that_we_import())

    def _reached(self) -> set[str]:
        """Return the modules that are imported with the roots."""
        waiting = list(self._roots())
        reached = set(waiting)
        while waiting:
            module = waiting.pop()
            for ask in self._readings[module].asks if module in self._readings else ():
                if is_of_tree(ask.module) and self._own_guard(module, ask) is Guard.NONE:
                    target = self._target(ask)
                    if self.is_absent(module, target) or is_deferred(target, module):
                        continue
                    new = {target, *_parents(target)} & self._modules - reached
                    reached |= new
                    waiting += new
        return reached

    def _target(self, ask: Ask) -> str:
        """Return the module that an import loads: `from a import b` loads `a.b` if it is one."""
        return ask.dotted if ask.dotted in self._modules | self._packages else ask.module


@cache
def modules_that_we_import() -> frozenset[str]:
    """Return the modules of megatron-core that clora and clora-inspect import."""
    found = {CORE}
    for package in (clora, clora_inspect):
        for file in Path(package.__path__[0]).rglob("*.py"):
            for module, names in _IMPORT.findall(file.read_text(encoding="utf-8")):
                found |= {module, *_parents(module), *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
    return frozenset(found)


def is_of_tree(module: str) -> bool:
    return module == CORE or module.startswith(f"{CORE}.")


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(2, len(parts))]


def _names_a_flag(test: ast.expr) -> bool:
    """Return whether a condition asks for a package: `HAVE_FLA`, `is_fla_available()`..."""
    names = [n.id for n in ast.walk(test) if isinstance(n, ast.Name)]
    names += [n.attr for n in ast.walk(test) if isinstance(n, ast.Attribute)]
    return any(
        name.lstrip("_").lower().startswith(("have_", "has_")) or name.lower().endswith(("available", "min_version"))
        for name in names
    )


def _stand_in_version() -> Version:
    code = ast.parse((offered.FOLDER / "transformer_engine" / "__init__.py").read_text(encoding="utf-8"))
    for node in code.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__version__"
        ):
            return Version(ast.literal_eval(node.value))
    raise AssertionError("the Transformer Engine stand-in has no __version__")
