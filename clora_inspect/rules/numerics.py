"""CL5, numerics: what `verify` proves by running the adapted model. Decided there; here are the
pages.
"""

from __future__ import annotations

from clora_inspect.job.finding import Severity
from clora_inspect.rules.base import Needs, Rule


class _Proof(Rule):
    """What the rules of this family have in common."""

    family = "numerics"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class ZeroBChangesOutput(_Proof):
    """With B = 0 the adapted model does not give the base's output bit by bit.

    LoRA starts from the base model: B is zero, so every adapter adds nothing. Where the output
    differs all the same, surgery has changed something else: a bias that is dropped, a value that
    is cast to another dtype and back, a norm that is run twice, dropout that is on in evaluation, a
    B that is not zero. The message has the first module that departs, and by how much. A forward
    that raises counts as well: training would stop at its first step.

    Bad: an adapted linear that returns `out + delta` in bf16 while the base's `out` is fp32.
    Good: the delta cast to the dtype of the base's output, and added to it.
    """

    code = "CL501"
    name = "zero-b-changes-output"


class SurgeryNotAsPlanned(_Proof):
    """The adapters in the model are not those that the targets choose, or surgery changed more than
    it should.

    Every planned adapter must be in the model exactly once, with the planned shapes and factors of
    its own; all adapters trainable and the whole base frozen, with its parameters' names, values
    and config as they were.

    Bad: `["*.layers.1.*.linear_proj"]` that also adapts layers 10 to 19, because the dot of a
    pattern stood for any character.
    Good: what `clora-inspect plan` shows.
    """

    code = "CL502"
    name = "surgery-not-as-planned"


class DeadAdapter(_Proof):
    """A nudge to an adapter's B does not move the model's output, or moves rows of a fused linear
    that are not its own.

    The first is an adapter that is computed and thrown away: it would train on nothing. The second
    is one whose delta is packed in another order than the base's rows, so that training q changes
    k. At B = 0 neither shows.

    Bad: q, k and v deltas joined as `[q | k | v]` beside a `linear_qkv` that is packed by key-value
    group.
    Good: each group's q, k and v side by side, as megatron-core has them.
    """

    code = "CL503"
    name = "dead-or-misplaced-adapter"


class LaterTokenLeaks(_Proof):
    """A later token changes an earlier output of the adapted model, and not of the base.

    The model then learns from what it is to predict. Its loss falls faster than it should, and it
    is useless for generation. It happens where a delta is reshaped by the head counts of the whole
    model while the rank holds a part of them.

    Bad: more tensor-parallel ranks than key-value groups, and a packing that divides by the number
    of all groups.
    Good: each rank's own rows, wherever they begin and end.
    """

    code = "CL504"
    name = "later-token-leaks"


class MergedIsAnotherFunction(_Proof):
    """With random A and B the adapted model is not the model with `alpha / dim B A` added to its
    weights.

    What is trained is then not what is merged, exported or served. B = 0 is blind to it. The
    weights are made by the proof itself, from the definition of LoRA and megatron-core's packing; a
    healthy model is about 3e-7 apart in fp32, one row in the wrong place 1e-2. The implementation's
    own merging must give the same weights, and unmerging the base's bits.

    Bad: a scale of `alpha` where `alpha / dim` is meant.
    Good: the same function, adapted or merged.
    """

    code = "CL505"
    name = "merged-is-another-function"


class BaseNotDeterministic(_Proof):
    """The base model, run twice on the same tokens, does not give the same bits.

    "Identical to the base" then means nothing, so no other proof is run. Something in the model
    draws random numbers, or sums in an order that changes.

    Bad: `hidden_dropout = 0.1` while verifying, or a kernel that adds atomically.
    Good: dropout off, and deterministic kernels (`NVTE_ALLOW_NONDETERMINISTIC_ALGO=0`).
    """

    code = "CL506"
    name = "base-not-deterministic"


class GradientWrong(_Proof):
    """An adapter gets no gradient, one that is not finite, or another one than LoRA's definition
    has; or the base gets one.

    The gradient of a merged weight gives those of A and B by the chain rule, and that is what they
    are held against.

    Bad: a factor that is gathered outside autograd: its other ranks' parts never learn.
    Good: every A and B with a finite gradient that is not zero, the base with none.
    """

    code = "CL507"
    name = "gradient-missing-or-wrong"


class RecomputationLosesGradients(_Proof):
    """Under activation recomputation adapters get another gradient, or none.

    A recomputed piece runs backward only when its input wants a gradient, and the output of a
    frozen embedding does not: the first stage's adapters inside such pieces are dead, and the loss
    still goes down through the others.

    Bad: adapters in the MLPs only, `recompute_modules = ["mlp"]`, one pipeline stage.
    Good: an input of the stack that wants a gradient, which `lora(model)` sees to.
    """

    code = "CL508"
    name = "recomputation-loses-gradients"


class LayoutIsAnotherModel(_Proof):
    """On the job's layout the adapted model's outputs or gradients are not those of one rank.

    A sum over ranks is missing, or made twice: replicated factors drift apart, or learn with
    another rate than the rest. The message has the factor and, where it is one, the multiple.

    Bad: the gradient of a replicated A that is not summed over sequence-parallel ranks.
    Good: the same whole gradients on every layout, and equal copies.
    """

    code = "CL509"
    name = "layout-is-another-model"


class CheckpointLosesAdapters(_Proof):
    """Adapters that were saved and loaded, on this layout or on another, are not the same bits; or
    the files hold their rows in another order.

    Bad: the up and gate adapters saved as if they were fused: saved at tp2 and loaded at tp1 their
    rows come back as 0, 1, 4, 5, 2, 3, 6, 7.
    Good: each adapter an ordinary sharded tensor.
    """

    code = "CL510"
    name = "checkpoint-loses-adapters"


class ExportLosesAdapters(_Proof):
    """Adapters that were exported as a Hugging Face PEFT folder and imported again are not the same
    bits.

    Bad: gate and up rows swapped on the way out and not on the way in.
    Good: `import(export(adapters))` is `adapters`.
    """

    code = "CL511"
    name = "export-loses-adapters"


class SecondSurgeryFreezes(_Proof):
    """Applied a second time, surgery changes what is trainable instead of refusing or leaving the
    model alone.

    A script that resumes, or a recipe that is applied by a callback as well, does that without
    knowing; the run goes on and trains nothing.

    Bad: a second application that freezes the first one's adapters with the rest of the model.
    Good: an error that says the model is adapted already.
    """

    code = "CL512"
    name = "second-surgery-freezes"


class PlacementsNotAsPlanned(_Proof):
    """On the job's own model, at its own size, the implementation adapts other modules than the
    plan says, or cannot be applied.

    Looked at without values, so any size of model can be: names, canonical parts and shapes on
    every pipeline stage.

    Bad: overlapping targets of which only the first counts: `["*.layers.0.*.linear_q", "linear_v"]`
    leaves layer 0 without v.
    Good: what `clora-inspect plan` shows.
    """

    code = "CL513"
    name = "placements-not-as-planned"


RULES: tuple[type[Rule], ...] = (
    ZeroBChangesOutput,
    SurgeryNotAsPlanned,
    DeadAdapter,
    LaterTokenLeaks,
    MergedIsAnotherFunction,
    BaseNotDeterministic,
    GradientWrong,
    RecomputationLosesGradients,
    LayoutIsAnotherModel,
    CheckpointLosesAdapters,
    ExportLosesAdapters,
    SecondSurgeryFreezes,
    PlacementsNotAsPlanned,
)
