"""Fingerprint the pairs of a Hugging Face PEFT folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.fingerprints.names import names_in_hf
from clora.folders.fingerprint import digest_of_pair, dtype_name
from clora.hf_names import to_hf_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from clora.folders.hf_folder import AdapterFolder, FactorPair

_NO_HEADS = (1, 1, 1)
"""The rows of a query with an output gate are in Hugging Face's order already."""


def peft_pairs(pairs: Iterable[tuple[str, FactorPair]]) -> tuple[dict[str, str], set[str]]:
    """Return name -> digest of all pairs, and the names of their dtypes.

    Args:
        pairs: path in the Hugging Face model, and the pair there.

    Raises:
        FingerprintError: the values of a factor, or a scale, do not fit into fp32.
    """
    digests: dict[str, str] = {}
    dtypes: set[str] = set()
    for module, pair in pairs:
        dtypes |= {dtype_name(pair.a), dtype_name(pair.b)}
        for name, rows in names_in_hf(module):
            digests[name] = digest_of_pair(module, pair.a, to_hf_rows(pair.b, rows, _NO_HEADS), pair.scale)
    return digests, dtypes


def pairs_in(folder: AdapterFolder) -> Iterator[tuple[str, FactorPair]]:
    """Yield path and pair of each linear, with one pair in memory at a time."""
    return ((module, folder.pair(module)) for module in folder.shapes)
