"""Stand-in for `triton.language`: the words of a kernel's body, which never runs here."""

from __future__ import annotations


class Word:
    """Any name of the language, such as `tl.constexpr` or `tl.math.exp`.

    megatron-core annotates arguments of kernels with some and gives others names of its own.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_args: object, **_options: object) -> Word:
        # `tl.constexpr(4)` is a constant of a module.
        return self

    def __getattr__(self, name: str) -> Word:
        if name.startswith("__"):
            raise AttributeError(name)
        return Word(f"{self.name}.{name}")


def __getattr__(name: str) -> Word:
    if name.startswith("__"):
        raise AttributeError(name)
    return Word(name)
