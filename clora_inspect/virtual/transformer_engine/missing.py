"""What happens when a name of Transformer Engine is asked for that the stand-in does not have: it
is named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def refusing(module: str) -> Callable[[str], NoReturn]:
    """A module-level `__getattr__` that names what is missing.

    `from transformer_engine.x import y` turns it into an ImportError, so guarded imports see what
    they expect.
    """

    def __getattr__(name: str) -> NoReturn:  # noqa: N807
        raise AttributeError(
            f"{module}.{name} is not part of the Transformer Engine stand-in that builds models without a GPU."
        )

    return __getattr__


def needs_gpu(name: str) -> NoReturn:
    """Refuse to compute what only the real Transformer Engine can.

    Raises:
        NotImplementedError: always, with the name.
    """
    raise NotImplementedError(
        f"{name} computes on a GPU only: the Transformer Engine stand-in has its name, not its arithmetic."
    )
