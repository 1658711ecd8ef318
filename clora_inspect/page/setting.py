"""Values of settings in words: a list of 61 zeros and ones is `0 × 3, 1 × 58`."""

from __future__ import annotations

from itertools import groupby

SHORT = 8
"""Largest length of a list that is written out."""


def in_words(value: object) -> str:
    """Return the value of a field of a LoRA or of a model's config."""
    if isinstance(value, dict):
        return _listed([f"{key}: {_scalar(each)}" for key, each in value.items()])
    if isinstance(value, list | tuple):
        return _listed([_scalar(each) for each in value])
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return str(value)


def _listed(values: list[str]) -> str:
    if not values:
        return "none"
    runs = [(value, len(list(same))) for value, same in groupby(values)]
    if len(values) <= SHORT or len(runs) > len(values) / 2:
        return ", ".join(values)
    return ", ".join(f"{value} × {number}" if number > 1 else value for value, number in runs)
