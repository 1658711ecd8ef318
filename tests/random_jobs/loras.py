"""Draw LoRAs: the arguments of `CanonicalLoRA`.

Targets are bare names, paths and patterns, of which some match nothing. Whole modules of fused
linears and modules that are no linears are seldom named: they are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from architectures import LATENT, sometimes
from hypothesis import strategies as st

if TYPE_CHECKING:
    from architectures import Architecture

NAMES = (
    *("linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_gate", "linear_fc1_up", "linear_fc2"),
    *("router", "output_layer", "in_proj", "out_proj"),
)
LATENT_NAMES = ("linear_q_proj", "linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj")
PATTERNS = (
    *("*.linear_q", "*.linear_proj", "*linear_fc2", "decoder.*.linear_fc1_up", "*.self_attention.linear_v"),
    *("*.mlp.linear_fc2", "*.experts.*linear_fc2", "*.shared_experts.linear_fc1_gate", "*.mlp.router", "*out_proj"),
    *("mtp.*.linear_proj", "mtp.*eh_proj", "*.mixer.in_proj", "*.experts.linear_fc1_*", "*eh_proj"),
)
NUMBERED = (
    *("*.layers.0.*.linear_q", "*.layers.1.*.linear_fc2", "decoder.layers.{0..1}.*.linear_proj"),
    *("*.layers.{1..3}.mlp.linear_fc2", "*.local_experts.0.linear_fc2", "*.local_experts.{0..1}.linear_fc1_up"),
    *("decoder.layers.0.self_attention.linear_v", "*.layers.{0..99}.*.router", "decoder.layers.0.mlp.linear_fc1_gate"),
)
REFUSED = ("linear_qkv", "*.linear_fc1", "embedding", "*norm*", "linear_q{", "", "*.layers.{3..1}.*", "*")


@st.composite
def loras(draw: Any, architecture: Architecture, tp: int) -> dict[str, Any]:
    lora: dict[str, Any] = {
        # A is split along the rank, so tp has to divide it.
        "dim": draw(st.sampled_from([8, 4, 16, 24])) if tp != 3 else draw(st.sampled_from([12, 6])),
        "alpha": draw(st.sampled_from([8, 32, 0.5, 3])),
        **_which(draw, architecture),
    }
    if sometimes(draw, 5):
        lora["dim"] = draw(st.sampled_from([1, 2, 3, 5, 7, 0]))
    if sometimes(draw, 20):
        lora |= {"dropout": 0.1, "dropout_position": draw(st.sampled_from(["pre", "post"]))}
    if sometimes(draw, 40):
        lora["share_expert_adapters"] = False
    if sometimes(draw, 25):
        lora["normalize_moe_lora"] = True
    if sometimes(draw, 15):
        lora["lora_A_init_method"] = draw(st.sampled_from(["xavier", "normal", "kaiming"]))
    if sometimes(draw, 5):
        lora["lora_B_init_method"] = draw(st.sampled_from(["normal", "zero"]))
    return lora


def _which(draw: Any, architecture: Architecture) -> dict[str, list[str]]:
    """Return the two lists, of which at most one has entries; {} leaves them at their defaults."""
    names = (*NAMES, *LATENT_NAMES) if architecture.model_type in LATENT else NAMES
    way = draw(st.sampled_from(["names", "names", "patterns", "numbers", "all", "all but", "default"]))
    if way == "default":
        return {}
    if way == "all":
        return {"target_modules": []}
    if way == "all but":
        excluded = st.sampled_from([*names, *PATTERNS, "linear_qkv", "*.linear_fc1", "*.experts.*"])
        return {"target_modules": [], "exclude_modules": draw(st.lists(excluded, min_size=1, max_size=3, unique=True))}
    pool = {"names": names, "patterns": (*PATTERNS, *names), "numbers": (*NUMBERED, *NUMBERED, *names)}[way]
    targets = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=6, unique=True))
    if sometimes(draw, 3):
        targets.append(draw(st.sampled_from(REFUSED)))
    return {"target_modules": targets}
