"""Rotary position embeddings. They have no parameters; only the forward pass depends on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.families.base.hf_config import HFConfig

if TYPE_CHECKING:
    from collections.abc import Callable

LLAMA3_CONSTANTS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Constants of Llama 3.1's scaling that megatron-core's `RotaryEmbedding` has built in."""

YARN_DEFAULTS = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}

Rotary = tuple[dict[str, Any], tuple[str, ...]]
"""Arguments of `GPTModel`, and notes on what they cannot express."""


def rotary_embedding(hf: HFConfig) -> Rotary:
    """Return the rotary embedding as arguments of `GPTModel`, with notes for the report."""
    rotary: dict[str, Any] = {
        "position_embedding_type": "rope",
        "rotary_base": rope_theta(hf),
        "rotary_percent": _with_rope_parameters(hf).number("partial_rotary_factor"),
    }
    kind, scaling = rope_scaling(hf)
    if scaling is None:
        return rotary, ()
    known: dict[str, Callable[[HFConfig], Rotary]] = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
    if kind not in known:
        return rotary, (
            f"megatron-core has no RoPE scaling of type {kind!r}: plain RoPE is built. No parameter depends on it.",
        )
    # transformers, too, takes the context length if the scaling does not name the original one.
    fields, notes = known[kind](
        scaling.with_defaults({"original_max_position_embeddings": hf.get("max_position_embeddings")})
    )
    return rotary | fields, notes


def rope_theta(hf: HFConfig) -> float:
    """Return the base period of the rotary embedding."""
    return _with_rope_parameters(hf).positive_number("rope_theta")


def rope_scaling(hf: HFConfig) -> tuple[str, HFConfig | None]:
    """Return the type and the values of the scaling; ("default", None) when there is none."""
    for field in ("rope_parameters", "rope_scaling"):
        scaling = hf.table(field)
        if scaling is not None:
            # Older files call the type `type`.
            kind = scaling.text("type" if "type" in scaling.values else "rope_type")
            if kind != "default":
                return kind, scaling
    return "default", None


def layers_with_rope(hf: HFConfig, *, written: bool) -> list[bool]:
    """Return for each layer whether it has rotary embeddings.

    Args:
        hf: the config, over its family's defaults.
        written: whether `no_rope_layers` counts. Otherwise every `no_rope_layer_interval`-th layer
            has none.

    Raises:
        ModelError: `no_rope_layers` has not one entry for each layer.
    """
    count = hf.size("num_hidden_layers")
    if not written:
        every = hf.size("no_rope_layer_interval")
        return [bool((layer + 1) % every) for layer in range(count)]
    marks = hf.sizes("no_rope_layers")
    if len(marks) != count:
        raise hf.error("no_rope_layers", f"must have one entry for each of the {count} layers, and has {len(marks)}.")
    return [bool(mark) for mark in marks]


def without_rope(has_rope: list[bool]) -> dict[str, list[int]]:
    """Return the field for layers without rotary embeddings. Hugging Face marks the layers with
    them, and megatron-core those without.
    """
    return {} if all(has_rope) else {"no_rope_freq": [int(not rope) for rope in has_rope]}


def _with_rope_parameters(hf: HFConfig) -> HFConfig:
    """Lay `rope_parameters`, in which newer files nest these fields, over the config."""
    nested = hf.table("rope_parameters")
    if nested is None:
        return hf
    return HFConfig(origin=nested.origin, values=nested.values, defaults=hf.defaults | hf.values)


def _linear(scaling: HFConfig) -> Rotary:
    return {"seq_len_interpolation_factor": scaling.positive_number("factor")}, ()


def _llama3(scaling: HFConfig) -> Rotary:
    scaling = scaling.with_defaults(scaling.defaults | LLAMA3_CONSTANTS)
    notes = tuple(
        f"megatron-core's Llama 3 RoPE scaling has {name} = {built_in:g} built in, and the config says "
        f"{scaling.number(name):g}. No parameter depends on it."
        for name, built_in in LLAMA3_CONSTANTS.items()
        if scaling.number(name) != built_in
    )
    return {"rope_scaling": True, "rope_scaling_factor": scaling.positive_number("factor")}, notes


def _yarn(scaling: HFConfig) -> Rotary:
    scaling = scaling.with_defaults(scaling.defaults | YARN_DEFAULTS)
    # GPTModel reads these off its config, although `TransformerConfig` does not declare them.
    return {
        "position_embedding_type": "yarn",
        "yarn_rotary_scaling_factor": scaling.positive_number("factor"),
        "yarn_original_max_position_embeddings": scaling.size("original_max_position_embeddings"),
        "yarn_beta_fast": scaling.number("beta_fast"),
        "yarn_beta_slow": scaling.number("beta_slow"),
        "yarn_mscale": scaling.optional_number("mscale"),
        "yarn_mscale_all_dim": scaling.optional_number("mscale_all_dim"),
        "yarn_correction_range_round_to_int": scaling.flag("truncate"),
    }, ()
