"""`LoRAFileError`."""

from __future__ import annotations

from clora.errors import CloraError


class LoRAFileError(CloraError):
    """A file with the LoRA of a job cannot be read, or has something that canonical LoRA cannot
    express; the message names file and key.
    """
