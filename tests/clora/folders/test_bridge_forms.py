"""The index of a checkpoint tells which form of Megatron-Bridge it has; an unknown form is refused.
`tests/parallel/test_bridge_checkpoints.py` has real files.
"""

from __future__ import annotations

import pytest

from clora.bridge_checkpoint.forms import SavedForm, Wanted, explanation, forms_of, release_named
from clora.errors import CheckpointError
from clora.folders.checkpoint_metadata import SavedTensor

FC1 = "decoder.layers.mlp.linear_fc1.adapter.adapter_up"
A, B = f"{FC1}.linear_in.weight", f"{FC1}.linear_out.weight"


def saved(shape: tuple[int, ...], **pieces: int) -> SavedTensor:
    """Return a tensor that is saved layer by layer, in equal pieces of rows (`rows=4`)."""
    starts = [tuple(range(size)) if dim == 0 else (0,) for dim, size in enumerate(shape)]
    starts[-2] = tuple(range(0, shape[-2], shape[-2] // pieces.get("rows", 1)))
    return SavedTensor(shape, tuple(starts))


def up(a_pieces: int, b: SavedTensor) -> SavedForm:
    wanted = {A: Wanted((2, 8, 32), 1), B: Wanted((2, 48, 8), 1, may_be_halved=True)}
    return forms_of(wanted, {A: saved((2, 8, 32), rows=a_pieces), B: b})[B]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_twice_as_many_pieces_as_ranks_are_halves(ranks: int) -> None:
    assert up(ranks, saved((2, 48, 8), rows=ranks)) == SavedForm(B)
    assert up(ranks, saved((2, 48, 8), rows=2 * ranks)) == SavedForm(B, halved_by=ranks, is_ours=ranks == 1)


@pytest.mark.parametrize(
    ("b", "words"),
    [
        (saved((2, 48, 8), rows=3), "3 pieces of rows, and the A beside it in 2"),
        (saved((2, 48, 8), rows=1), "1 pieces"),
        (saved((2, 48, 8), rows=8), "8 pieces"),
        (SavedTensor((2, 48, 8), ((0, 1), (0, 10, 24, 34), (0,))), "4 pieces of rows of different sizes"),
    ],
)
def test_other_pieces_are_refused(b: SavedTensor, words: str) -> None:
    with pytest.raises(CheckpointError, match=f"{words}.*Save the adapters again"):
        up(2, b)


def test_an_axis_of_experts_is_known_by_their_number() -> None:
    key = "decoder.layers.mlp.experts.linear_fc2.adapter.linear_in.weight"
    wanted = {key: Wanted((2, 8, 32), 1, num_experts=16)}
    assert forms_of(wanted, {key: saved((2, 8, 32))}) == {key: SavedForm(key)}
    assert forms_of(wanted, {key: saved((2, 16, 8, 32))}) == {key: SavedForm(key, has_expert_axis=True, is_ours=False)}
    assert forms_of(wanted, {key: saved((2, 4, 8, 32))}) == {}
    assert forms_of({key: Wanted((2, 8, 32), 1)}, {key: saved((2, 16, 8, 32))}) == {}


def test_the_key_of_a_plain_linear_is_looked_up_for_a_plain_linear_only() -> None:
    key, old = "extra.adapter.linear_in.weight", "extra.linear_in.weight"
    both = {key: saved((8, 32)), old: saved((8, 32))}
    plain = {key: Wanted((8, 32), 0, is_plain=True)}
    assert forms_of(plain, {old: saved((8, 32))}) == {key: SavedForm(old, is_ours=False)}
    assert forms_of(plain, both) == {key: SavedForm(key)}
    assert forms_of({key: Wanted((8, 32), 0)}, {old: saved((8, 32))}) == {}


@pytest.mark.parametrize(
    ("missing", "unexpected", "words"),
    [
        ([], ["decoder.layers.mlp.experts.linear_fc1.adapter.adapter_up.linear_in.weight"], "Megatron-Bridge 0.3"),
        ([A], ["decoder.layers.mlp.linear_fc1.adapter.linear_in.weight"], "fused LoRA"),
        ([], ["decoder.layers.mlp.linear_fc2.adapter.weight_magnitude"], "DoRA"),
        ([B], [f"{B}_w", f"{B}_v"], "singleton_local_shards"),
        ([], ["decoder.layers.self_attention.in_proj.adapter.linear_out.weight"], "each rank packs it"),
        ([], ["decoder.layers.mlp.linear_fc2.adapter.linear_in.weight"], ""),
        ([A], [], ""),
    ],
)
def test_other_adapters_of_megatron_bridge_are_named(missing: list[str], unexpected: list[str], words: str) -> None:
    text = explanation(missing, unexpected)
    assert words in text
    assert bool(text) == bool(words)


def test_releases_by_what_they_read() -> None:
    facts = {
        name: (one.splits_experts, one.halves_all, one.has_expert_axis, one.has_plain_keys)
        for name in ("0.3.1", "0.4.2", "0.5", "0.6.0rc1", "main")
        for one in [release_named(name)]
    }
    assert facts == {
        "0.3.1": (True, True, False, True),
        "0.4.2": (False, True, False, True),
        "0.5": (False, False, True, True),
        "0.6.0rc1": (False, False, True, True),
        "main": (False, False, True, False),
    }
    for name in ("0.2.0", "1.0", "0.30", "latest", ""):
        with pytest.raises(CheckpointError, match=r"Write a release such as '0\.3\.1', or 'main'"):
            release_named(name)
