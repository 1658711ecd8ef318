"""Spread the layers of a model over the stages of its pipeline. Pure arithmetic.

A *virtual stage* is one model chunk on one pipeline rank; there are pp x vpp of them, and layers
fill them in order. megatron-core splits evenly unless one of its own fields says otherwise. If an
even split is impossible, the architecture's usual uneven split is taken; if it has none, the error
shows a split that works.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clora.errors import LayoutError, cut
from clora.limits import LARGEST_LAYERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clora_inspect.job.layout import Layout

FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
EMBEDDING, LOSS = "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"
BY_LETTERS = "pipeline_model_parallel_layout"

LETTERS = {"E": "embedding", "t": "decoder", "m": "mtp", "L": "loss"}
"""megatron-core's letter for each part of a stage -> its word for it."""

# Without `(` inside the group an unclosed `(` is looked at once, not up to the end of the text.
_REPEATED_GROUP = re.compile(r"\(([^()]+)\)\*([0-9]+)")
_REPEATED_LETTER = re.compile(r"(.)\*(\d+)")
# A repetition with more digits is too long in any case, and Python refuses to parse huge numbers.
_DIGITS = 9

SPLIT_FIELDS = (FIRST, LAST, EMBEDDING, LOSS, BY_LETTERS)
"""The fields of `TransformerConfig` by which a user splits a pipeline."""


@dataclass(frozen=True, slots=True)
class PipelineSplit:
    """The split that was taken."""

    how: str
    """Words for the report, such as "even" or "set by num_layers_in_last_pipeline_stage"."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `TransformerConfig` that make megatron-core split this way."""


def split_pipeline(
    name: str,
    config: Mapping[str, Any],
    usual: Mapping[int, Sequence[int]],
    layout: Layout,
    *,
    ends_only: bool = False,
) -> PipelineSplit:
    """Return the split of a model's layers over the virtual stages of `layout`.

    Args:
        name: the model's name in messages.
        config: fields of `TransformerConfig`. Those that are read are `num_layers`,
            `mtp_num_layers` and the ones of `SPLIT_FIELDS` that the user set.
        usual: the architecture's usual uneven splits, number of virtual stages -> layers of each.
        layout: the sizes of the axes, of which `pp` and `vpp` are read.
        ends_only: whether the model knows no other fields than those for the first and the last
            stage, as megatron-core's Mamba models.

    Raises:
        LayoutError: the layers cannot be spread over the stages; the message has the numbers and a
            split that works.
    """
    layers, mtp_layers = int(config["num_layers"]), int(config.get("mtp_num_layers") or 0)
    # megatron-core's defaults, None and False, split nothing.
    written = {name: config[name] for name in SPLIT_FIELDS if not _is_default(config.get(name))}
    if ends_only:
        _check_known(name, layers, written, layout)
    if written:
        _check_written(name, layers, written, layout, mtp_layers, ends_only=ends_only)
        return PipelineSplit("set by " + ", ".join(written))
    stages = layout.pp * layout.vpp
    if layers % stages == 0:
        return PipelineSplit("even")
    if stages in usual:
        counts = tuple(usual[stages])
        return PipelineSplit(
            f"usual uneven split of {layers} layers: {_runs(counts)}", fields_of(counts, layout, mtp_layers)
        )
    raise LayoutError(
        f"{name} has num_layers = {layers}, which does not divide over {_stages(layout)}. "
        f"{_proposal(layers, layout, mtp_layers, ends_only=ends_only)}"
    )


def _is_default(value: object) -> bool:
    # An empty text or list, and 0, are mistakes, which are refused.
    return value is None or value is False


def _check_known(name: str, layers: int, written: Mapping[str, Any], layout: Layout) -> None:
    """Refuse fields that megatron-core's Mamba models do not read: they divide the layers evenly,
    and a rest is built nowhere.
    """
    unread = [field for field in written if field not in (FIRST, LAST)]
    if unread:
        each = layers // layout.pp
        raise LayoutError(
            f"{', '.join(unread)}: megatron-core's Mamba models do not read it. On each of pp = {layout.pp} stages "
            f"they would build {each} of the {_counted(layers, 'layer')} of {name}, {each * layout.pp} in all. "
            f"{_proposal(layers, layout, instead_of=unread, ends_only=True)}"
        )


def fields_of(counts: Sequence[int], layout: Layout, mtp_layers: int = 0) -> dict[str, Any]:
    """Return the fields that make megatron-core give `counts[i]` layers to virtual stage i.

    A single number is enough if only the last stage differs; otherwise the split is written in
    letters, which can express any.
    """
    # With vpp the field is not enough: megatron-core cuts a rank's layers evenly into chunks.
    if layout.vpp == 1 and len(set(counts[:-1])) == 1:
        return {LAST: counts[-1]}
    return {BY_LETTERS: letters(counts, mtp_layers)}


