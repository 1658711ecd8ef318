"""CL62, checkpoint: findings about a distributed checkpoint that a job is to load."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Needs, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from clora_inspect.checkpoint.comparison import Difference, Reshaped
    from clora_inspect.job.finding import Finding, Location

MOST_DETAILS = 200
"""Lines of one finding. A checkpoint of another model differs in all of its tensors."""

_LARGEST_UNIT = 128 * 1024
"""Rows. Megatron pads a vocabulary to a multiple of 128 * tp."""

_LAYER = re.compile(r"\blayers\.(\d+)\.")


class CheckpointRule(Rule):
    """A rule that looks at a checkpoint; a check calls `difference_findings` and not `check`."""

    needs = Needs.CHECKPOINT
    severity = Severity.ERROR


class CheckpointUnreadable(CheckpointRule):
    """The checkpoint of a job cannot be read: nothing is there, it is damaged, or it has another
    format.

    A distributed checkpoint of megatron-core (`--ckpt-format torch_dist`) is a folder with
    `.metadata`, `metadata.json`, files of tensors and, before 0.19, `common.pt`; the folder above
    it, with `latest_checkpointed_iteration.txt`, means its latest iteration. Only the index is
    read. A checkpoint of pickles (`mp_rank_00`) is never opened, because a pickle can run any code.

    Bad: `checkpoint = "runs/base"`, with `runs/base/mp_rank_00/model_optim_rng.pt`
    Good: the same run saved again with `--ckpt-format torch_dist`
    """

    code = "CL620"
    name = "checkpoint-unreadable"


class CheckpointLacksTensors(CheckpointRule):
    """The base of a job has parameters that its checkpoint lacks, so that the load fails.

    The checkpoint belongs to another model: fewer layers, no biases, no separate output layer,
    dense MLPs and no experts. A checkpoint can be loaded at another tp, pp, ep or cp: its names do
    not depend on the layout.

    Bad: a checkpoint of 24 layers beside a model of 28
    Good: the checkpoint of this model, or `--set model.num_layers=24`
    """

    code = "CL621"
    name = "checkpoint-lacks-tensors"


class CheckpointHasMoreTensors(CheckpointRule):
    """The checkpoint has parameters that the base of the job does not have.

    megatron-core loads the rest and says nothing, unless its load is strict. The model then
    computes something else than the one that was saved. Layers of multi-token prediction may be
    left behind on purpose, so that they are a warning.

    Bad: a checkpoint of 32 layers beside a job with `num_layers = 28`
    Good: a job of all 32 layers
    """

    code = "CL622"
    name = "checkpoint-has-more-tensors"


class CheckpointShapeDiffers(CheckpointRule):
    """A parameter of the base has another shape in the checkpoint, so that the load fails.

    The shapes are those of the whole tensor over all ranks and do not depend on the layout.

    Bad: a checkpoint with 8 key-value groups beside a job with `num_query_groups = 4`
    Good: the model's sizes as they were when the checkpoint was saved
    """

    code = "CL623"
    name = "checkpoint-shape-differs"


class CheckpointVocabularyDiffers(CheckpointRule):
    """The embedding has another number of rows in the checkpoint than in the job, and padding does
    not explain it.

    megatron-core loads the rows that both have. Rows that the job has beside them keep their first
    values, and rows that only the checkpoint has are left behind. Trainers pad the vocabulary to a
    multiple of `128 * tp`, so that a few more rows in the checkpoint are no finding.

    Bad: a checkpoint of 32,000 tokens beside a model of 128,256
    Good: the tokenizer and the vocabulary of the checkpoint
    """

    code = "CL624"
    name = "checkpoint-vocabulary-differs"
    severity = Severity.WARNING


class CheckpointAdaptersDiffer(CheckpointRule):
    """The checkpoint has adapters, and they are not those of the job.

    `clora.load_adapters` refuses them. A trainer that loads with megatron-core's defaults drops
    what it has no place for. A checkpoint without any adapters is that of a base: training then
    begins with new ones, and this rule is silent.

    Bad: adapters saved with `dim = 8` beside a job with `dim = 16`
    Good: the `target_modules`, `dim` and `share_expert_adapters` that they were saved with
    """

    code = "CL625"
    name = "checkpoint-adapters-differ"


class CheckpointScaleDiffers(CheckpointRule):
    """The adapters in the checkpoint were trained with another scale, alpha / dim.

    The tensors do not tell: they load, and the model computes something else. `save_adapters`
    writes the scale beside them. For a checkpoint that a trainer wrote nobody can tell.

    Bad: adapters saved with `alpha = 8` beside a job with `alpha = 32`
    Good: `alpha = 8`
    """

    code = "CL626"
    name = "checkpoint-scale-differs"


class BaseNotSavable(CheckpointRule):
    """megatron-core cannot describe how the base of the job lies in a distributed checkpoint.

    So no such checkpoint can be loaded by it, and nothing can be compared. megatron-core asserts
    for tied embeddings with multi-token prediction behind the first stage, and a module of your
    own may have a `sharded_state_dict` that fails.

    Bad: tied embeddings, `mtp_num_layers = 1` and `pp = 2`
    Good: `pp = 1`
    """

    code = "CL627"
    name = "base-not-savable"


def difference_findings(difference: Difference, folder: str, location: Location | None) -> Iterator[Finding]:
    """Yield what keeps the base of a job from being loaded from the checkpoint in `folder`."""
    asked, missing, unexpected = difference.asked, difference.missing, difference.unexpected
    if missing:
        yield CheckpointLacksTensors.found(
            f"{folder} lacks {len(missing)} of the {asked} tensors that this job asks for",
            fix=_fix_missing(difference),
            details=_folded(missing),
            location=location,
        )
    mtp = tuple(key for key in unexpected if key.startswith("mtp."))
    for keys, severity in ((mtp, Severity.WARNING), (tuple(sorted({*unexpected} - {*mtp})), Severity.ERROR)):
        if keys:
            yield CheckpointHasMoreTensors.found(
                f"{folder} has {_tensors(len(keys))} that this job does not ask for",
                severity=severity,
                fix=_fix_unexpected(keys, missing),
                details=_folded(keys),
                location=location,
            )
    if difference.reshaped:
        yield CheckpointShapeDiffers.found(
            f"{folder} has {len(difference.reshaped)} of {asked} tensors in another shape",
            fix=_fix_reshaped(difference.reshaped),
            details=_shapes(difference.reshaped),
            location=location,
        )
    rows = [each for each in difference.other_rows if not _is_padding(each)]
    if rows:
        yield CheckpointVocabularyDiffers.found(
            f"{folder} has {rows[0].saved[0]:,} rows in {rows[0].key}, and this job {rows[0].asked[0]:,}: "
            f"megatron-core loads the first {min(rows[0].saved[0], rows[0].asked[0]):,}",
            fix=f"if all of them are meant: --set model.vocab_size={rows[0].saved[0]}",
            details=_shapes(rows),
            location=location,
        )


def adapter_findings(difference: Difference, folder: str, location: Location | None) -> Iterator[Finding]:
    """Yield how the adapters in `folder` differ from those of a job."""
    missing, unexpected, reshaped = difference.missing, difference.unexpected, difference.reshaped
    if not (missing or unexpected or reshaped):
        return
    parts = (
        (missing, f"lacks {len(missing)} of the {difference.asked} tensors of this job's adapters"),
        (unexpected, f"has {_tensors(len(unexpected))} of adapters that this job does not have"),
        (reshaped, f"has {len(reshaped)} of {difference.asked} in another shape"),
    )
    yield CheckpointAdaptersDiffer.found(
        f"{folder} is of other adapters: it {', and '.join(words for keys, words in parts if keys)}",
        fix=_fix_adapters(difference),
        details=(
            *_folded(missing, "lacks "),
            *_folded(unexpected, "has "),
            *_shapes(reshaped),
        )[:MOST_DETAILS],
        location=location,
    )


def _fix_missing(difference: Difference) -> str:
    missing, unexpected = difference.missing, difference.unexpected
    prefix = _foreign_prefix(missing, unexpected)
    if prefix:
        return f"its names begin with {prefix!r}, which a wrapper of the model has put there: save the model inside"
    # Same tensors, named once for all layers and once for each.
    unnumbered = {_LAYER.sub("layers.", key) for key in missing}
    if len(unnumbered & {_LAYER.sub("layers.", key) for key in unexpected}) * 2 > len(unnumbered):
        return (
            "one of the two has a tensor for each layer and the other one tensor of all layers: give this job the "
            "moe_layer_freq or linear_attention_freq of the saved model, in the same form"
        )
    if len(missing) * 2 > difference.asked:
        return "it is the checkpoint of another model"
    if all(_LAYER.search(key) for key in missing) and not unexpected and _whole_layers(missing):
        return f"it has fewer layers: layers {_numbers(missing)} are missing; set model.num_layers to those it has"
    return "build the model that was saved: --set model.FIELD=VALUE for what differs"


def _fix_unexpected(keys: Sequence[str], missing: Sequence[str]) -> str:
    if all(key.startswith("mtp.") for key in keys):
        return "to load them as well: --set model.mtp_num_layers=N"
    if not missing and all(_LAYER.search(key) for key in keys) and _whole_layers(keys):
        return f"it has more layers: {_numbers(keys)} are left behind; set model.num_layers to all of them"
    if not missing and set(keys) == {"output_layer.weight"}:
        return "its output layer is not tied to the embedding: --set model.share_embeddings_and_output_weights=false"
    return "build the model that was saved: --set model.FIELD=VALUE for what differs"


# Part of a key -> fields of the config that decide the shape. The first that fits counts.
_FIELDS = (
    ("linear_qkv", "num_attention_heads, num_query_groups and kv_channels"),
    ("linear_kv", "kv_lora_rank, qk_pos_emb_head_dim, qk_head_dim and v_head_dim"),
    ("linear_q", "q_lora_rank, num_attention_heads and qk_head_dim"),
    ("shared_experts", "moe_shared_expert_intermediate_size"),
    ("experts", "num_moe_experts and moe_ffn_hidden_size"),
    ("router", "num_moe_experts"),
    ("mixer", "mamba_num_heads, mamba_head_dim, mamba_num_groups and mamba_state_dim"),
    ("linear_fc", "ffn_hidden_size, and gated_linear_unit, which doubles linear_fc1"),
)


def _fix_reshaped(reshaped: Sequence[Reshaped]) -> str:
    in_all_layers = [each for each in reshaped if ".layers." in each.key and not _LAYER.search(each.key)]
    depths = {(each.saved[:1], each.asked[:1]) for each in in_all_layers if each.saved[1:] == each.asked[1:]}
    if in_all_layers and len(in_all_layers) == len(reshaped) and len(depths) == 1:
        ((saved, _),) = depths
        if saved:
            return f"it has {saved[0]} layers: --set model.num_layers={saved[0]}"
    # The norm behind all layers. Others are inside an attention, and as wide as its parts.
    if any(each.key.startswith("decoder.final_") for each in reshaped):
        return "set the model's hidden_size to the checkpoint's, or name the checkpoint of this model"
    for part, names in _FIELDS:
        if any(part in each.key for each in reshaped):
            return f"set these to what they were when it was saved: {names}"
    return "set the model's sizes to the checkpoint's: --set model.FIELD=VALUE"


def _fix_adapters(difference: Difference) -> str:
    if any(re.search(r"linear_(?:qkv|fc1)\.adapter\.linear_(?:in|out)\b", key) for key in difference.unexpected):
        return "they were trained as LoRA, one pair for a fused linear; canonical LoRA has one for each of its parts"
    if difference.missing or difference.unexpected:
        return "use the target_modules that they were saved with"
    return "use the dim and share_expert_adapters that they were saved with"


def _foreign_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return what stands before the name of each missing tensor in the checkpoint; "" if nothing
    does.
    """
    for prefix in ("module.", "model.", "model.module."):
        if missing and set(unexpected) >= {f"{prefix}{key}" for key in missing}:
            return prefix
    return ""


