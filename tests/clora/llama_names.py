"""Give the weights of a Hugging Face model the names and the form that Llama's have."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

_GPT2 = (
    (r"^transformer\.wte\b", "model.embed_tokens"),
    (r"^transformer\.ln_f\b", "model.norm"),
    (r"^transformer\.h\b", "model.layers"),
    (r"\bln_1\b", "input_layernorm"),
    (r"\bln_2\b", "post_attention_layernorm"),
    (r"\battn\.c_proj\b", "self_attn.o_proj"),
    (r"\bmlp\.c_fc\b", "mlp.up_proj"),
    (r"\bmlp\.c_proj\b", "mlp.down_proj"),
)


def _gpt2(weights: Mapping[str, torch.Tensor], config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for own_name, value in weights.items():
        name, tensor = own_name, value
        # GPT-2's linears are stored as [in, out].
        if config.model_type == "gpt2" and tensor.dim() == 2 and not re.search(r"wte|wpe|lm_head", name):
            tensor = tensor.T
        for pattern, theirs in _GPT2:
            name = re.sub(pattern, theirs, name)
        if ".attn.c_attn." in name:
            keys = (len(tensor) - config.hidden_size) // 2
            parts = tensor.split([config.hidden_size, keys, keys])
            yield from (
                (name.replace("attn.c_attn", f"self_attn.{part}_proj"), rows)
                for part, rows in zip("qkv", parts, strict=True)
            )
        else:
            yield name, tensor


def _granite_experts(weights: Mapping[str, torch.Tensor], _config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in weights.items():
        layer, _, last = name.partition(".block_sparse_moe.")
        shared, _, linear = name.partition(".shared_mlp.")
        if last == "router.layer.weight":
            yield f"{layer}.mlp.gate.weight", tensor
        elif last == "input_linear.weight":
            for number, expert in enumerate(tensor):
                yield from _gate_up(f"{layer}.mlp.experts.{number}", expert)
        elif last:
            yield from ((f"{layer}.mlp.experts.{number}.down_proj.weight", each) for number, each in enumerate(tensor))
        elif linear == "input_linear.weight":
            yield from _gate_up(f"{shared}.mlp.shared_experts", tensor)
        elif linear:
            yield f"{shared}.mlp.shared_experts.down_proj.weight", tensor
        else:
            yield name, tensor


def _gate_up(at: str, fused: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    gate, up = fused.chunk(2)
    yield from ((f"{at}.gate_proj.weight", gate), (f"{at}.up_proj.weight", up))


_CONVERSIONS: dict[str, Callable[[Mapping[str, torch.Tensor], Any], Iterator[tuple[str, torch.Tensor]]]] = {
    "gpt2": _gpt2,
    "gpt_bigcode": _gpt2,
    "granitemoe": _granite_experts,
    "granitemoeshared": _granite_experts,
    "granitemoehybrid": _granite_experts,
}


def as_llama(weights: Mapping[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """Return the weights under the names of Llama, those of most families as they are."""
    conversion = _CONVERSIONS.get(config.model_type)
    return dict(conversion(weights, config)) if conversion else dict(weights)