def stage_counts(layers: int, split: Mapping[str, Any], layout: Layout) -> list[int]:
    """Return the number of layers on each virtual stage, in the order in which tokens pass them.

    Args:
        layers: layers of the model.
        split: the fields of `SPLIT_FIELDS` by which megatron-core splits it; none for evenly.
        layout: the sizes of the axes, which the fields fit.
    """
    if split.get(BY_LETTERS):
        return [group.count("t") for group in unrolled(split[BY_LETTERS]).split("|")]
    first, last = split.get(FIRST), split.get(LAST)
    before, behind = bool(split.get(EMBEDDING)), bool(split.get(LOSS))
    ends = [end for end in (first, last) if end is not None]
    each = (layers + before + behind - sum(ends)) // max(layout.pp - len(ends), 1)
    ranks = [each] * layout.pp
    ranks[0] = first if first is not None else each - before
    ranks[-1] = last if last is not None else ranks[-1] - behind
    # Virtual stage 0 of every rank comes before stage 1 of any.
    return [count // layout.vpp for _ in range(layout.vpp) for count in ranks]


def letters(counts: Sequence[int], mtp_layers: int = 0) -> str:
    """Return megatron-core's notation, one group for each virtual stage: `Ett|tt|tmL` for
    E(mbedding), t(ransformer layers), m(ulti-token prediction), L(oss).
    """
    groups = ["t" * count for count in counts]
    groups[0] = "E" + groups[0]
    groups[-1] += "m" * mtp_layers + "L"
    return "|".join(groups)


def _check_written(
    name: str, layers: int, written: Mapping[str, Any], layout: Layout, mtp_layers: int, *, ends_only: bool
) -> None:
    """Refuse fields that the user set and that megatron-core would refuse or get wrong."""
    if layout.pp == 1:
        raise LayoutError(f"{', '.join(written)} splits a pipeline, and pp = 1 is none. Add --pp or leave it out.")
    for end in (EMBEDDING, LOSS):
        if written.get(end, True) is not True:
            raise LayoutError(f"{end} = {written[end]!r:.80}: it is true or false.")
    if BY_LETTERS in written:
        _check_letters(name, layers, written, layout, mtp_layers)
        return
    proposal = _proposal(layers, layout, mtp_layers, instead_of=tuple(written), ends_only=ends_only)
    ends = [written[end] for end in (FIRST, LAST) if end in written]
    # The embedding and the loss take the place of one layer each.
    counted_as_layers = sum(1 for end in (EMBEDDING, LOSS) if end in written)
    if ends and counted_as_layers:
        raise LayoutError(
            f"{FIRST} or {LAST} cannot be combined with {EMBEDDING} or {LOSS}: megatron-core counts either way, "
            "not both."
        )
    if any(isinstance(end, bool) or not isinstance(end, int) or end < 1 for end in ends):
        values = ", ".join(f"{end} = {value!r}" for end, value in written.items())
        raise LayoutError(f"{values}: a number of layers is a whole number of at least 1.")
    middle, rest = layout.pp - len(ends), layers + counted_as_layers - sum(ends)
    if rest < 0 or (middle and rest % middle) or (not middle and rest):
        values = ", ".join(f"{end} = {value}" for end, value in written.items())
        raise LayoutError(
            f"{name} has num_layers = {layers}; with {values} the rest, {rest} left for {middle} of "
            f"pp = {layout.pp} stages, does not divide. {proposal}"
        )
    uneven = [count for count in (*ends, rest // middle if middle else 0) if count % layout.vpp]
    if uneven:
        raise LayoutError(
            f"{name}: a stage of {_counted(uneven[0], 'layer')} does not divide into vpp = {layout.vpp} chunks. "
            f"{proposal}"
        )


def _check_letters(name: str, layers: int, written: Mapping[str, Any], layout: Layout, mtp_layers: int) -> None:
    if len(written) > 1:
        raise LayoutError(
            f"{BY_LETTERS} says it all: leave out {', '.join(field for field in written if field != BY_LETTERS)}."
        )
    groups = unrolled(written[BY_LETTERS]).split("|")
    proposal = _proposal(layers, layout, mtp_layers, instead_of=(BY_LETTERS,))
    if len(groups) != layout.pp * layout.vpp:
        raise LayoutError(
            f"{BY_LETTERS} has {_counted(len(groups), 'group')}, and there are {_stages(layout)}. {proposal}"
        )
    stages = "".join(groups)
    counts = {letter: stages.count(letter) for letter in LETTERS}
    for letter, count, what in (("t", layers, "layer"), ("m", mtp_layers, "multi-token-prediction layer")):
        if counts[letter] != count:
            raise LayoutError(
                f"{BY_LETTERS} places {_counted(counts[letter], what)}, and {name} has {count}. {proposal}"
            )
    if not (stages.startswith("E") and stages.endswith("L") and counts["E"] == counts["L"] == 1):
        raise LayoutError(
            f"{BY_LETTERS} has one embedding E, which comes first, and one loss L, which comes last; it reads "
            f"{cut(stages)}. {proposal}"
        )


def unrolled(written: object) -> str:
    """Return `pipeline_model_parallel_layout` with one letter for each layer: `Et*2|(t|)*2L`
    becomes `Ett|t|t|L`.

    Args:
        written: letters, or a list of stages, each a list of megatron-core's words.

    Raises:
        LayoutError: it is neither, has an unknown letter or word, or is longer than any model.
    """
    if isinstance(written, list):
        written = "|".join("".join(_letter(word) for word in _stage(stage)) for stage in written)
    if not isinstance(written, str):
        raise LayoutError(f"{BY_LETTERS} = {written!r}: write letters, for example Ettt|tttt|tttL.")
    text = written.replace(",", "")
    # megatron-core unrolls groups first, then letters; neither nests.
    for repeated in (_REPEATED_GROUP, _REPEATED_LETTER):
        length = sum(len(found[1]) * int(found[2][:_DIGITS]) for found in repeated.finditer(text))
        if length > LARGEST_LAYERS * len(LETTERS):
            raise LayoutError(
                f"{BY_LETTERS} = {cut(written)} unrolls to {length:,} letters; no model has as many layers."
            )
        text = repeated.sub(lambda found: found[1] * int(found[2]), text)
    unknown = set(text) - set(LETTERS) - {"|"}
    if unknown:
        raise LayoutError(
            f"{BY_LETTERS} = {cut(written)}: {min(unknown)!r} is none of E (embedding), t (transformer layer), "
            "m (prediction layer), L (loss) and |, which parts stages; x*3 and (xy|)*3 repeat."
        )
    return text


def _stage(stage: object) -> list[object]:
    if not isinstance(stage, list):
        raise LayoutError(
            f"{BY_LETTERS} has {stage!r} among its stages: a stage is a list of {', '.join(LETTERS.values())}."
        )
    return stage


def _letter(word: object) -> str:
    for letter, known in LETTERS.items():
        if word == known:
            return letter
    raise LayoutError(f"{BY_LETTERS} has {word!r} in a stage: a layer is one of {', '.join(LETTERS.values())}.")


def _proposal(
    layers: int, layout: Layout, mtp_layers: int = 0, *, instead_of: Sequence[str] = (), ends_only: bool = False
) -> str:
    """Return a sentence with a split that works, as options that replace those of `instead_of`."""
    stages = layout.pp * layout.vpp
    if instead_of and layers % stages == 0:
        return f"They divide evenly, {layers // stages} a stage: leave out {', '.join(instead_of)}."
    if layers < stages:
        return f"There are fewer layers than stages: use at most pp x vpp = {layers}."
    counts = _ends(layers, stages) if ends_only else _balanced(layers, stages)
    # A single number is easier to write, if it leaves the last stage at least half of the others'.
    most = counts[0]
    last = layers - most * (stages - 1)
    if layout.vpp == 1 and not ends_only and 2 * last >= most:
        counts = [most] * (stages - 1) + [last]
    fields = {FIRST: counts[0], LAST: counts[-1]} if ends_only else fields_of(counts, layout, mtp_layers)
    written = " ".join(
        f"--set 'model.{option}=\"{value}\"'" if isinstance(value, str) else f"--set model.{option}={value}"
        for option, value in fields.items()
    )
    left_out = [name for name in instead_of if name not in fields]
    instead = f" in place of {', '.join(left_out)}" if left_out else ""
    return f"A split that works ({_runs(counts)}){instead}: {written}"


def _balanced(layers: int, stages: int) -> list[int]:
    """Return numbers of layers that differ by one at most, the larger ones first."""
    least, more = divmod(layers, stages)
    return [least + 1] * more + [least] * (stages - more)


def _ends(layers: int, stages: int) -> list[int]:
    """Return the most even numbers of layers where all stages but the two ends have the same."""
    middle = range(1, layers // max(stages - 2, 1) + 1) if stages > 2 else range(1)
    splits = []
    for each in middle:
        rest = layers - each * (stages - 2)
        if rest >= 2:
            splits.append([-(-rest // 2), *[each] * (stages - 2), rest // 2])
    return min(splits, key=lambda counts: max(counts) - min(counts))


def _runs(counts: Sequence[int]) -> str:
    """Return the numbers in short: `3 x 16, 13` for `16, 16, 16, 13`."""
    *same, last = counts
    if len(same) > 2 and len(set(same)) == 1:
        return f"{len(same)} x {same[0]}, {last}"
    return ", ".join(map(str, counts))


def _stages(layout: Layout) -> str:
    return f"pp x vpp = {layout.pp} x {layout.vpp} virtual stages" if layout.vpp > 1 else f"pp = {layout.pp} stages"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
