"""Draw parallel layouts for an architecture, and the fields that split its pipeline.

Most axes divide what they split. One in ten does not ask.
"""

from __future__ import annotations

from itertools import pairwise
from math import lcm
from typing import TYPE_CHECKING, Any

from architectures import DELTA_NETS, sometimes
from hypothesis import strategies as st

if TYPE_CHECKING:
    from architectures import Architecture

LARGEST_WORLD, LARGEST_SELDOM = 8, 16
"""Ranks of a job, which are all built; the second number holds for one job in ten."""


@st.composite
def layouts(draw: Any, architecture: Architecture) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `Layout`, and fields of megatron-core that split the pipeline."""
    anything = sometimes(draw, 10)
    sizes: dict[str, Any] = {"tp": _tensor_parallel(draw, architecture, anything=anything)}
    sizes |= _experts(draw, architecture, sizes["tp"], anything=anything)
    pipeline, split = _pipeline(draw, architecture, anything=anything)
    sizes |= pipeline
    # Attention with capped scores has no context parallelism.
    if sometimes(draw, 20) and (anything or architecture.model_type != "gemma2"):
        sizes["cp"] = 2
    sizes["sp"] = draw(st.sampled_from([None, None, False, True]))
    if sizes["tp"] == 1 and not anything:
        sizes["sp"] = None
    sizes = _in_a_small_world(sizes, LARGEST_SELDOM if sometimes(draw, 10) else LARGEST_WORLD)
    if sometimes(draw, 20):
        sizes["world_size"] = draw(st.sampled_from([2, 3])) * _world(sizes)
    return sizes, split


def _tensor_parallel(draw: Any, architecture: Architecture, *, anything: bool) -> int:
    choices = (1, 2, 4, 3, 8)
    if anything:
        return draw(st.sampled_from(choices))
    values = architecture.values
    split = [values[name] for name in ("num_attention_heads", "intermediate_size", "vocab_size")]
    if architecture.model_type == "nemotron_h":
        split += [values["n_groups"]]
    if architecture.model_type in DELTA_NETS:
        split += [values["linear_num_key_heads"]]
    groups = values["num_key_value_heads"]
    fitting = [tp for tp in choices if all(size % tp == 0 for size in split) and (groups % tp == 0 or tp % groups == 0)]
    return draw(st.sampled_from(fitting))


def _experts(draw: Any, architecture: Architecture, tp: int, *, anything: bool) -> dict[str, Any]:
    if not architecture.has_experts and not anything:
        return {}
    experts = architecture.experts or 8
    ep = draw(st.sampled_from([size for size in (1, 2, 4, 3) if anything or experts % size == 0]))
    etp = draw(st.sampled_from([None, 1, tp, 2]))
    return {"ep": ep, "etp": etp}


def _pipeline(draw: Any, architecture: Architecture, *, anything: bool) -> tuple[dict[str, int], dict[str, Any]]:
    layers = architecture.layers
    if anything:
        return {"pp": draw(st.integers(1, 4)), "vpp": draw(st.integers(1, 2))}, {}
    way = draw(st.sampled_from(["even", "even", "interleaved", "ends", "letters", "accounted"]))
    if architecture.model_type == "nemotron_h" and way != "ends":
        way = "even"
    if way == "interleaved":
        return _interleaved(draw, layers), {}
    if way == "ends" and layers >= 2:
        return _ends(draw, layers)
    if way == "letters":
        return _letters(draw, layers, architecture.overrides.get("mtp_num_layers") or 0)
    if way == "accounted":
        return _accounted(draw, layers)
    return {"pp": draw(st.sampled_from([pp for pp in (2, 1, 3, 4) if layers % pp == 0]))}, {}


def _interleaved(draw: Any, layers: int) -> dict[str, int]:
    fitting = [(pp, vpp) for pp in (2, 3, 4) for vpp in (2, 3) if layers % (pp * vpp) == 0]
    pp, vpp = draw(st.sampled_from(fitting or [(1, 1)]))
    return {"pp": pp, "vpp": vpp}


def _ends(draw: Any, layers: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Give the first or the last stage a number of layers of its own."""
    pp = draw(st.sampled_from([pp for pp in (2, 3) if pp <= layers]))
    each = draw(st.integers(1, (layers - 1) // (pp - 1)))
    end = draw(st.sampled_from(["first", "last"]))
    return {"pp": pp}, {f"num_layers_in_{end}_pipeline_stage": layers - each * (pp - 1)}


def _letters(draw: Any, layers: int, prediction_layers: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Cut the layers anywhere, also into stages without any."""
    pp, vpp = draw(st.sampled_from([(2, 1), (3, 1), (2, 2), (4, 1)]))
    stages = pp * vpp
    cuts = [0, *sorted(draw(st.lists(st.integers(0, layers), min_size=stages - 1, max_size=stages - 1))), layers]
    groups = ["t" * (end - start) for start, end in pairwise(cuts)]
    groups[0] = "E" + groups[0]
    groups[-1] += "m" * prediction_layers + "L"
    return {"pp": pp, "vpp": vpp}, {"pipeline_model_parallel_layout": "|".join(groups)}


def _accounted(draw: Any, layers: int) -> tuple[dict[str, int], dict[str, Any]]:
    """Let the embedding, the loss or both take the place of one layer each."""
    both = draw(st.sampled_from([("embedding",), ("loss",), ("embedding", "loss")]))
    fitting = [pp for pp in (2, 3, 4) if (layers + len(both)) % pp == 0]
    if not fitting:
        return {}, {}
    return {"pp": draw(st.sampled_from(fitting))}, {f"account_for_{end}_in_pipeline_split": True for end in both}


def _world(sizes: dict[str, Any]) -> int:
    etp = sizes.get("etp") or sizes["tp"]
    return sizes.get("pp", 1) * lcm(sizes["tp"] * sizes.get("cp", 1), sizes.get("ep", 1) * etp)


def _in_a_small_world(sizes: dict[str, Any], largest: int) -> dict[str, Any]:
    for axis in ("cp", "ep", "etp", "tp"):
        if _world(sizes) > largest:
            sizes = {**sizes, axis: 1} | ({"sp": None} if axis == "tp" else {})
    return sizes
