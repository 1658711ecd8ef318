"""Show a value of a run's file in a message."""

from __future__ import annotations


def shown(value: object) -> str:
    """Return a value for a message. Of a list or a mapping only its type is named: with aliases, a
    small file has one whose text never ends.
    """
    if isinstance(value, str):
        return repr(value[:80])
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number that is too long"
    return repr(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"
