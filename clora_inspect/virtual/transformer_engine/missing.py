"""Raise a clear error for what the stand-in does not have or cannot compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def refuse_unknown_names(module: str) -> Callable[[str], NoReturn]:
    """Return a `__getattr__` for a module that says which name the stand-in lacks.

    In `from module import name` Python turns the AttributeError into an ImportError. So where
    megatron-core imports in a `try`, it does without the name as with an older release.
    """

    def __getattr__(name: str) -> NoReturn:  # noqa: N807
        raise AttributeError(
            f"{module}.{name} is not part of the Transformer Engine stand-in that builds models without a GPU. "
            "Build the model without the option that asks for it, or with --device cuda on a machine that has a GPU."
        )

    return __getattr__


def needs_gpu(name: str, instead: str = "") -> NoReturn:
    """Refuse to compute what only the real Transformer Engine can.

    Args:
        name: what was called.
        instead: a sentence that says which option asks for it, and what to write.

    Raises:
        NotImplementedError: always.
    """
    said = f"{name} computes on a GPU only: the Transformer Engine stand-in has its name, not its arithmetic."
    raise NotImplementedError(f"{said} {instead}".rstrip())


def gpu_only(name: str) -> Callable[..., NoReturn]:
    """Return a function that takes any arguments and raises NotImplementedError with `name`.

    megatron-core imports such functions at the top of its modules and calls them on a GPU only.
    """

    def function(*_args: object, **_options: object) -> NoReturn:
        needs_gpu(name)

    return function
