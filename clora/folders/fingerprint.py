"""Fingerprint the adapters in a Hugging Face folder, to tell whether two folders hold the same.

The fingerprint is a SHA-256 over every adapted linear, sorted by its Hugging Face name: the name,
the shapes of A and B, the scale as fp32, then the elements of A and of B as fp32. It is taken of
the factors and never of the product B A, whose bits depend on how it was computed.

- bf16, fp16 and fp32 factors with equal values have one fingerprint, because fp32 holds the values
  of all three. A folder that was rounded to fewer bits has another one, so the dtypes are recorded
  beside it.
- A pair that experts share counts once for each of them, as the folder has a copy for each.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import msgspec

from clora.errors import HFAdapterError

if TYPE_CHECKING:
    import torch

    from clora.folders.hf_folder import AdapterFolder, FactorPair

_FORMAT = b"clora adapter fingerprint 1\n"
"""The first bytes that are hashed. Another way to hash needs another number here."""
_FIT_FP32 = ("bfloat16", "float16", "float32")


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """The fingerprint of an adapter, and what helps to see why two of them differ."""

    sha256: str
    """64 hexadecimal digits."""
    linears: int
    dtypes: tuple[str, ...]
    """Names of the dtypes of all factors, sorted. They are not part of the hash."""


def fingerprint(folder: AdapterFolder) -> Fingerprint:
    """Return the fingerprint of all pairs in `folder`, with one pair in memory at a time.

    Raises:
        HFAdapterError: the values of a factor's dtype, or a scale, do not fit into fp32.
    """
    digest = hashlib.sha256(_FORMAT)
    dtypes: set[str] = set()
    for module in sorted(folder.shapes):
        pair = folder.pair(module)
        header = msgspec.json.encode([module, list(pair.a.shape), list(pair.b.shape)])
        digest.update(struct.pack("<Q", len(header)) + header + _scale_in_fp32(pair, module))
        for matrix in (pair.a, pair.b):
            dtypes.add(_dtype_in_fp32(matrix, module))
            digest.update(matrix.float().contiguous().numpy().astype("<f4", copy=False).data)
    return Fingerprint(sha256=digest.hexdigest(), linears=len(folder.shapes), dtypes=tuple(sorted(dtypes)))


def _scale_in_fp32(pair: FactorPair, module: str) -> bytes:
    scale = pair.alpha / pair.rank
    try:
        # The scale of rank-stabilised LoRA has a rounded square root in it, and its last bits in
        # fp64 depend on how it was computed.
        return struct.pack("<f", scale)
    except OverflowError:
        raise HFAdapterError(
            f"The pair of {module} is scaled by {scale:g} (alpha {pair.alpha:g}, rank {pair.rank}), which does not "
            "fit into fp32: there is no fingerprint for this folder. Correct lora_alpha in its adapter_config.json."
        ) from None


def _dtype_in_fp32(matrix: torch.Tensor, module: str) -> str:
    name = str(matrix.dtype).removeprefix("torch.")
    if name not in _FIT_FP32:
        raise HFAdapterError(
            f"The factors of {module} are {name}, and fingerprints compare values in fp32: there is none for "
            f"this folder. Save the adapter in one of {', '.join(_FIT_FP32)}."
        )
    return name
