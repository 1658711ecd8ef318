"""The error of graphs."""

from __future__ import annotations

from clora.errors import CloraError


class GraphError(CloraError):
    """A graph is too large to be built or written."""
