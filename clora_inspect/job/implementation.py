"""The implementations of canonical LoRA that a job can be trained with, and proved for. Pure."""

from __future__ import annotations

from typing import Literal

ImplementationName = Literal["clora", "megatron-bridge"]
