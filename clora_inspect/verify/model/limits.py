"""What fits into the memory of a laptop. Pure numbers, imported without torch."""

from __future__ import annotations

EXPERT_PARAMETERS = 1_000_000_000
"""Parameters of a layer's routed experts (4 GB in fp32) above which experts share memory."""
