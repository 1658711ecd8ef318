"""Say in one sentence which package of ours is missing, and how to install it."""

from __future__ import annotations

import re

_DISTRIBUTIONS = {"yaml": "PyYAML", "megatron": "megatron-core", "transformer_engine": "transformer-engine"}
"""Module -> the package that has it, where the two names differ."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def missing_package(error: BaseException | None) -> str | None:
    """Return a sentence if `error` says that a declared dependency is not installed, else None.

    Another missing module is a fault in the code that imports it.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    package = _DISTRIBUTIONS.get(module, module)
    # numpy comes with megatron-core, jinja2 with torch: the metadata of an old install lacks it.
    if package.lower() not in {*_declared(), "numpy", "jinja2"}:
        return None
    return f"{package} is not installed, and this needs it: pip install {package}"


def _declared() -> set[str]:
    # importlib.metadata imports a parser of e-mails, which no other command needs.
    from importlib.metadata import PackageNotFoundError, requires

    try:
        lines = requires("clora-inspect") or ()
    except PackageNotFoundError:  # run from a source tree
        return set(map(str.lower, ("torch", "networkx", "rich", "textual", *_DISTRIBUTIONS.values())))
    return {found[0].lower() for line in lines if (found := _NAME.match(line))}
