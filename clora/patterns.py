"""Match target strings against module paths, and suggest names for a target that matches nothing.

The grammar, by examples:

- ``linear_proj`` has no dot and no wildcard. It matches every module with that *last name*.
- ``decoder.layers.3.mlp.linear_fc2`` is a path. It matches the module with that *whole path*.
- ``*.layers.1.*.linear_proj`` has wildcards: ``*`` stands for any run of characters, dots included.
  Every other character stands for itself, and the pattern covers the whole path. So this one
  matches in layer 1 and not in layers 10 to 19.
- ``*.layers.{0..3}.*`` has a range: ``{a..b}`` stands for one whole number from a to b, both
  included.

A fused linear has the names of its canonical parts: ``...self_attention.linear_qkv`` is matched as
``...self_attention.linear_q``, ``linear_k`` and ``linear_v``.

Everything here is text: the module needs neither torch nor megatron-core.
"""

from __future__ import annotations

import difflib
import re
from functools import cache
from typing import TYPE_CHECKING

from clora.errors import TargetError
from clora.fused import FUSED, PARTS_BY_TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CANONICAL_OF_HF = {
    "q_proj": ("linear_q",),
    "k_proj": ("linear_k",),
    "v_proj": ("linear_v",),
    "o_proj": ("linear_proj",),
    "gate_proj": ("linear_fc1_gate",),
    "up_proj": ("linear_fc1_up",),
    "down_proj": ("linear_fc2",),
    "gate_up_proj": ("linear_fc1_gate", "linear_fc1_up"),
    "qkv_proj": ("linear_q", "linear_k", "linear_v"),
    "query_key_value": ("linear_q", "linear_k", "linear_v"),
    "dense_h_to_4h": ("linear_fc1_up",),
    "dense_4h_to_h": ("linear_fc2",),
    "q_a_proj": ("linear_q_down_proj",),
    "q_b_proj": ("linear_q_up_proj",),
    "kv_a_proj_with_mqa": ("linear_kv_down_proj",),
    "kv_b_proj": ("linear_kv_up_proj",),
    "lm_head": ("output_layer",),
    "embed_tokens": ("word_embeddings",),
    "gate": ("router",),
}
"""Last name of a Hugging Face module -> megatron-core's names for the same weights."""

MLA_TARGETS = ("linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj")
"""The projections of multi-latent attention, which has no `linear_qkv`. Each model has some of
them.
"""

