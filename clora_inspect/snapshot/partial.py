"""Accept a part of what changed: the placements at some places, and the rest as it was. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.snapshot.record import with_placements

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.snapshot.record import Snapshot


def accepted_in_part(before: Snapshot, now: Snapshot, chosen: Callable[[str], bool]) -> Snapshot:
    """`before` with what `now` has, and has not, at the chosen places.

    What belongs to the whole job (its base model, layout and LoRA settings) stays as `before` has
    it: a difference of those is accepted as a whole or not at all.

    Args:
        before: the accepted snapshot.
        now: the snapshot of the plan as it stands.
        chosen: whether the placement at a place (`decoder.layers.3.mlp.linear_fc1[up]`) is
            accepted.
    """
    kept = (line for line in before.placements if not chosen(line.at))
    taken = (line for line in now.placements if chosen(line.at))
    return with_placements(before, (*kept, *taken))
