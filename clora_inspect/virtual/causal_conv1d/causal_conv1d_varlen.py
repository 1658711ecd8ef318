"""Stand-in for `causal_conv1d.causal_conv1d_varlen`: states of packed sequences, which only
generation needs.
"""

from __future__ import annotations

from typing import NoReturn


def causal_conv1d_varlen_states(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("causal_conv1d.causal_conv1d_varlen_states computes on a GPU only.")
