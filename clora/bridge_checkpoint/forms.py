"""Say in which form a checkpoint holds the adapters that a model wants. Pure.

Four forms of Megatron-Bridge differ from clora's:

- *Halves.* It saves the adapters of gate and up as if each were the fused weight of both: with
  `n` tensor-parallel ranks the rows of B are cut into `2 n` pieces. Rank r writes its first half as
  piece r and its second half as piece n + r, so the rows come back in another order. The pieces are
  in the index of the checkpoint, and A beside it is cut into `n`.
- *Expert axis.* Since 0.5, the pair that all experts of a layer share is saved once for each of
  them, `[layers, experts, rank, in]`. clora saves it once.
- *Plain linears.* Up to 0.6, the adapter of a `torch.nn.Linear` is a part of that linear:
  `X.linear_in.weight` instead of `X.adapter.linear_in.weight`.
- *Split experts.* Releases 0.3 adapt gate and up of grouped experts one by one. No adapter of clora
  computes the same, so this form is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from clora.folders.checkpoint_metadata import SavedTensor

_FIRST_WITH_EXPERT_AXIS = 5
_LAST_WITH_PLAIN_KEYS = 6
_LAST_THAT_HALVES_ALL = 4
_NEWEST = 7
"""Minor numbers of releases `0.N`. The main branch of August 2026 is 0.7 in development."""
_FIRST_THAT_REORDERS = 2
"""Ranks. The two halves of a single rank lie in their order."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One tensor of the adapters of a model."""

    shape: tuple[int, ...]
    """The full shape as clora saves it."""
    prepended: int
    """Number of axes in front of those of the matrix: the layer, a sequential expert."""
    num_experts: int = 0
    """Number of experts that share the pair of a grouped linear; 0 for any other tensor."""
    is_plain: bool = False
    """True beside a `torch.nn.Linear`."""
    may_be_halved: bool = False
    """True for a B of `linear_fc1` whose rows are not gate and up together."""

    @property
    def shape_with_experts(self) -> tuple[int, ...] | None:
        """The shape with an axis of experts; None for a tensor that never has one."""
        if not self.num_experts:
            return None
        return (*self.shape[: self.prepended], self.num_experts, *self.shape[self.prepended :])


@dataclass(frozen=True, slots=True)
class SavedForm:
    """How a checkpoint holds one wanted tensor."""

    key: str
    halved_by: int = 0
    """Number of ranks whose halves the rows are; 0 for rows in order."""
    has_expert_axis: bool = False
    is_ours: bool = True
    """True if clora's own shards read it."""


@dataclass(frozen=True, slots=True)
class Release:
    """The forms that one release of Megatron-Bridge reads and writes."""

    name: str
    has_expert_axis: bool
    has_plain_keys: bool
    splits_experts: bool
    halves_all: bool
    """True if it halves the rows of every `linear_fc1`, also of one without a gate."""


def release_named(name: str) -> Release:
    """Return the facts of the release `name`: "0.3.1", "0.6" or "main".

    Raises:
        CheckpointError: its files are not known.
    """
    found = re.fullmatch(r"0\.(\d+)(\.\d+\S*)?", name)
    minor = _NEWEST if name == "main" else int(found[1]) if found else -1
    if not 3 <= minor <= _NEWEST:
        raise CheckpointError(
            f"bridge = {name!r}: the adapter files of Megatron-Bridge 0.3 to 0.{_NEWEST} are known. "
            "Write a release such as '0.3.1', or 'main'."
        )
    return Release(
        name=f"Megatron-Bridge {name}",
        has_expert_axis=minor >= _FIRST_WITH_EXPERT_AXIS,
        has_plain_keys=minor <= _LAST_WITH_PLAIN_KEYS,
        splits_experts=minor == 3,
        halves_all=minor <= _LAST_THAT_HALVES_ALL,
    )


