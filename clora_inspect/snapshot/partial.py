"""Accept some of the changed placements, and keep the rest of a snapshot. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.snapshot.record import with_placements

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.snapshot.record import Snapshot


def accepted_in_part(before: Snapshot, now: Snapshot, chosen: Callable[[str], bool]) -> Snapshot:
    """Return `before` with the placements of `now` at the chosen paths.

    Base model, layout and LoRA settings stay those of `before`. They belong to the whole job, so
    their changes are accepted as a whole or not at all.

    Args:
        before: the accepted snapshot.
        now: the snapshot of the current plan.
        chosen: whether to accept what changed at a path, such as
            `decoder.layers.3.mlp.linear_fc1[up]`.
    """
    kept = (line for line in before.placements if not chosen(line.at))
    # A chosen path that `now` lacks is a removal: then neither side has a line for it.
    taken = (line for line in now.placements if chosen(line.at))
    return with_placements(before, (*kept, *taken))
