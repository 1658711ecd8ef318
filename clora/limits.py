"""The limits: how large an input may be. Above them it is refused, because it is a mistake, and
reading or building it would take minutes or all of the memory.

All numbers stand in this file, and `docs/limits.md` is written from it:

    python -m clora.limits > docs/limits.md
"""

from __future__ import annotations

import sys
from typing import NamedTuple

LARGEST_PATTERN = 1_000
LARGEST_PATTERNS = 20_000
LARGEST_PATTERNS_TEXT = 1_000_000
LARGEST_RANGE = 100_000
LARGEST_DIM = 65_536
LARGEST_SIZE = 16_777_216
LARGEST_LAYERS = 2_048
LARGEST_EXPERTS = 8_192
LARGEST_GROUPED_EXPERTS = 131_072
LARGEST_SINGLE_EXPERTS = 24_576
LARGEST_AXIS = 16_384
LARGEST_PIPELINE = 1_024
LARGEST_WORLD = 1_048_576
LARGEST_PATH = 2_000
LARGEST_PATH_NAMES = 64
LARGEST_PLAN_ROWS = 150_000
LARGEST_SNAPSHOT_LINES = 100_000
LARGEST_GRAPH_MODULES = 100_000
LARGEST_GRAPH = 50_000
LARGEST_CONFIG_KEYS = 20_000
LARGEST_CONFIG_DEPTH = 32
LARGEST_ALLOW = 1_000
LARGEST_WORKLOAD = 16_777_216
LARGEST_STATE = 1_024
LARGEST_GPU_GIB = 65_536
LARGEST_CORE_TREE = 5_000
LARGEST_NUMBER = 1 << 63


class Limit(NamedTuple):
    """A row of the table."""

    value: int
    what: str
    why: str


LIMITS = (
    Limit(LARGEST_PATTERN, "characters of a target, exclusion or filter", "the longest module path has about 120"),
    Limit(LARGEST_PATTERNS, "entries of `target_modules` or of `exclude_modules`", "one for each linear of a layer"),
    Limit(LARGEST_PATTERNS_TEXT, "characters of all entries of such a list", "the memory of the matcher"),
    Limit(LARGEST_RANGE, "the last number of a range `{first..last}`", "no layer or expert has a larger number"),
    Limit(LARGEST_DIM, "the LoRA rank `dim`", "a rank above the width of every linear is a typing mistake"),
    Limit(LARGEST_SIZE, "any dimension, vocabulary or context of a model", "16 times as large as any published one"),
    Limit(LARGEST_LAYERS, "layers of a model, of all kinds", "published models have up to 126"),
    Limit(LARGEST_EXPERTS, "routed experts of a layer", "published models have up to 512, research models 2,048"),
    Limit(LARGEST_GROUPED_EXPERTS, "layers times experts of one rank, grouped", "planning takes 15 seconds"),
    Limit(LARGEST_SINGLE_EXPERTS, "layers times experts of one rank, one module each", "a Kimi K2 has 23,040"),
    Limit(LARGEST_AXIS, "ranks of one mesh axis", "no cluster has a wider axis"),
    Limit(LARGEST_PIPELINE, "stages of a pipeline, and chunks (`pp` x `vpp`) of it", "one model is built for each"),
    Limit(LARGEST_WORLD, "ranks of a job (`world_size`)", "no cluster is as large"),
    Limit(LARGEST_PATH, "characters of a module path in a saved plan or snapshot", "the longest has about 120"),
    Limit(LARGEST_PATH_NAMES, "names in such a path", "the deepest model has about 12"),
    Limit(LARGEST_PLAN_ROWS, "placements and skips of a saved plan", "a Kimi K2 of single experts has 146,000"),
    Limit(LARGEST_SNAPSHOT_LINES, "placements of a snapshot", "a DeepSeek-V3 of single experts has 45,000"),
    Limit(
        LARGEST_GRAPH_MODULES, "modules and canonical parts of a graph", "a DeepSeek-V3 of single experts has 94,000"
    ),
    Limit(LARGEST_GRAPH, "nodes of a graph when it is written", "no viewer draws more"),
    Limit(LARGEST_CONFIG_KEYS, "keys and array elements of a TOML configuration", "that is 4 MB of them"),
    Limit(LARGEST_CONFIG_DEPTH, "names in a dotted key, and levels of nesting, of a TOML configuration", "we read 5"),
    Limit(LARGEST_ALLOW, "`[[allow]]` entries", "each one is a finding that a person has judged"),
    Limit(LARGEST_WORKLOAD, "tokens of a row, rows or micro-batches of a step", "no run has as many"),
    Limit(LARGEST_STATE, "bytes of optimizer states for a parameter", "Adam in fp32 has 12"),
    Limit(LARGEST_GPU_GIB, "GiB of one GPU (`gpu-memory-gib`)", "no GPU has as much"),
    Limit(LARGEST_CORE_TREE, "modules of a source tree of megatron-core", "megatron-core has about 550"),
    Limit(LARGEST_NUMBER, "any other whole number", "larger ones do not fit into the 64 bits of an int"),
)
"""Each limit with the words of the page."""


def page() -> str:
    """Return `docs/limits.md`."""
    rows = [f"| {limit.value:,} | {limit.what} | {limit.why} |" for limit in LIMITS]
    return "\n".join(
        [
            "<!-- Written by: python -m clora.limits > docs/limits.md -->",
            "",
            "# Limits",
            "",
            "An input above one of these is refused with exit code 2 and a sentence that has the number:",
            "it is a mistake, and reading or building it would take minutes or all of the memory.",
            "",
            "| at most | of what | why |",
            "|---|---|---|",
            *rows,
            "",
            "Files have limits of their own: they are read only if they are regular and not larger than",
            "their kind can be. What takes longer than a few seconds says on stderr what it does, and",
            "Ctrl-C ends it with exit code 130.",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(page() + "\n")
