"""Text that every format of a graph can hold."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return `text` with each character that is not printable escaped as in Python: `\x1b`.

    XML cannot hold control characters and lone surrogates, and a reader does not see what hides or
    reorders text. Different names stay different.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
