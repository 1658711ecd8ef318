"""The place of a linear in its layer, found from its path."""

from __future__ import annotations

import pytest

from clora_inspect.job.place import Place, place_in_layer, place_of_module

PLACES = [
    ("decoder.layers.0.self_attention.linear_qkv", Place.ATTENTION, Place.ATTENTION),
    ("decoder.layers.0.self_attention.in_proj", Place.DELTA_NET, Place.DELTA_NET),
    ("decoder.layers.0.mixer.in_proj", Place.MAMBA, Place.MAMBA),
    ("decoder.layers.0.mlp.linear_fc1", Place.MLP, Place.MLP),
    ("decoder.layers.0.mlp.router", Place.ROUTER, Place.ROUTER),
    ("decoder.layers.0.mlp.experts.linear_fc1", Place.EXPERTS, Place.EXPERTS),
    ("decoder.layers.0.mlp.experts.local_experts.3.linear_fc1", Place.EXPERTS, Place.EXPERTS),
    ("decoder.layers.0.mlp.shared_experts.linear_fc2", Place.SHARED_EXPERTS, Place.SHARED_EXPERTS),
    ("decoder.layers.0.my_own.linear", Place.ATTENTION, Place.OUTSIDE),
    ("mtp.layers.0.transformer_layer.mlp.experts.linear_fc1", Place.MTP, Place.EXPERTS),
    ("mtp.layers.0.eh_proj", Place.MTP, Place.OUTSIDE),
    ("output_layer", Place.OUTPUT, Place.OUTPUT),
    ("vision_model.decoder.layers.0.self_attention.linear_qkv", Place.OUTSIDE, Place.ATTENTION),
    ("projector.linear", Place.OUTSIDE, Place.OUTSIDE),
]


@pytest.mark.parametrize(("path", "in_model", "in_layer"), PLACES, ids=[case[0] for case in PLACES])
def test_the_path_tells_the_place(path: str, in_model: Place, in_layer: Place) -> None:
    assert (place_of_module(path), place_in_layer(path)) == (in_model, in_layer)
