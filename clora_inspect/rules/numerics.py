"""CL5, numerics: the pages of the proofs of `verify`, whose table is `verify/proof_table.py`."""

from __future__ import annotations

from clora_inspect.job.finding import Severity
from clora_inspect.rules.base import Needs, Rule


# `verify` makes the findings of these rules itself. The classes hold only code, name and page, so
# that `clora-inspect explain CL501` works like for any other rule.
class _Proof(Rule):
    family = "numerics"
    severity = Severity.ERROR
    needs = Needs.FORWARD


class ZeroBChangesOutput(_Proof):
    """With B = 0 the adapted model does not give the base's output bit by bit.

    LoRA starts from the base model: B is zero, so every adapter adds nothing. If the output
    differs, surgery has changed something else: a bias is dropped, a value is cast to another dtype
    and back, a norm runs twice, dropout is on in evaluation, or B is not zero. The message names
    the first module whose output differs, and by how much. A forward that raises counts as well:
    training would stop at its first step.

    Bad: an adapted linear that returns `out + delta` in bf16 while the base's `out` is fp32.
    Good: the delta is cast to the dtype of the base's output, then added.
    """

    code = "CL501"
    name = "zero-b-changes-output"


class SurgeryNotAsPlanned(_Proof):
    """The model's adapters are not those that the targets choose, or surgery changed something
    else.

    Every planned adapter must be in the model exactly once, with the planned shapes and with
    factors of its own. All adapters must be trainable and the whole base frozen, with its parameter
    names, values and config unchanged.

    Bad: `["*.layers.1.*.linear_proj"]` also adapts layers 10 to 19, because the dot of the pattern
    stood for any character.
    Good: the model has what `clora-inspect plan` shows.
    """

    code = "CL502"
    name = "surgery-not-as-planned"


class DeadAdapter(_Proof):
    """A nudge to an adapter's B does not move the model's output, or moves rows of a fused linear
    that belong to another part.

    In the first case the adapter is computed and thrown away: it would train on nothing. In the
    second its delta is packed in another order than the base's rows, so that training q changes k.
    At B = 0 neither shows.

    Bad: q, k and v deltas joined as `[q | k | v]` beside a `linear_qkv` that is packed by key-value
    group.
    Good: the q, k and v of each group side by side, as megatron-core packs them.
    """

    code = "CL503"
    name = "dead-or-misplaced-adapter"


class LaterTokenLeaks(_Proof):
    """A later token changes an earlier output of the adapted model, but not of the base.

    The model then learns from the tokens that it is to predict. Its loss falls faster than it
    should, and it cannot generate. This happens when a delta is reshaped by the head counts of the
    whole model on a rank that holds only a part of them.

    Bad: more tensor-parallel ranks than key-value groups, and a packing that divides by the number
    of all groups.
    Good: each rank packs its own rows, wherever they begin and end.
    """

    code = "CL504"
    name = "later-token-leaks"


class MergedIsAnotherFunction(_Proof):
    """With random A and B the adapted model is not the model with `alpha / dim B A` added to its
    weights.

    What is trained is then not what is merged, exported or served. A test with B = 0 cannot see it.
    The proof makes the merged weights itself, from the definition of LoRA and megatron-core's
    packing. A sound model differs by about 3e-7 in fp32; one row in the wrong place makes it 1e-2.
    The implementation's own merging must give the same weights, and unmerging the base's bits.

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
    """An adapter gets no gradient, an infinite one, or another one than LoRA's definition gives; or
    the base gets one.

    The gradients of A and B follow from the gradient of the merged weight by the chain rule. The
    proof compares with those.

    Bad: a factor that is gathered outside autograd, so that the parts of other ranks never learn.
    Good: every A and B has a finite gradient that is not zero, and the base has none.
    """

    code = "CL507"
    name = "gradient-missing-or-wrong"


class RecomputationLosesGradients(_Proof):
    """With activation recomputation, adapters get another gradient, or none.

    A recomputed piece runs backward only when its input requires a gradient, and the output of a
    frozen embedding does not. Adapters of the first stage inside such pieces are then dead, while
    the loss still falls because of the others.

    Bad: adapters in the MLPs only, `recompute_modules = ["mlp"]`, one pipeline stage.
    Good: the input of the layers requires a gradient, which `lora(model)` arranges.
    """

    code = "CL508"
    name = "recomputation-loses-gradients"


class LayoutIsAnotherModel(_Proof):
    """On the job's layout, the adapted model's outputs or gradients are not those of one rank.

    A sum over ranks is missing or made twice: copies of a replicated factor drift apart, or learn
    faster than the rest. The message names the factor and, where the gradient is a multiple of the
    right one, the multiple.

    Bad: the gradient of a replicated A is not summed over sequence-parallel ranks.
    Good: the same whole gradients on every layout, and equal copies.
    """

    code = "CL509"
    name = "layout-is-another-model"


class CheckpointLosesAdapters(_Proof):
    """Adapters that were saved and loaded, on this layout or another, are not the same bits; or the
    files hold their rows in another order; or a model with another alpha loads them.

    Bad: the up and gate adapters are saved as if they were fused: saved at tp2 and loaded at tp1,
    their rows come back as 0, 1, 4, 5, 2, 3, 6, 7.
    Good: each adapter is an ordinary sharded tensor.
    """

    code = "CL510"
    name = "checkpoint-loses-adapters"


class ExportLosesAdapters(_Proof):
    """Adapters that were exported as a Hugging Face PEFT folder and imported again are not the same
    bits.

    Bad: gate and up rows are swapped by the export and not by the import.
    Good: `import(export(adapters))` is `adapters`.
    """

    code = "CL511"
    name = "export-loses-adapters"


class SecondSurgeryFreezes(_Proof):
    """Applied a second time, surgery changes what is trainable instead of refusing or leaving the
    model alone.

    A script that resumes does this without knowing, and so does a recipe that a callback applies as
    well. The run goes on and trains nothing.

    Bad: the second application freezes the adapters of the first with the rest of the model.
    Good: an error says that the model is adapted already.
    """

    code = "CL512"
    name = "second-surgery-freezes"


class PlacementsNotAsPlanned(_Proof):
    """On the job's own model, the implementation adapts other modules than the plan says, or cannot
    be applied.

    This is checked at full size on every pipeline stage. Without values a model of any size fits:
    only names, canonical parts and shapes are compared.

    Bad: overlapping targets of which only the first counts: `["*.layers.0.*.linear_q", "linear_v"]`
    leaves layer 0 without v.
    Good: the model has what `clora-inspect plan` shows.
    """

    code = "CL513"
    name = "placements-not-as-planned"


class DropoutIsAnother(_Proof):
    """LoRA's dropout is not what the job says: on the other side of the adapter, with another rate
    or scale, in evaluation, or with another mask when activations are recomputed.

    `dropout_position = "pre"` drops values of the adapter's input, `"post"` of its output. In
    training each value is dropped with probability p, and the others are divided by 1 - p. Ranks
    that hold equal values draw equal masks; ranks that hold different tokens or columns draw masks
    of their own. The other proofs compare runs with each other and have this dropout switched off.

    Bad: `dropout_position = "pre"`, and the mask is drawn for the delta.
    Good: recomputation starts from the random state of the first forward, and draws its mask again.
    """

    code = "CL514"
    name = "dropout-is-another"


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
    DropoutIsAnother,
)