def plain_key(key: str) -> str:
    """Return the key that releases up to 0.6 give a tensor of the adapter of a plain linear."""
    return key.replace(".adapter.", ".")


def forms_of(wanted: Mapping[str, Wanted], saved: Mapping[str, SavedTensor]) -> dict[str, SavedForm]:
    """Return key -> form for each wanted tensor that the checkpoint holds in a known form.

    A tensor that is missing or has another shape has no entry.

    Args:
        wanted: key -> tensor of the model, on all ranks together.
        saved: key -> tensor of the checkpoint.

    Raises:
        CheckpointError: the rows of a tensor are in pieces that nobody is known to write.
    """
    found: dict[str, SavedForm] = {}
    for key, want in wanted.items():
        name = plain_key(key) if want.is_plain and key not in saved else key
        if name not in saved:
            continue
        shape = saved[name].shape
        has_expert_axis = shape == want.shape_with_experts
        if shape != want.shape and not has_expert_axis:
            continue
        ranks = halved_by(name, saved) if want.may_be_halved else 0
        is_ours = name == key and not has_expert_axis and ranks < _FIRST_THAT_REORDERS
        found[key] = SavedForm(name, ranks, has_expert_axis, is_ours)
    return found


def halved_by(key: str, saved: Mapping[str, SavedTensor]) -> int:
    """Return the number of ranks whose halves the rows of the B called `key` are, or 0."""
    partner = key.replace(".linear_out.", ".linear_in.")
    if partner not in saved:
        return 0
    rows, starts = saved[key].shape[-2], saved[key].starts[-2]
    pieces, ranks = len(starts), len(saved[partner].starts[-2])
    even = not rows % pieces and starts == tuple(range(0, rows, rows // pieces))
    if even and pieces == ranks:
        return 0
    if even and pieces == 2 * ranks:
        return ranks
    raise CheckpointError(
        f"{key} is saved in {pieces} pieces of rows{'' if even else ' of different sizes'}, and the A beside it in "
        f"{ranks}. clora writes as many, and Megatron-Bridge 0.3 to 0.{_NEWEST} twice as many; the order of these rows "
        "is not known. Save the adapters again with the program that trained them, at one tensor-parallel rank."
    )


def explanation(missing: Collection[str], unexpected: Collection[str]) -> str:
    """Return a sentence about the foreign adapters that a checkpoint holds, or ""."""
    if any(re.search(r"\.experts\.linear_fc1\.adapter\.adapter_(gate|up)\.", key) for key in unexpected):
        return (
            "Megatron-Bridge 0.3 wrote it: it adapts gate and up of the routed experts one by one, and clora, like "
            "Megatron-Bridge from 0.4 on, as a whole. No adapter of clora computes the same: merge it there, or train "
            "without the experts' linear_fc1."
        )
    if any(re.search(r"\.linear_(qkv|fc1)\.adapter\.linear_(in|out)\.weight", key) for key in unexpected) and any(
        re.search(r"\.adapter\.adapter_", key) for key in missing
    ):
        return (
            "Megatron-Bridge's fused LoRA wrote it, whose q, k and v (or gate and up) share one A. Canonical LoRA has "
            "an A for each: export it there to Hugging Face's form."
        )
    if any(".weight_magnitude" in key for key in unexpected):
        return "Megatron-Bridge's DoRA wrote it, which has magnitudes beside A and B. This is LoRA."
    if any(key.endswith((".weight_w", ".weight_v")) for key in unexpected):
        return (
            "Megatron-Bridge 0.5 or newer wrote it with singleton_local_shards, a tensor for each rank. Save it there "
            "without."
        )
    if any(key.endswith("in_proj.adapter.linear_out.weight") for key in unexpected):
        return (
            "Megatron-Bridge wrote the adapter of in_proj as each rank packs it. Save it there at one tensor-parallel "
            "rank and export it to Hugging Face's form."
        )
    return ""
