"""Stand-in for `fla.ops.gated_delta_rule`: the recurrence of arXiv 2412.06464, token by token.

The kernel computes the same result chunk by chunk, which is faster but has no simple form.
Shapes: `B` batch, `S` sequence, `H` heads, `K` channels of a key, `V` channels of a value.
"""

from __future__ import annotations

import torch

from clora_inspect.virtual.scan_kernel import ScanKernel


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
    """Return the output of gated linear attention, and the last state.

    The state of a head is a matrix M `[K, V]`. For each token it decays, `M = exp(g) M`, then moves
    its answer to the key towards the value, `M += beta k (v - M^T k)^T`. The token's output is
    `scale M^T q`.

    Args:
        q: queries `[B, S, H, K]`.
        k: keys `[B, S, H, K]`.
        v: values `[B, S, H, V]`.
        g: logarithm of the decay `[B, S, H]`.
        beta: step size `[B, S, H]`.
        scale: factor of the output, `K ** -0.5` by default.
        initial_state: not supported.
        output_final_state: whether to return the last state.
        use_qk_l2norm_in_kernel: not supported; megatron-core normalises before the call.

    Returns:
        The output `[B, S, H, V]` in the dtype of `v`, and the last state `[B, H, K, V]` or None.

    Raises:
        NotImplementedError: an option that is not supported is used.
    """
    if initial_state is not None or use_qk_l2norm_in_kernel:
        raise NotImplementedError(
            "chunk_gated_delta_rule with a state or its own normalisation computes on a GPU only."
        )
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    if output_final_state:
        return _token_by_token([q, k, v, g, beta], factor)
    products = 2 * 2 * k.numel() * v.shape[-1]
    out: torch.Tensor = ScanKernel.apply(  # type: ignore[no-untyped-call]
        lambda tensors: _token_by_token(tensors, factor)[0], tuple(v.shape), products, q, k, v, g, beta
    )
    return out, None


def _token_by_token(tensors: list[torch.Tensor], factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of `chunk_gated_delta_rule` and the last state."""
    q, k, v, g, beta = tensors
    # The kernel computes in float32. float64, which it does not take, is not reduced here.
    wide = torch.promote_types(q.dtype, torch.float32)
    q_BSHK, k_BSHK, v_BSHV, decay_BSH, beta_BSH = (tensor.to(wide) for tensor in (q, k, v, g.exp(), beta))
    q_BSHK = q_BSHK * factor
    state_BHKV = v_BSHV.new_zeros(*k.shape[:1], *k.shape[2:], v.shape[-1])
    outputs = []
    for token in range(k.shape[1]):
        state_BHKV = state_BHKV * decay_BSH[:, token, :, None, None]
        answer_BHV = torch.einsum("bhkv,bhk->bhv", state_BHKV, k_BSHK[:, token])
        correction_BHV = beta_BSH[:, token, :, None] * (v_BSHV[:, token] - answer_BHV)
        state_BHKV = state_BHKV + k_BSHK[:, token, :, :, None] * correction_BHV[:, :, None, :]
        outputs.append(torch.einsum("bhkv,bhk->bhv", state_BHKV, q_BSHK[:, token]))
    return torch.stack(outputs, 1).to(v.dtype), state_BHKV
