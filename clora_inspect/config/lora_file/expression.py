"""Compile a regular expression of somebody else's file, if matching it cannot take long.

Python's `re` goes back and forth: `(a+)+b` takes years on thirty letters. What people write for
PEFT is simpler, so that repeated groups and too many repetitions are refused.
"""

from __future__ import annotations

import re

from clora_inspect.config.lora_file.errors import LoRAFileError

LONGEST = 4_000
"""Characters. One for many models, with all names of their linears, has a few hundred."""
MOST_REPETITIONS = 6
"""Number of `*`, `+` and `{`. The time of a match grows with the length of the path, to this power
at most.
"""

_SET = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]")
_ESCAPED = re.compile(r"\\(?:.|$)", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{)")
_LOOKS_BACK = re.compile(r"\\[1-9]|\(\?(?![:!=])")


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    """Return `pattern` compiled.

    Raises:
        LoRAFileError: it is no regular expression, or matching it could take long; the message
            begins with `where`.
    """
    shown = repr(pattern[:80])
    if len(pattern) > LONGEST:
        raise LoRAFileError(f"{where} has {len(pattern):,} characters, and {LONGEST:,} is the most.")
    bare = _ESCAPED.sub("x", _SET.sub("x", pattern))
    if _REPEATED_GROUP.search(bare) or _LOOKS_BACK.search(_SET.sub("x", pattern)):
        raise LoRAFileError(
            f"{where} = {shown} repeats a group, or has a construction that is not read here: matching it could take "
            "forever. Write a list of names, or an expression without."
        )
    repetitions = sum(bare.count(sign) for sign in "*+{")
    if repetitions > MOST_REPETITIONS:
        raise LoRAFileError(
            f"{where} = {shown} has {repetitions} repetitions, and {MOST_REPETITIONS} is the most: matching it could "
            "take forever. Write a list of names."
        )
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise LoRAFileError(f"{where} = {shown} is no regular expression: {error}.") from None
