"""The grammar of targets, as tables of examples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clora.errors import TargetError
from clora.patterns import canonical_mapping, canonical_names, check_target, matches, nearest

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
]


@pytest.mark.parametrize(("target", "message"), REFUSED)
def test_a_target_that_can_never_be_right_is_refused_with_the_fix(target: object, message: str) -> None:
    with pytest.raises(TargetError, match=message.replace("*", r"\*").replace(".", r"\.")):
        check_target(target)


def test_a_fused_name_may_be_excluded() -> None:
    assert check_target("linear_qkv", "exclude_modules") == "linear_qkv"


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
