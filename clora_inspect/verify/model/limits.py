"""`EXPERT_PARAMETERS`: the experts that fit into the memory of a laptop. A file of its own without
imports, so that small/ can be imported without torch.
"""

from __future__ import annotations

EXPERT_PARAMETERS = 1_000_000_000
"""Largest number of parameters (4 GB in fp32) of a layer's routed experts that each have memory of
their own. Above it they share memory, or fewer are built.
"""