# A digit at the start of a segment or after a wildcard, not the one in `linear_fc1`; or a range.
_NUMBER = re.compile(r"(?:^|[^A-Za-z0-9_])(?:\d|\{)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def check_target(target: object, field: str = "target_modules") -> str:
    """Return `target` unless it can never match.

    Args:
        target: one entry of `target_modules` or `exclude_modules`.
        field: the name of that field, for the message. A fused linear may be excluded by its own
            name.

    Raises:
        TargetError: `target` is not a string, is empty, has a malformed range, or names a fused
            linear (`linear_qkv`, `linear_fc1`) instead of its canonical parts.
    """
    if not isinstance(target, str):
        raise TargetError(
            f"{field} holds {target!r}, a {type(target).__name__}: every target is a string such as 'linear_q'."
        )
    if not target.strip():
        raise TargetError(f"{field} holds an empty string, which can match nothing. Remove it.")
    last = target.rsplit(".", 1)[-1]
    if last in FUSED and field == "target_modules":
        stem = target[: -len(last)]
        parts = ", ".join(f"'{stem}{part_target}'" for part_target in FUSED[last].values())
        raise TargetError(
            f"{field} names the fused '{target}': canonical LoRA adapts its parts separately. "
            f"Write {parts}, or those of them that you want."
        )
    _compile(target, field)
    return target


def matches(target: str, path: str) -> bool:
    """Return whether `target` matches the module or canonical part at `path`.

    Raises:
        TargetError: `target` has a malformed range.
    """
    return bool(matcher(target)(path))


def matcher(target: str) -> Callable[[str], object]:
    """Return a function that tells whether `target` matches a path, by a true or false value.

    It reads the target once. With a hundred thousand paths, reading it for each of them is slow.
    """
    if is_bare(target):
        return lambda path: target == path.rsplit(".", 1)[-1]
    return _compile(target, "target_modules").match


def is_bare(target: str) -> bool:
    """Return whether `target` is a last name: no dot, no wildcard, no range."""
    return not any(character in target for character in ".*{")


def names_a_number(target: str) -> bool:
    """Return whether `target` names layers or experts by number.

    `*.layers.1.*` and `*.layers.{0..3}.*` do, `linear_fc1` does not.
    """
    return _NUMBER.search(target) is not None


def nearest(target: str, names: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return those of `names` that a user may have meant by `target`, the best first.

    A Hugging Face name gives megatron-core's name for the same weights. On a model with
    multi-latent attention, q, k and v give its projections. Any other target gives the most similar
    names.

    Args:
        target: a target that matches nothing.
        names: last names of the linears in the model.
        limit: number of similar names.
    """
    available = set(names)
    last = target.rsplit(".", 1)[-1]
    known = [name for name in CANONICAL_OF_HF.get(last, ()) if name in available]
    if known:
        return known
    if last in ("linear_q", "linear_k", "linear_v", "q_proj", "k_proj", "v_proj") and "linear_q" not in available:
        projections = [name for name in MLA_TARGETS if name in available]
        if projections:
            return projections
    return difflib.get_close_matches(last.strip("*"), sorted(available), n=limit, cutoff=0.6)


def hf_hint(target: str) -> str:
    """Return megatron-core's names for a Hugging Face name in a sentence; "" for other targets."""
    names = CANONICAL_OF_HF.get(target.rsplit(".", 1)[-1], ())
    return f"a Hugging Face name; megatron-core calls it {' and '.join(names)}" if names else ""


def canonical_names(path: str) -> dict[str, str]:
    """Return canonical part -> the path by which targets address that part of a fused linear.

    Empty when the last name of `path` is not that of a fused linear.
    """
    stem, _, last = path.rpartition(".")
    dot = "." if stem else ""
    return {part: f"{stem}{dot}{name}" for part, name in FUSED.get(last, {}).items()}


def canonical_mapping(targets: Iterable[str]) -> dict[str, set[str]]:
    """Return module pattern -> canonical targets: `{"linear_qkv": {"linear_q", "linear_v"}, ...}`.

    `CanonicalLoRA` of Megatron-Bridge has an attribute of this shape, which other code reads.
    """
    mapping: dict[str, set[str]] = {}
    for target in targets:
        stem, dot, last = target.rpartition(".")
        fused = PARTS_BY_TARGET.get(last)
        mapping.setdefault(f"{stem}{dot}{fused[0] if fused else last}", set()).add(last)
    return mapping


@cache
def _compile(target: str, field: str) -> re.Pattern[str]:
    pattern = ""
    position = 0
    for found in _RANGE.finditer(target):
        first, last = int(found[1]), int(found[2])
        # A range becomes one alternative per number, so a mistyped one could fill the memory.
        if last < first or last - first > 100_000:
            raise TargetError(
                f"{field}: the range {found[0]} in '{target}' is empty or absurd. "
                "Write the smaller number first: {0..3}."
            )
        # Without the look-ahead `{0..1}*` would match the 1 of 12.
        numbers = "|".join(str(number) for number in range(first, last + 1))
        pattern += f"{_literal(target[position : found.start()])}(?:{numbers})(?![0-9])"
        position = found.end()
    rest = target[position:]
    if any(brace in _RANGE.sub("", target) for brace in "{}"):
        raise TargetError(
            f"{field}: '{target}' has a brace that is no range. "
            "A range is {first..last}, for example *.layers.{0..3}.*"
        )
    return re.compile(f"^{pattern}{_literal(rest)}$")


def _literal(text: str) -> str:
    return ".*".join(re.escape(piece) for piece in text.split("*"))
