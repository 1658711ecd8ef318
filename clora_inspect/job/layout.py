"""The parallel layout of a job: how many ranks stand on each mesh axis. Pure data."""

from __future__ import annotations

from math import lcm
from typing import Annotated

import msgspec

from clora.errors import LayoutError
from clora.limits import LARGEST_AXIS, LARGEST_PIPELINE, LARGEST_WORLD

AXIS_NAMES = {
    "tp": "tensor",
    "pp": "pipeline",
    "vpp": "virtual pipeline",
    "cp": "context",
    "ep": "expert",
    "etp": "expert tensor",
}
"""Axis -> what it is called in full. The order is the one in which axes are printed."""

AXES = tuple(AXIS_NAMES)
"""The axes that a user can set."""

UNSET_ETP = "unset: megatron-core takes tp"
"""Where the size of etp comes from if the user left it out."""


def _about(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class Mesh(msgspec.Struct, frozen=True, kw_only=True):
    """The sizes of the mesh axes, as `Layout` describes them. Layouts and snapshots share them."""

    tp: Annotated[int, _about("ranks on the tensor-parallel axis")] = 1
    pp: Annotated[int, _about("pipeline stages")] = 1
    vpp: Annotated[int, _about("model chunks on each rank of an interleaved pipeline; 1: not interleaved")] = 1
    cp: Annotated[int, _about("ranks on the context-parallel axis")] = 1
    ep: Annotated[int, _about("ranks that share the routed experts")] = 1
    etp: Annotated[int | None, _about("ranks that split each routed expert; left out: tp, as in megatron-core")] = None
    sp: Annotated[bool | None, _about("sequence parallelism; left out: on when tp > 1")] = None

    @property
    def expert_tp(self) -> int:
        """Ranks that split each routed expert: etp, or tp where etp is not set."""
        return self.tp if self.etp is None else self.etp

    def sizes(self) -> dict[str, int]:
        """Return axis -> number of ranks, in the order of `AXES`. An etp that is not set is tp."""
        return {axis: self.expert_tp if axis == "etp" else getattr(self, axis) for axis in AXES}

    @property
    def model_world(self) -> int:
        """The smallest world, in ranks, in which every rank class occurs.

        A wider data-parallel axis repeats ranks and never changes a shape, so this world is enough
        to plan in.
        """
        # megatron-core cuts the ranks of a stage twice: the dense part of the model into tp x cp
        # (x dp), the routed experts into ep x etp (x expert dp). Both must fit in the stage.
        return self.pp * lcm(self.tp * self.cp, self.ep * self.expert_tp)

    @property
    def sequence_parallel(self) -> bool:
        """True if activations between the tensor-parallel regions are split along the sequence."""
        return self.tp > 1 if self.sp is None else self.sp

    @property
    def label(self) -> str:
        """The axes wider than 1 in one line, `tp4 pp2 sp`; `no parallelism` when there is none."""
        # An etp that is not set means something in a mixture of experts only: see `with_etp`.
        sizes = {**self.sizes(), "etp": self.etp or 1}
        # `sp` is no axis: it splits over the ranks of tp.
        words = [f"{axis}{size}" for axis, size in sizes.items() if size > 1]
        if self.sequence_parallel:
            words.append("sp")
        return " ".join(words) or "no parallelism"


class Layout(Mesh, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a job is spread over ranks: the sizes of the mesh axes, in megatron-core's meaning.

    `vpp` counts the model chunks of one rank (interleaved pipeline); 1 means not interleaved. `sp`
    (sequence parallelism) splits over the ranks of tp; left out, it is on when tp > 1. `etp` splits
    each routed expert; left out, it is tp, as in megatron-core. `world_size` is the number of ranks
    of the whole job; left out, it is the smallest world that holds the axes.
    """

    world_size: Annotated[
        int | None, _about("ranks of the whole job; left out: the smallest world that holds the axes")
    ] = None

    def __post_init__(self) -> None:
        """Refuse sizes that no cluster can have.

        Raises:
            LayoutError: a size below 1 or above `LARGEST_AXIS`, vpp without pp, sp without tp,
                or a world that the layout does not divide.
        """
        for axis, size in self.sizes().items():
            if size < 1:
                raise LayoutError(
                    f"{axis} = {size}: the size of a mesh axis is at least 1. Write --{axis} 1 or leave it out."
                )
            if size > LARGEST_AXIS:
                raise LayoutError(
                    f"{axis} = {size}: no mesh axis is wider than {LARGEST_AXIS:,}. Is it a slip of the keyboard?"
                )
        if self.pp * self.vpp > LARGEST_PIPELINE:
            raise LayoutError(
                f"pp = {self.pp} and vpp = {self.vpp} are {self.pp * self.vpp:,} chunks of the model, and "
                f"{LARGEST_PIPELINE:,} is the most. Is it a slip of the keyboard?"
            )
        if self.model_world > LARGEST_WORLD or (self.world_size or 0) > LARGEST_WORLD:
            raise LayoutError(
                f"world_size = {max(self.model_world, self.world_size or 0):,}: no job has more than "
                f"{LARGEST_WORLD:,} ranks. Is it a slip of the keyboard?"
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
                f"world_size = {self.world_size} cannot hold "
                f"tp{self.tp} pp{self.pp} cp{self.cp} ep{self.ep} etp{self.expert_tp}{self._where_etp_is_from}: "
                f"it must be a multiple of pp * lcm(tp * cp, ep * etp) = {self.model_world}."
            )

    @property
    def world(self) -> int:
        """Ranks of the whole job."""
        return self.world_size or self.model_world

    @property
    def dp(self) -> int:
        """Width of the data-parallel axis of the dense part, in ranks."""
        return self.world // (self.tp * self.pp * self.cp)

    @property
    def _where_etp_is_from(self) -> str:
        return f" ({UNSET_ETP})" if self.etp is None and self.expert_tp > 1 else ""

    def with_etp(self, *, has_experts: bool) -> Layout:
        """Return the same layout with `etp` set. A model without routed experts has nothing that it
        splits, and gets 1.
        """
        if self.etp is not None:
            return self
        if has_experts:
            return msgspec.structs.replace(self, etp=self.tp)
        # The world of a job does not change with what is found in its model.
        return msgspec.structs.replace(self, etp=1, world_size=self.world if self.ep > 1 else self.world_size)

    def label_as(self, settled: Mesh) -> str:
        """Return the label of `settled`, which is this layout with its defaults set, and where its
        etp is from.
        """
        if self.etp is not None or settled.expert_tp == 1:
            return settled.label
        etp = f"etp{settled.expert_tp}"
        return settled.label.replace(etp, f"{etp} ({UNSET_ETP})")

    def resolved(self) -> Layout:
        """Return the same layout with its defaults written out: `etp`, `sp` and `world_size` are
        set.
        """
        return msgspec.structs.replace(self, etp=self.expert_tp, sp=self.sequence_parallel, world_size=self.world)
