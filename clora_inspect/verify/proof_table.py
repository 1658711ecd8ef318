"""The table of proofs. Pure, and imports nothing: the command line reads it for `--help`.

To add a proof, write its file in `verify/proofs` (a function `prove`), its page in
`rules/numerics.py`, and its row here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Need(Enum):
    """A condition without which a proof is not run. The report says which one was not met."""

    FORWARD = auto()
    """An adapted model whose forward and backward run: no earlier proof met an exception there."""
    WHOLE_MODEL = auto()
    """More than one layer by itself: `--size layer` leaves this proof out."""
    RANKS = auto()
    """More than one rank."""
    MEGATRON_MODULES = auto()
    """Chunks that are megatron-core modules, which have a sharded state dict."""
    CONFIG = auto()
    """A model whose config can be set from outside, not one that a user's function makes."""
    DROPOUT = auto()
    """A job whose LoRA has dropout."""
    EXPORT = auto()
    """An implementation that exports to Hugging Face."""
    HF_NAME = auto()
    """An architecture that Hugging Face has a name for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One row: something that must hold of an adapted model."""

    name: str
    """Name in reports and of `--proof`, for example `zero-b`."""
    code: str
    """Code of the rule that a failure is reported under."""
    proves: str
    """A few words for `--help`: the statement that holds if it passes."""
    needs: tuple[Need, ...] = ()
    """Conditions, checked in this order."""

    # The name and not the function: the command line reads this table and must not import torch.
    @property
    def module(self) -> str:
        """Name of the file in `verify/proofs` that has the function `prove`."""
        return self.name.replace("-", "_")


PLACEMENTS = Proof(
    name="placements", code="CL513", proves="on the job's own model, without values, the planned adapters and no others"
)
"""Not in `PROOFS`, because it is the only one that looks at the job's own model on the meta device.
`verify/preflight.py` always runs it, before the others.
"""

HANDOVER = Proof(
    name="handover", code="CL506", proves="the stages of a user's model hand on states that a schedule can exchange"
)
"""Not in `PROOFS`, because it is a premise of theirs: asked once for a user's model in a pipeline,
and shown only where it does not hold, as `base-twice`.
"""

PROOFS = (
    Proof(
        name="base-twice",
        code="CL506",
        proves="the base run twice gives the same bits",
        needs=(Need.FORWARD,),
    ),
    Proof(
        name="surgery",
        code="CL502",
        proves="the planned adapters, and nothing else changed",
    ),
    Proof(
        name="zero-b",
        code="CL501",
        proves="with B = 0 the output is the base's, bit by bit",
        needs=(Need.FORWARD,),
    ),
    Proof(
        name="liveness",
        code="CL503",
        proves="a nudge to one B moves its own outputs alone",
        needs=(Need.FORWARD,),
    ),
    Proof(
        name="causality",
        code="CL504",
        proves="a later token changes no earlier output",
        needs=(Need.FORWARD,),
    ),
    Proof(
        name="merge",
        code="CL505",
        proves="adapter and merged weights are the same function",
        needs=(Need.FORWARD,),
    ),
    Proof(
        name="gradients",
        code="CL507",
        proves="they reach every adapter, and nothing else",
        needs=(Need.FORWARD, Need.WHOLE_MODEL),
    ),
    Proof(
        name="recompute",
        code="CL508",
        proves="activation recomputation changes no gradient",
        needs=(Need.FORWARD, Need.WHOLE_MODEL, Need.CONFIG),
    ),
    Proof(
        name="dropout",
        code="CL514",
        proves="LoRA's dropout is where it should be, in training alone",
        needs=(Need.WHOLE_MODEL, Need.DROPOUT, Need.FORWARD),
    ),
    Proof(
        name="layout",
        code="CL509",
        proves="the job's layout gives what one rank gives",
        needs=(Need.FORWARD, Need.WHOLE_MODEL, Need.RANKS, Need.MEGATRON_MODULES),
    ),
    Proof(
        name="checkpoint",
        code="CL510",
        proves="saved and loaded, on another layout too",
        needs=(Need.WHOLE_MODEL, Need.MEGATRON_MODULES),
    ),
    Proof(
        name="export",
        code="CL511",
        proves="a Hugging Face folder gives the same adapters",
        needs=(Need.WHOLE_MODEL, Need.EXPORT, Need.HF_NAME),
    ),
    Proof(
        name="twice",
        code="CL512",
        proves="applied twice, surgery never nests",
        needs=(Need.WHOLE_MODEL,),
    ),
)
"""The proofs of a model that runs, in the order in which they are run: a later one relies on what
an earlier one has proved.
"""

PROOF_NAMES = tuple(proof.name for proof in PROOFS)


def proof_named(name: str) -> Proof:
    return next(proof for proof in (HANDOVER, *PROOFS) if proof.name == name)