def _whole_layers(keys: Sequence[str]) -> bool:
    """Return whether the layers in `keys` are all behind those that both have."""
    names = {_LAYER.sub("layers.", key) for key in keys}
    return any("self_attention" in name or "mixer" in name for name in names) and any(
        "layernorm" in name or "layer_norm" in name for name in names
    )


def _numbers(keys: Sequence[str]) -> str:
    return fold(int(found[1]) for key in keys if (found := _LAYER.search(key)))


def _is_padding(rows: Reshaped) -> bool:
    """Return whether the checkpoint has the rows of the job and those that padding adds."""
    surplus = rows.saved[0] - rows.asked[0]
    unit = 128
    while unit <= _LARGEST_UNIT:
        if 0 <= surplus < unit and rows.saved[0] % unit == 0:
            return True
        unit *= 2
    return False


def _tensors(number: int) -> str:
    return f"{number} tensor{'' if number == 1 else 's'}"


def _shapes(reshaped: Sequence[Reshaped]) -> tuple[str, ...]:
    def line(name: str, one: Reshaped) -> str:
        return f"{name}: {list(one.saved)} in the checkpoint, {list(one.asked)} asked for"

    # Layers that differ in the same way are one line.
    alike: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[Reshaped]] = {}
    for one in reshaped:
        alike.setdefault((_LAYER.sub("layers.", one.key), one.saved, one.asked), []).append(one)
    return _cut([line(_name([one.key for one in same]), same[0]) for same in alike.values()])


def _folded(keys: Iterable[str], before: str = "") -> tuple[str, ...]:
    """Return one line for the tensors of all layers that have the same name."""
    alike: dict[str, list[str]] = {}
    for key in keys:
        alike.setdefault(_LAYER.sub("layers.", key), []).append(key)
    return _cut([f"{before}{_name(same)}" for same in alike.values()])


def _name(keys: Sequence[str]) -> str:
    """Return the name of tensors that differ in their layer only."""
    if len(keys) == 1:
        return keys[0]
    return _LAYER.sub(lambda _: f"layers.{_numbers(keys)}.", keys[0])


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    more = len(lines) - MOST_DETAILS
    return (*islice(lines, MOST_DETAILS), *([f"and {more:,} more"] if more > 0 else []))
