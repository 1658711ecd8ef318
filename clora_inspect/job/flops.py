"""Floating-point operations of one rank for one micro-batch. Pure data."""

from __future__ import annotations

import msgspec


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Operations of matrix products and attention, two for each multiply-add.

    Backward holds what is recomputed there. The base is frozen: its backward has the gradients of
    inputs and none of weights.
    """

    base_forward: int = 0
    base_backward: int = 0
    adapter_forward: int = 0
    adapter_backward: int = 0

    @property
    def total(self) -> int:
        return self.base_forward + self.base_backward + self.adapter_forward + self.adapter_backward

    @property
    def full_training(self) -> int:
        """Operations by the formulas that know no LoRA: base forward, and twice that for the
        gradients of inputs and weights.
        """
        return 3 * self.base_forward

    @property
    def overstatement(self) -> float:
        """The operations by a formula that ignores LoRA, over those that are done."""
        return self.full_training / self.total if self.total else 1.0

    def __add__(self, other: Flops) -> Flops:
        return Flops(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})
