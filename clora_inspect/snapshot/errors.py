"""The error of a snapshot file that cannot be used."""

from __future__ import annotations

from clora.errors import CloraError


class SnapshotError(CloraError):
    """A snapshot is damaged, edited by hand, in the middle of a merge, or of a newer schema.

    The message says what to do.
    """
