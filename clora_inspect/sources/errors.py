"""What goes wrong while somebody else's code makes a model."""

from __future__ import annotations

from clora.errors import CloraError


class BuildError(CloraError):
    """The user's model function raised, or returned what is no model; or a package that it needs is
    missing.
    """
