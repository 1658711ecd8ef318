"""Call the gate on a model that was adapted for Megatron-Bridge.

The gate compares what a run has built with what was accepted, and ends a run that differs before
its first step. It is not of this library: who provides one enters a function in the group
`clora.gate` of the entry points, and `clora-inspect` does. It is called with the model only when a
run asks for it.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from clora.errors import CloraError

if TYPE_CHECKING:
    from clora.linears import Model

GROUP = "clora.gate"
VARIABLES = ("CLORA_INSPECT_GATE", "CLORA_INSPECT_GATE_RECORD")
"""Environment variables with the file to compare with and the folder to write the record to, by
which `clora-inspect gate` tells a run that it wants to know what the ranks hold.
"""


def call_gate(model: Model) -> None:
    """Call every gate that is installed, if this run asks for one. All ranks must call this.

    Args:
        model: one adapted model, or the list of its virtual pipeline chunks.

    Raises:
        CloraError: the run asks for a gate and none is installed.
    """
    asked = next((name for name in VARIABLES if os.environ.get(name)), None)
    if asked is None:
        return
    gates = entry_points(group=GROUP)
    if not gates:
        raise CloraError(
            f"{asked} is set to {os.environ[asked]}, and no gate is installed here, so the run would start unchecked. "
            f"Install clora-inspect on all ranks, or unset {asked}."
        )
    for gate in gates:
        gate.load()(model)
