"""Fingerprint the adapters of a model, wherever they are, to tell whether two copies are the same.

Each adapted linear of the Hugging Face model has a digest: a SHA-256 over the shapes of its A and
B, its scale as fp32, and the elements of the whole A and of the whole B as fp32. The fingerprint is
a SHA-256 over the names and digests of all linears, sorted by name. It is taken of the factors and
never of the product B A, whose bits depend on how it was computed.

- bf16, fp16 and fp32 factors with equal values have one fingerprint, because fp32 holds the values
  of all three. Factors that were rounded to fewer bits have another one, so the dtypes are told
  beside it.
- A pair that all experts of a layer have in common counts once, under the number `*`: a
  checkpoint holds it once or once for each expert, and a Hugging Face folder always for each.

Names are those of `clora.fingerprints.names`.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import TYPE_CHECKING

import msgspec

from clora.errors import FingerprintError
from clora.folders.regular_file import read_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import torch

FORMAT = 2
"""Number of the way to hash. Another way needs another number here."""
FILE = "adapter_fingerprint.json"
"""Name of the record in a Hugging Face folder. PEFT's config would warn of a field that it does not
know, and safetensors writes its metadata in random order.
"""
LARGEST_FILE = 64 * 1024 * 1024
"""Bytes. A line for each linear of each expert of the largest models has a few million."""
ALL_EXPERTS = "*"
"""Stands for the number of an expert where one pair is that of all experts of the layer."""

_HELD_BY = {
    "bfloat16": ("bfloat16", "float32"),
    "float16": ("float16", "float32"),
    "float32": ("float32",),
}
"""Name of a dtype whose values fp32 holds -> dtypes that hold all its values."""
_EXPERT = re.compile(r"(?P<before>.+\.experts\.)(?P<number>\d+)(?P<behind>\..+)")


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The fingerprint of an adapter, and what helps to see why two of them differ."""

    sha256: str
    """64 hexadecimal digits."""
    linears: int
    """Linears that count. A pair that all experts of a layer have in common is one."""
    dtypes: tuple[str, ...] = ()
    """Names of the dtypes of all factors, sorted. They are not part of the hash."""


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a model by which the rows of its B become those of the Hugging Face model."""

    gated: bool = False
    """True if an MLP's `linear_fc1` is gate and up."""
    output_gate: tuple[int, int, int] | None = None
    """(key-value groups, heads of a group, channels) where the attention has an output gate."""


class RecordedFingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """A fingerprint that was written down when adapters were saved."""

    format: int
    sha256: str
    pairs: dict[str, str]
    """Name of a linear -> its digest."""
    dtypes: tuple[str, ...]
    """Names of the dtypes of all factors, sorted."""
    naming: Naming | None = None
    """None in a Hugging Face folder, whose rows need no facts."""


