"""`Place`: where in a layer a linear stands, such as attention or experts. Pure text."""

from __future__ import annotations

from enum import StrEnum

from clora.plan import is_prediction
from clora_inspect.job.towers import LANGUAGE_MODEL, Towers, below


class Place(StrEnum):
    """Where a linear stands, in the order in which a plan lists its adapters."""

    ATTENTION = "attention"
    DELTA_NET = "gated delta net"
    MAMBA = "Mamba"
    MLP = "dense MLP"
    SHARED_EXPERTS = "shared experts"
    EXPERTS = "routed experts"
    ROUTER = "router"
    MTP = "multi-token prediction"
    OUTPUT = "output layer"
    OUTSIDE = "outside the decoder"


# megatron-core's names of the modules that a layer is made of.
_PLACE_OF_NAME = {
    "self_attention": Place.ATTENTION,
    "cross_attention": Place.ATTENTION,
    "mixer": Place.MAMBA,
    "shared_experts": Place.SHARED_EXPERTS,
    "experts": Place.EXPERTS,
    "router": Place.ROUTER,
}


def place_in_layer(module: str) -> Place:
    """Return where in its layer the linear at path `module` stands, in any block."""
    names = module.split(".")
    # The innermost name decides. `mlp` comes last, because router and experts stand inside one.
    place = next((_PLACE_OF_NAME[name] for name in reversed(names) if name in _PLACE_OF_NAME), None)
    if place is None and "mlp" in names:
        return Place.MLP
    # A gated delta net takes the place of attention under its name. Its linears have Mamba's names.
    if place is Place.ATTENTION and names[-1] in ("in_proj", "out_proj"):
        return Place.DELTA_NET
    return place or (Place.OUTPUT if names[-1] == "output_layer" else Place.OUTSIDE)


def place_of_module(module: str, towers: Towers = LANGUAGE_MODEL) -> Place:
    """Return where in the model the linear at path `module` stands.

    Layers of multi-token prediction are one place here, as is all that stands outside the decoder,
    such as the layers of a vision tower.
    """
    tower = towers.of(module)
    if not towers.is_main(tower):
        return Place.OUTSIDE
    if is_prediction(module):
        return Place.MTP
    if not towers.in_decoder(module):
        return Place.OUTPUT if module == below(tower.path, "output_layer") else Place.OUTSIDE
    place = place_in_layer(module)
    # Attention is what users' own layers rename most.
    return Place.ATTENTION if place is Place.OUTSIDE else place
