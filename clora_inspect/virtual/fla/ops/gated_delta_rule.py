"""The gated delta rule, token by token (arXiv 2412.06464): slow, and what the kernel computes chunk
by chunk.
"""

from __future__ import annotations

import torch


def chunk_gated_delta_rule(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    scale: float | None = None,
    initial_state: torch.Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_options: object,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`q`, `k` `[batch, sequence, heads, key channels]`, `v` `[..., value channels]`, log decay `g`
    and `beta` `[batch, sequence, heads]`.

    A head's state `S` `[key, value]` decays, forgets what it answers to `k`, and learns `v`:
    `S = e^g S; S += beta k (v - S^T k)^T`; its output is `scale S^T q`.

    Returns:
        Outputs like `v`, and the last state where it is asked for.
    """
    if initial_state is not None or use_qk_l2norm_in_kernel:
        raise NotImplementedError(
            "chunk_gated_delta_rule with a state or its own normalisation computes on a GPU only."
        )
    wide = torch.promote_types(q.dtype, torch.float32)
    query, key, value, decay, rate = (tensor.to(wide) for tensor in (q, k, v, g.exp(), beta))
    query = query * (q.shape[-1] ** -0.5 if scale is None else scale)
    state = value.new_zeros(*key.shape[:1], *key.shape[2:], value.shape[-1])
    outputs = []
    for token in range(key.shape[1]):
        state = state * decay[:, token, :, None, None]
        known = torch.einsum("bhkv,bhk->bhv", state, key[:, token])
        learnt = rate[:, token, :, None] * (value[:, token] - known)
        state = state + key[:, token, :, :, None] * learnt[:, :, None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, query[:, token]))
    return torch.stack(outputs, 1).to(v.dtype), state if output_final_state else None
