"""Match target strings with module paths, and suggest names for a target that matches nothing.

`grammar` says what a target means. Everything here is text: the package needs neither torch nor
megatron-core.
"""

from clora.patterns.grammar import (
    canonical_mapping,
    canonical_names,
    check_target,
    check_targets,
    is_bare,
    names_a_number,
)
from clora.patterns.pattern_set import PatternSet, matcher, matches
from clora.patterns.suggestions import CANONICAL_OF_HF, MLA_TARGETS, hf_hint, nearest

__all__ = [
    "CANONICAL_OF_HF",
    "MLA_TARGETS",
    "PatternSet",
    "canonical_mapping",
    "canonical_names",
    "check_target",
    "check_targets",
    "hf_hint",
    "is_bare",
    "matcher",
    "matches",
    "names_a_number",
    "nearest",
]
