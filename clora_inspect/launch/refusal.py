"""Refuse a model that a saved plan is not of. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.errors import SurgeryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.launch.difference import Difference

_MOST_SHOWN = 5
"""Differences that an error names."""


def refuse(name: str, differences: Iterable[Difference]) -> None:
    """Raise when there are differences.

    Args:
        name: the file, as the user named it.
        differences: those between the file and the model of this rank.

    Raises:
        SurgeryError: there are some; the message has the first of them.
    """
    found = [f"{each.where}: {each.text}" if each.where else each.text for each in differences]
    if found:
        more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise SurgeryError(
            f"{name} was made for another run than that of this rank, and nothing was changed: "
            f"{'; '.join(found[:_MOST_SHOWN])}{more}. Start the run that it was made for, or plan this one: "
            "clora-inspect plan JOB -f json -o FILE"
        )
