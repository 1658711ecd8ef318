"""The grammar of targets, as tables of examples."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clora.errors import TargetError
from clora.limits import LARGEST_PATTERN, LARGEST_PATTERNS, LARGEST_PATTERNS_TEXT, LARGEST_RANGE
from clora.patterns import (
    PatternSet,
    canonical_mapping,
    canonical_names,
    check_target,
    check_targets,
    matches,
    nearest,
)

MATCHES = [
    # target, path, selects
    ("linear_proj", "decoder.layers.0.self_attention.linear_proj", True),
    ("linear_proj", "linear_proj", True),
    ("linear_proj", "decoder.layers.0.self_attention.linear_projection", False),
    ("linear_proj", "decoder.layers.0.linear_proj.inner", False),
    ("self_attention.linear_proj", "decoder.layers.0.self_attention.linear_proj", False),
    ("decoder.layers.0.mlp.linear_fc2", "decoder.layers.0.mlp.linear_fc2", True),
    ("decoder.layers.0.mlp.linear_fc2", "decoder.layers.00.mlp.linear_fc2", False),
    ("*.layers.1.*.linear_proj", "decoder.layers.1.self_attention.linear_proj", True),
    ("*.layers.1.*.linear_proj", "decoder.layers.10.self_attention.linear_proj", False),
    ("*.layers.1.*.linear_proj", "decoder.layers.19.self_attention.linear_proj", False),
    ("*.layers.1.*.linear_proj", "decoder.layersX1.self_attention.linear_proj", False),
    ("*linear_proj", "decoder.layers.1.self_attention.linear_proj", True),
    ("*linear_proj", "decoder.layers.1.self_attention.linear_proj.adapter", False),
    ("linear_*", "decoder.layers.1.self_attention.linear_proj", False),
    ("*", "anything.at.all", True),
    ("*.layers.{0..3}.*", "decoder.layers.3.mlp.linear_fc2", True),
    ("*.layers.{0..3}.*", "decoder.layers.4.mlp.linear_fc2", False),
    ("*.layers.{0..3}.*", "decoder.layers.31.mlp.linear_fc2", False),
    ("*.layers.{9..10}.*", "decoder.layers.1.mlp.linear_fc2", False),
    ("*.layers.{9..10}.*", "decoder.layers.10.mlp.linear_fc2", True),
    ("*.fc+", "decoder.fc+", True),
    ("*.fc+", "decoder.fcc", False),
]


@pytest.mark.parametrize(("target", "path", "selects"), MATCHES)
def test_a_target_selects_a_path(target: str, path: str, selects: bool) -> None:
    assert matches(target, path) is selects


REFUSED = [
    ("linear_qkv", "'linear_q', 'linear_k', 'linear_v'"),
    ("linear_fc1", "'linear_fc1_gate', 'linear_fc1_up'"),
    ("*.layers.0.*.linear_qkv", "'*.layers.0.*.linear_q'"),
    ("", "empty"),
    ("*.layers.{3..1}.*", "smaller number first"),
    ("*.layers.{1,2}.*", "no range"),
    ("*.layers.{1..}.*", "no range"),
    (7, "an? int"),
    (f"*.layers.{{0..{LARGEST_RANGE + 1}}}.*", "absurd"),
    (f"{{0..{'9' * 800}}}", "absurd"),
    ("a" * (LARGEST_PATTERN + 1), "1,001 characters, and 1,000 is the most"),
    (f"{{0..{'9' * 5000}}}", "5,005 characters, and 1,000 is the most"),
]


@pytest.mark.parametrize(("target", "message"), REFUSED)
def test_a_target_that_can_never_be_right_is_refused_with_the_fix(target: object, message: str) -> None:
    with pytest.raises(TargetError, match=message.replace("*", r"\*").replace(".", r"\.")):
        check_target(target)


def test_a_fused_name_may_be_excluded() -> None:
    assert check_target("linear_qkv", "exclude_modules") == "linear_qkv"


def test_a_list_of_targets_has_a_bound() -> None:
    check_targets(["a"] * LARGEST_PATTERNS, "target_modules")
    with pytest.raises(TargetError, match=r"20,001 entries, and 20,000 is the most"):
        check_targets(["a"] * (LARGEST_PATTERNS + 1), "target_modules")
    with pytest.raises(TargetError, match=r"1,001,000 characters, and 1,000,000 is the most"):
        check_targets(["a" * LARGEST_PATTERN] * (LARGEST_PATTERNS_TEXT // LARGEST_PATTERN + 1), "exclude_modules")


SLOW_WITH_BACKTRACKING = [
    "*" * 50 + "Z",
    "*a" * 50 + "Z",
    "*a*b" * 25 + "Z",
    "*.*.*.*.*.*.*.*Z",
    "{0..99999}" * 40,
    "*{0..99999}" * 40 + "Z",
    "*{0..100000}*{1..99999}*Z",
    "*aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
]


@pytest.mark.parametrize("target", SLOW_WITH_BACKTRACKING)
@pytest.mark.parametrize("piece", ["a", "a.", "ab", "1", "1.", "a1b2."])
def test_matching_takes_steps_that_grow_with_the_path_and_no_faster(target: str, piece: str) -> None:
    def steps(repeated: int) -> int:
        patterns = PatternSet([target])
        assert patterns.matching(piece * repeated) == ()
        return patterns.steps

    # Each character costs a step for each node of the pattern at most.
    assert steps(1_000) <= (len(target) + 40) * 1_000 * len(piece)
    assert steps(2_000) <= 2.1 * steps(1_000)


def test_ten_thousand_targets_take_a_few_steps_for_each_character() -> None:
    paths = [f"decoder.layers.{layer}.mlp.experts.{expert}.linear_fc2" for layer in range(60) for expert in range(40)]
    targets = [f"*.layers.{number % 100}.*.{number // 100}.linear_fc2" for number in range(10_000)]
    targets += ["linear_fc2", *(f"linear_{number}" for number in range(5_000)), *paths[::2]]
    patterns = PatternSet(targets)
    found = {path: patterns.matching(path) for path in paths}
    assert found["decoder.layers.3.mlp.experts.7.linear_fc2"] == ("*.layers.3.*.7.linear_fc2", "linear_fc2")
    assert all("linear_fc2" in selected for selected in found.values())
    assert patterns.steps < 8 * sum(map(len, paths))


def test_ten_thousand_ranges_take_a_few_steps_for_each_character() -> None:
    paths = [
        f"decoder.layers.{layer}.mlp.experts.{expert}.linear_fc2" for layer in range(0, 120, 2) for expert in range(40)
    ]
    targets = [f"*.layers.{{{number % 60}..{number % 60 + number // 60}}}.*.linear_fc2" for number in range(10_000)]
    patterns = PatternSet(targets)
    found = {path: patterns.matching(path) for path in paths}
    assert patterns.steps < 8 * sum(map(len, paths))
    for layer in (0, 58, 118):
        expected = [number for number in range(10_000) if number % 60 <= layer <= number % 60 + number // 60]
        assert found[f"decoder.layers.{layer}.mlp.experts.7.linear_fc2"] == tuple(targets[at] for at in expected)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), min_size=120, max_size=200))
def test_many_ranges_of_one_place_select_what_each_of_them_selects(bounds: list[list[int]]) -> None:
    # The number of the second range tells equal targets apart.
    targets = [f"*.{{{first}..{last}}}.*.{{0..{number}}}" for number, (first, last) in enumerate(bounds)]
    patterns = PatternSet(targets)
    for layer, last in ((0, 0), (7, 130), (20, 63), (21, 64), (40, 119)):
        expected = [
            target
            for number, (target, (first, end)) in enumerate(zip(targets, bounds, strict=True))
            if first <= layer <= end and last <= number
        ]
        assert patterns.matching(f"a.{layer}.b.{last}") == tuple(expected)


targets_of_tokens = st.lists(
    st.sampled_from(["a", "b", ".", "1", "0", "*", "**", "{0..3}", "{9..12}", "{10..200}", ".l."]),
    min_size=1,
    max_size=7,
).map("".join)
paths_of_tokens = st.lists(st.sampled_from(["a", "b", ".", "1", "0", "2", ".l."]), min_size=1, max_size=9).map("".join)


def _regular_expression(target: str) -> str:
    """Write `target` for `re`: a number has no leading zero, and no digit follows it."""
    pieces = re.findall(r"\*|\{\d+\.\.\d+\}|.", target)
    written = []
    for piece in pieces:
        bounds = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece)
        if bounds:
            numbers = "|".join(map(str, range(int(bounds[1]), int(bounds[2]) + 1)))
            written.append(f"(?:{numbers})(?![0-9])")
        else:
            written.append(".*" if piece == "*" else re.escape(piece))
    return "".join(written)


@given(st.lists(targets_of_tokens, min_size=1, max_size=4, unique=True), paths_of_tokens)
def test_a_set_of_targets_selects_what_each_of_them_selects(targets: list[str], path: str) -> None:
    expected = [
        bool(re.fullmatch(_regular_expression(target), path))
        or ("." not in target and "*" not in target and "{" not in target and target == path.rpartition(".")[2])
        for target in targets
    ]
    assert [matches(target, path) for target in targets] == expected
    assert [target in PatternSet(targets).matching(path) for target in targets] == expected


segment = st.text(alphabet="abcxyz_0123456789+?()[]|^$\\", min_size=1, max_size=6)
path = st.lists(segment, min_size=1, max_size=5).map(".".join)


@given(path)
def test_a_path_selects_itself_and_nothing_but_itself(text: str) -> None:
    assert matches(text, text)
    assert not matches(f"{text}.x", text)
    assert not matches(text, f"{text}x")


@given(path, path)
def test_a_star_stands_for_any_run_of_characters(left: str, right: str) -> None:
    assert matches(f"{left}.*.{right}", f"{left}.a.b.{right}")
    assert matches(f"{left}*", f"{left}{right}")
    assert not matches(f"{left}.*", f"!{left}.{right}")


@given(st.integers(0, 50), st.integers(0, 30), st.integers(0, 100))
def test_a_range_is_its_whole_numbers(first: int, length: int, layer: int) -> None:
    selected = matches(f"*.layers.{{{first}..{first + length}}}.*", f"decoder.layers.{layer}.mlp")
    assert selected is (first <= layer <= first + length)


NEAREST = [
    ("q_proj", {"linear_q", "linear_k", "linear_proj"}, ["linear_q"]),
    ("gate_up_proj", {"linear_fc1_gate", "linear_fc1_up"}, ["linear_fc1_gate", "linear_fc1_up"]),
    ("linear_fc1x", {"linear_fc1_up", "linear_fc1_gate", "linear_fc2", "router"}, ["linear_fc2", "linear_fc1_up"]),
    (
        "linear_q",
        {"linear_q_down_proj", "linear_q_up_proj", "linear_kv_up_proj"},
        ["linear_q_down_proj", "linear_q_up_proj", "linear_kv_up_proj"],
    ),
    ("zzz", {"linear_q"}, []),
]


@pytest.mark.parametrize(("target", "names", "expected"), NEAREST)
def test_the_nearest_names(target: str, names: set[str], expected: list[str]) -> None:
    assert nearest(target, names)[: len(expected)] == expected
    assert bool(nearest(target, names)) is bool(expected)


def test_a_fused_linear_answers_to_its_parts() -> None:
    assert canonical_names("a.linear_qkv") == {"q": "a.linear_q", "k": "a.linear_k", "v": "a.linear_v"}
    assert canonical_names("linear_fc1") == {"gate": "linear_fc1_gate", "up": "linear_fc1_up"}
    assert canonical_names("a.linear_fc2") == {}


def test_the_mapping_has_the_shape_of_the_reference() -> None:
    assert canonical_mapping(["linear_q", "linear_v", "*.layers.0.*.linear_fc1_up", "linear_proj"]) == {
        "linear_qkv": {"linear_q", "linear_v"},
        "*.layers.0.*.linear_fc1": {"linear_fc1_up"},
        "linear_proj": {"linear_proj"},
    }
