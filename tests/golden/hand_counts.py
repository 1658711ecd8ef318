"""Count the parameters of published models that transformers lacks, by formulas that were written
from the code published with the weights. They share nothing with this project.

In each formula `w` is the width of the model, `d` that of a head, and `q` and `kv` are numbers of
heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Config = Mapping[str, Any]


def _ends(c: Config) -> int:
    """Count the embedding, the output layer, which is not tied, and the last norm."""
    w: int = c["hidden_size"]
    return 2 * c["vocab_size"] * w + w


def _qwen2_layer(c: Config) -> int:
    """Count a layer of Qwen2: q, k and v have biases, the MLP has a gate, norms have a weight."""
    w, q, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    d = c.get("head_dim", w // q)
    mlp: int = 3 * w * c["intermediate_size"]
    return (w + 1) * d * (q + 2 * kv) + q * d * w + mlp + 2 * w


def qwen2(c: Config) -> int:
    return _ends(c) + int(c["num_hidden_layers"]) * _qwen2_layer(c)


def internvl(c: Config) -> int:
    """Count the language model, a Qwen2."""
    return qwen2(c["llm_config"])


def mimo(c: Config) -> int:
    """Count a Qwen2 and its prediction layers: a layer, a linear from `2 w` to `w`, three norms."""
    w = c["hidden_size"]
    return qwen2(c) + int(c["num_nextn_predict_layers"]) * (_qwen2_layer(c) + 2 * w * w + 3 * w)


def _mlps(c: Config, experts: int, shared: int) -> int:
    """Count the MLPs of all layers: dense ones first, then a router without bias and experts."""
    w, layers, dense = c["hidden_size"], c["num_hidden_layers"], c["first_k_dense_replace"]
    sparse = 3 * w * c["moe_intermediate_size"] * (experts + shared) + w * experts
    return int(dense * 3 * w * c["intermediate_size"] + (layers - dense) * sparse)


def deepseek_v3(c: Config) -> int:
    """Count a DeepSeek-V3, whose keys and values come from one latent vector."""
    w, q, nope, rope = (
        c[key] for key in ("hidden_size", "num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim")
    )
    latent, value, of_queries = c["kv_lora_rank"], c["v_head_dim"], c["q_lora_rank"]
    # Queries come from w, or from a latent vector of their own that has a norm.
    queries = of_queries * (w + 1 + q * (nope + rope)) if of_queries else w * q * (nope + rope)
    attention = queries + w * (latent + rope) + latent + latent * q * (nope + value) + q * value * w
    experts = _mlps(c, c["n_routed_experts"], c["n_shared_experts"])
    return _ends(c) + int(c["num_hidden_layers"]) * (attention + 2 * w) + experts


def kimi_vl(c: Config) -> int:
    """Count the language model, a DeepSeek-V3."""
    return deepseek_v3(c["text_config"])


def ling(c: Config) -> int:
    """Count a Ling 2: one linear for q, k and v, and a norm of `d` for q and for k."""
    w, q, kv, d = (c[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    attention = w * d * (q + 2 * kv) + q * d * w + 2 * d
    experts = _mlps(c, c["num_experts"], c["num_shared_experts"])
    return _ends(c) + int(c["num_hidden_layers"]) * (attention + 2 * w) + experts


def omni(c: Config) -> int:
    """Count the language model of the thinker, a Qwen2."""
    return qwen2(c["thinker_config"]["text_config"])


BY_HAND: dict[str, Callable[[Config], int]] = {
    "mimo-7b": mimo,
    "internvl3-8b": internvl,
    "kimi-k2": deepseek_v3,
    "kimi-vl-a3b": kimi_vl,
    "ling-mini-2.0": ling,
    "qwen2.5-omni-7b": omni,
}
"""Name of a public config -> its formula."""
