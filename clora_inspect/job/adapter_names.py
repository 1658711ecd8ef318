"""The names of adapters' parameters, a contract between implementations of canonical LoRA. Pure.

`...linear_qkv.adapter.adapter_q.linear_in.weight` is the A of the q part,
`...linear_proj.adapter.linear_out.weight` the B of a linear that is adapted as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

_FACTOR = re.compile(
    r"(?P<module>.+?)(?:\.to_wrap)?\.adapter(?:\.adapter_(?P<part>\w+))?\.linear_(?P<factor>in|out)\.weight"
)
WRAPPED = ".to_wrap"
"""Name that Megatron-Bridge's wrappers add between a module's path and its parameters' names."""


def factors(named_parameters: Iterable[tuple[str, T]]) -> dict[tuple[str, str | None], dict[str, T]]:
    """Return the factors of all adapters: module path and canonical part -> `in` and `out`, which
    are A and B.
    """
    found: dict[tuple[str, str | None], dict[str, T]] = {}
    for name, parameter in named_parameters:
        if (match := _FACTOR.fullmatch(name)) is not None:
            found.setdefault((match["module"], match["part"]), {})[match["factor"]] = parameter
    return found
