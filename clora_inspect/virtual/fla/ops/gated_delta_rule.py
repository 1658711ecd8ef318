"""The gated delta rule. Inert."""

from __future__ import annotations

from typing import NoReturn


def chunk_gated_delta_rule(*_args: object, **_options: object) -> NoReturn:
    """Inert."""
    raise NotImplementedError("fla.ops.gated_delta_rule.chunk_gated_delta_rule computes on a GPU only.")
