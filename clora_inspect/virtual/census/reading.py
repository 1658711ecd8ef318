"""Read one Python file: the names of other modules that it asks for, and the conditions of each.

An *ask* is an import, or an attribute of a module that was imported. Its conditions are the blocks
around it, from the outside inwards. Whether they hold is not decided here: that depends on other
files, see `verdict.py`.
"""

from __future__ import annotations

import ast
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora_inspect.virtual.census.core_tree import CoreFile

_SURVIVES_ALL = {"Exception", "BaseException"}
_SURVIVES_IMPORTS = {"ImportError", "ModuleNotFoundError"} | _SURVIVES_ALL
_SURVIVES_ATTRIBUTES = {"AttributeError"} | _SURVIVES_ALL
_BY_NAME = {"import_module", "__import__", "find_spec"}
"""Functions whose first argument is the name of a module."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Inside of the body of a function, which runs when somebody calls it."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Inside of the body of a `try` (or of a `suppress`)."""

    number: int
    """Index in `Reading.tries`, or -1 if nothing depends on how it ends."""
    imports: bool
    """True if the program goes on after an import that failed."""
    attributes: bool
    """True if it goes on after an attribute that was not there."""


@dataclass(frozen=True, slots=True)
class After:
    """In a block that runs after the body of a `try`: `except` if that failed, `else` if not."""

    number: int
    failed: bool


@dataclass(frozen=True, slots=True)
class If:
    """In a block that runs if `test` is true, or, if `negated`, if it is not."""

    test: ast.expr
    negated: bool


Condition = Deferred | Tried | After | If


@dataclass(frozen=True, slots=True)
class Ask:
    """A name of another module that a file asks for."""

    module: str
    """The module that is imported, for an attribute the one that it is read from."""
    name: str
    """The name in it: what `from module import name` asks for, or the attributes behind an imported
    module, `pytorch.Linear`. Empty if the module itself is all that is asked for.
    """
    line: int
    conditions: tuple[Condition, ...]
    through: Ask | None = None
    """The import that an attribute is read through; None for an import."""

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(slots=True)
class Reading:
    """The names that one file asks for."""

    asks: list[Ask] = field(default_factory=list)
    tries: list[range] = field(default_factory=list)
    """The asks in the body of each `try`, as indices of `asks`."""
    flags: dict[str, int | ast.expr | Ask] = field(default_factory=dict)
    """Name at the top level -> the `try` that sets it to True where it succeeds, the expression
    that it is set to, or the import that it comes from.
    """


def read(file: CoreFile, text: bytes) -> Reading:
    """Return what the file asks for. `text` is its content, in whatever encoding it declares.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: this Python cannot parse it.
    """
    code = ast.parse(text)
    reader = _Reader(file.package)
    reader.evaluates_annotations = not any(
        isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in code.body
    )
    reader.block(code.body)
    return reader.reading


