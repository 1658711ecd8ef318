"""The releases of megatron-core that are supported. Pure.

pyproject.toml and constraints.txt have to repeat them in their own syntax, and a test compares the
three.
"""

from __future__ import annotations

SUPPORTED = ("0.16.1",)
"""Releases that the tests were run with, the oldest first. Names and shapes of modules stay as they
are within a series such as 0.16, so each stands for its whole series.
"""


def series(release: str) -> str:
    """Return the part that all releases of a series share: "0.16." for "0.16.1"."""
    major, minor, _ = release.split(".", 2)
    return f"{major}.{minor}."
