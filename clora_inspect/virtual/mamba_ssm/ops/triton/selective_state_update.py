"""Stand-in for `mamba_ssm.ops.triton.selective_state_update`, which only generation calls."""

from __future__ import annotations

from typing import NoReturn


def selective_state_update(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("mamba_ssm.selective_state_update computes on a GPU only.")