def digest_of_pair(name: str, a: torch.Tensor, b: torch.Tensor, scale: float) -> str:
    """Return the digest of one whole pair A `[rank, in]` and B `[out, rank]`, without its name.

    Args:
        name: name of the linear, for messages.
        a: on the CPU.
        b: on the CPU.
        scale: alpha / rank.

    Raises:
        FingerprintError: the values of a factor's dtype, or the scale, do not fit into fp32.
    """
    digest = hashlib.sha256(msgspec.json.encode([list(a.shape), list(b.shape)]) + _scale_in_fp32(scale, name))
    for matrix in (a, b):
        if dtype_name(matrix) not in _HELD_BY:
            raise FingerprintError(
                f"The factors of {name} are {dtype_name(matrix)}, and fingerprints compare values in fp32: there is "
                f"none for these adapters. Save them in one of {', '.join(_HELD_BY)}."
            )
        digest.update(matrix.float().contiguous().numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def dtype_name(matrix: torch.Tensor) -> str:
    """Return torch's name of the dtype, such as `bfloat16`."""
    return str(matrix.dtype).removeprefix("torch.")


def common_pairs_once(pairs: Mapping[str, str]) -> dict[str, str]:
    """Return name -> digest with one entry for the experts of a layer whose pairs are equal."""
    by_linear: dict[tuple[str, str], dict[int, str]] = {}
    for name, digest in pairs.items():
        if found := _EXPERT.fullmatch(name):
            by_linear.setdefault((found["before"], found["behind"]), {})[int(found["number"])] = digest
    once = {name: digest for name, digest in pairs.items() if not _EXPERT.fullmatch(name)}
    for (before, behind), of_experts in by_linear.items():
        digests = set(of_experts.values())
        if len(digests) == 1 and sorted(of_experts) == list(range(len(of_experts))):
            once[f"{before}{ALL_EXPERTS}{behind}"] = digests.pop()
        else:
            once |= {f"{before}{number}{behind}": digest for number, digest in of_experts.items()}
    return dict(sorted(once.items()))


def of_pairs(pairs: Mapping[str, str], dtypes: Iterable[str] = ()) -> Fingerprint:
    """Return the fingerprint of these names and digests."""
    once = common_pairs_once(pairs)
    digest = hashlib.sha256(f"clora adapter fingerprint {FORMAT}\n".encode())
    digest.update(msgspec.json.encode(list(once.items())))
    return Fingerprint(sha256=digest.hexdigest(), linears=len(once), dtypes=tuple(sorted(set(dtypes))))


def record_of(pairs: Mapping[str, str], dtypes: Iterable[str], naming: Naming | None = None) -> RecordedFingerprint:
    """Return what is written down of these names and digests."""
    found = of_pairs(pairs, dtypes)
    return RecordedFingerprint(
        format=FORMAT, sha256=found.sha256, pairs=common_pairs_once(pairs), dtypes=found.dtypes, naming=naming
    )


def holds(dtypes: Iterable[str], saved: Iterable[str]) -> bool:
    """Return whether factors of each of `dtypes` hold every value of factors of `saved`."""
    wanted = set(dtypes)
    return all(wanted.issubset(_HELD_BY.get(dtype, ())) for dtype in saved)


def differing(recorded: RecordedFingerprint, found: Mapping[str, str]) -> list[str]:
    """Return the names of the linears whose pairs are not those that were recorded, sorted.

    A record by which no linear differs, and whose fingerprint is not that of its linears, was
    edited: that gives the one entry "the record itself". An unknown format compares with nothing.
    """
    if recorded.format != FORMAT:
        return []
    once = common_pairs_once(found)
    names = sorted(name for name in {*once} | {*recorded.pairs} if once.get(name) != recorded.pairs.get(name))
    if not names and of_pairs(recorded.pairs).sha256 != recorded.sha256:
        return ["the record itself"]
    return names


def write_record(folder: Path, record: RecordedFingerprint) -> None:
    """Write the record into a Hugging Face folder."""
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def read_record(folder: Path) -> RecordedFingerprint | None:
    """Return the record in a Hugging Face folder, or None if there is none.

    Raises:
        FingerprintError: it is damaged.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(read_regular_file(path, LARGEST_FILE), type=RecordedFingerprint)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FingerprintError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FingerprintError(
            f"{path} is damaged: {error}. Without that file the folder has no recorded fingerprint; delete it if you "
            "trust the tensors."
        ) from None


def _scale_in_fp32(scale: float, name: str) -> bytes:
    try:
        # The scale of rank-stabilised LoRA has a rounded square root in it, and its last bits in
        # fp64 depend on how it was computed.
        return struct.pack("<f", scale)
    except OverflowError:
        raise FingerprintError(
            f"The pair of {name} is scaled by {scale:g}, which does not fit into fp32: there is no fingerprint of "
            "these adapters. Correct the alpha that is written beside them (lora_alpha in adapter_config.json)."
        ) from None
