"""One step of a state-space model while generating. Inert."""

from __future__ import annotations

from typing import NoReturn


def selective_state_update(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("mamba_ssm.selective_state_update computes on a GPU only.")
