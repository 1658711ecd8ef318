"""The parallel layout of a job: how many ranks stand on each mesh axis. Pure data."""

from __future__ import annotations

from math import lcm

import msgspec

from clora.errors import LayoutError

AXES = ("tp", "pp", "vpp", "cp", "ep", "etp")
"""The axes a user can set, in the order in which they are printed."""

LARGEST_AXIS = 16_384
"""No cluster has a wider axis; a larger number is a slip of the keyboard, and building it would
hang.
"""


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of the mesh axes, in megatron-core's meaning of the words.

    `vpp` counts the model chunks of one rank (interleaved pipeline), 1 when the pipeline is not
    interleaved. `sp` (sequence parallelism) has no axis of its own: it shares tp's; it defaults to
    on when tp > 1. `world_size` is the number of ranks of the whole job; it defaults to
    `model_world`.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    sp: bool | None = None
    world_size: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no cluster can have.

        Raises:
            LayoutError: a size below 1 or above `LARGEST_AXIS`, vpp without pp, sp without tp,
                or a world that the layout does not divide.
        """
        for axis in AXES:
            size: int = getattr(self, axis)
            if size < 1:
                raise LayoutError(
                    f"{axis} = {size}: the size of a mesh axis is at least 1. Write --{axis} 1 or leave it out."
                )
            if size > LARGEST_AXIS:
                raise LayoutError(
                    f"{axis} = {size}: no mesh axis is wider than {LARGEST_AXIS:,}. Is it a slip of the keyboard?"
                )
        if self.vpp > 1 and self.pp == 1:
            raise LayoutError(
                f"vpp = {self.vpp} needs a pipeline: virtual stages interleave the chunks of pp > 1 stages, "
                f"and pp is 1. Add --pp or leave out --vpp."
            )
        if self.sp and self.tp == 1:
            raise LayoutError(
                "sp is on and tp is 1: sequence parallelism splits over the tp axis. Add --tp or --no-sp."
            )
        if self.world_size is not None and (self.world_size < 1 or self.world_size % self.model_world):
            raise LayoutError(
                f"world_size = {self.world_size} cannot hold tp{self.tp} pp{self.pp} cp{self.cp} ep{self.ep} etp{self.etp}: "
                f"it must be a multiple of pp * lcm(tp * cp, ep * etp) = {self.model_world}."
            )

    @property
    def model_world(self) -> int:
        """The smallest world (in ranks) in which every kind of rank occurs.

        A wider data-parallel axis repeats ranks and never changes a shape, so the plan is made
        here.
        """
        return self.pp * lcm(self.tp * self.cp, self.ep * self.etp)

    @property
    def world(self) -> int:
        """Ranks of the whole job."""
        return self.world_size or self.model_world

    @property
    def dp(self) -> int:
        """Width of the data-parallel axis of the dense part, in ranks."""
        return self.world // (self.tp * self.pp * self.cp)

    @property
    def sequence_parallel(self) -> bool:
        """Whether activations between the tensor-parallel regions are split along the sequence dim."""
        return self.tp > 1 if self.sp is None else self.sp

    @property
    def label(self) -> str:
        """The layout in one word group, axes of size 1 left out: `tp4 pp2 sp`; `1 rank` when none
        is left.
        """
        axes = [f"{axis}{getattr(self, axis)}" for axis in AXES if getattr(self, axis) > 1]
        return " ".join([*axes, "sp"] if self.sequence_parallel else axes) or "no parallelism"
