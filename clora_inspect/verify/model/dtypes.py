"""`BOUNDS`: the differences that rounding explains in each dtype. Pure."""

from __future__ import annotations

BOUNDS = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 6e-2, "float16": 1e-2}
"""Dtype -> the largest difference that rounding explains, relative to the largest value, through a
model of a few layers. Sound models stay ten times below it. A row in the wrong place, a wrong scale
or a missing term is ten times above.
"""