class _Reader:
    def __init__(self, package: str) -> None:
        self.reading = Reading()
        self.evaluates_annotations = True
        self._package = package
        self._conditions: tuple[Condition, ...] = ()
        self._imported: dict[str, Ask] = {}
        """Name -> the import that bound it last, as far as the file is read."""

    def block(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    @contextmanager
    def _under(self, condition: Condition) -> Iterator[None]:
        before = self._conditions
        self._conditions = (*before, condition)
        try:
            yield
        finally:
            self._conditions = before

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import():
                for alias in node.names:
                    self._import(alias, node.lineno)
            case ast.ImportFrom():
                self._import_from(node)
            case ast.Try() | ast.TryStar():
                self._try(node)
            case ast.If():
                self._if(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._function(node)
            case ast.ClassDef():
                self._expressions((*node.decorator_list, *node.bases, *node.keywords))
                self.block(node.body)
            case ast.With() | ast.AsyncWith():
                self._with(node)
            case _:
                self._assigned(node)
                self._parts(node)

    def _parts(self, node: ast.AST) -> None:
        """Read the blocks of a loop or `match` as its own, and all else as expressions."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self._statement(child)
            elif isinstance(child, ast.match_case):
                self._parts(child)
            elif not (isinstance(node, ast.AnnAssign) and child is node.annotation and not self._annotated()):
                self._expression(child)

    def _annotated(self) -> bool:
        """Return True if annotations here are evaluated. Those of variables in functions never
        are.
        """
        return self.evaluates_annotations and Deferred() not in self._conditions

    def _import(self, alias: ast.alias, line: int) -> None:
        ask = self._ask(alias.name, "", line)
        # `import a.b` binds `a`, `import a.b as c` binds `c` to `a.b`.
        bound = ask if alias.asname else Ask(alias.name.partition(".")[0], "", line, ask.conditions)
        self._imported[alias.asname or bound.module] = bound

    def _import_from(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            above = self._package.split(".")
            above = above[: len(above) - node.level + 1]
            module = ".".join([*above, module]).rstrip(".")
        for alias in node.names:
            ask = self._ask(module, "" if alias.name == "*" else alias.name, node.lineno)
            self._imported[alias.asname or alias.name] = ask
            if not self._conditions or Deferred() not in self._conditions:
                self.reading.flags.setdefault(alias.asname or alias.name, ask)

    def _ask(self, module: str, name: str, line: int, through: Ask | None = None) -> Ask:
        ask = Ask(module, name, line, self._conditions, through)
        self.reading.asks.append(ask)
        return ask

    def _try(self, node: ast.Try | ast.TryStar) -> None:
        number = len(self.reading.tries)
        self.reading.tries.append(range(0))
        first = len(self.reading.asks)
        with self._under(
            Tried(number, _survives(node.handlers, _SURVIVES_IMPORTS), _survives(node.handlers, _SURVIVES_ATTRIBUTES))
        ):
            self.block(node.body)
        self.reading.tries[number] = range(first, len(self.reading.asks))
        with self._under(After(number, failed=True)):
            for handler in node.handlers:
                self.block(handler.body)
        with self._under(After(number, failed=False)):
            self.block(node.orelse)
        self.block(node.finalbody)
        for name in _set_to_true((*node.body, *node.orelse)):
            self.reading.flags[name] = number

    def _if(self, node: ast.If) -> None:
        self._expression(node.test)
        with self._under(If(node.test, negated=False)):
            self.block(node.body)
        with self._under(If(node.test, negated=True)):
            self.block(node.orelse)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        self._expressions((*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)))
        if self.evaluates_annotations:
            every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
            self._expressions(one.annotation for one in every if one and one.annotation)
            self._expressions(filter(None, [node.returns]))
        # Names that a function imports are known only inside it.
        before = dict(self._imported)
        with self._under(Deferred()):
            self.block(node.body)
        self._imported = before

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        self._expressions(item.context_expr for item in node.items)
        caught = {
            _last_name(argument)
            for item in node.items
            if isinstance(item.context_expr, ast.Call) and _last_name(item.context_expr.func) == "suppress"
            for argument in item.context_expr.args
        }
        with self._under(Tried(-1, bool(caught & _SURVIVES_IMPORTS), bool(caught & _SURVIVES_ATTRIBUTES))):
            self.block(node.body)

    def _assigned(self, node: ast.stmt) -> None:
        """Note what a name at the top level of the file is set to, unless a `try` has set it."""
        if isinstance(node, ast.Assign) and Deferred() not in self._conditions:
            for target in node.targets:
                if isinstance(target, ast.Name) and not any(isinstance(c, Tried | After) for c in self._conditions):
                    self.reading.flags.setdefault(target.id, node.value)

    def _expressions(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._expression(node)

    def _expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.Lambda):
            self._expression(node.args)
            with self._under(Deferred()):
                self._expression(node.body)
            return
        if isinstance(node, ast.Attribute) and self._attribute(node):
            return
        if isinstance(node, ast.Call):
            self._call(node)
        self._expressions(ast.iter_child_nodes(node))

    def _attribute(self, node: ast.Attribute, *more: str) -> bool:
        """Note `te.pytorch.Linear` if `te` is an imported module or name; return whether it is."""
        names = [*more]
        below: ast.expr = node
        while isinstance(below, ast.Attribute):
            names.append(below.attr)
            below = below.value
        if not isinstance(below, ast.Name) or below.id not in self._imported:
            return False
        through = self._imported[below.id]
        name = ".".join(filter(None, [through.name, *reversed(names)]))
        self._ask(through.module, name, node.lineno, through)
        return True

    def _call(self, node: ast.Call) -> None:
        function = _last_name(node.func)
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        if not texts or not isinstance(texts[0], str):
            return
        if function in _BY_NAME and not texts[0].startswith("."):
            with self._under(Tried(-1, imports=function == "find_spec", attributes=False)):
                self._ask(texts[0], "", node.lineno)
        # `getattr` with a default and `hasattr` go on without the name.
        if function in {"getattr", "hasattr"} and len(node.args) >= 2:
            survives = function == "hasattr" or len(node.args) == 3
            with self._under(Tried(-1, imports=survives, attributes=survives)):
                below = ast.Attribute(node.args[0], texts[0])
                self._attribute(ast.copy_location(below, node))


def _survives(handlers: list[ast.ExceptHandler], kinds: set[str]) -> bool:
    """Return True if a handler catches one of `kinds` and does not raise again."""
    for handler in handlers:
        named = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if handler.type is None or {_last_name(kind) for kind in named} & kinds:
            return not isinstance(handler.body[-1], ast.Raise)
    return False


def _set_to_true(statements: Iterable[ast.stmt]) -> Iterator[str]:
    for node in statements:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.value.value is True:
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _last_name(node: ast.expr | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
