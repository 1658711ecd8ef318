"""Say in one sentence which package of ours is missing, and how to install it."""

from __future__ import annotations

import re

DISTRIBUTIONS = {
    "yaml": "PyYAML",
    "megatron": "megatron-core",
    "megatron.bridge": "megatron-bridge",
    "megatron.energon": "megatron-energon",
    "transformer_engine": "transformer-engine",
    "hydra": "hydra-core",
    "modelopt": "nvidia-modelopt",
    "PIL": "pillow",
    "absl": "absl-py",
    "dateutil": "python-dateutil",
    "fla": "flash-linear-attention",
    "flash_attn": "flash-attn",
}
"""Module -> the package that has it, where the two names differ."""

OF_SOURCE_TREE = ("megatron.training", "megatron.legacy", "megatron.rl", "megatron.post_training")
"""Modules of Megatron-LM's source tree that the wheel of megatron-core lacks."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def missing_package(error: BaseException | None) -> str | None:
    """Return a sentence if `error` says that a declared dependency is not installed, else None.

    Another missing module is a fault in the code that imports it.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.partition(".")[0]
    package = DISTRIBUTIONS.get(module, module)
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
        return {"torch", "networkx", "rich", "textual", "pyyaml", "megatron-core", "transformer-engine"}
    return {found[0].lower() for line in lines if (found := _NAME.match(line))}


def how_to_get(module: str) -> str | None:
    """Return how to get the package of a module that was not found: `pip install einops`.

    None if its package is installed: then that package lacks the module.
    """
    parts = module.split(".")
    # `megatron` is shared by several packages, each of which has a part of it.
    package = ".".join(parts[:2]) if parts[0] == "megatron" else parts[0]
    if not package or package == "megatron.core" or _is_found(package):
        return None
    if package in OF_SOURCE_TREE:
        return (
            f"{package} is in the source tree of Megatron-LM and not in the wheel of megatron-core. Put the tree of "
            "the same release first on PYTHONPATH."
        )
    return f"pip install {DISTRIBUTIONS.get(package, package)}"


def _is_found(package: str) -> bool:
    from importlib.util import find_spec

    try:
        return find_spec(package) is not None
    # A package that is half imported has no spec.
    except (ImportError, ValueError):
        return False
