"""The scan of a state-space model (Mamba 2, arXiv 2405.21060), token by token: slow, and what the
kernels compute chunk by chunk.
"""

from __future__ import annotations

import torch
from causal_conv1d import causal_conv1d_fn
from torch.nn import functional as F


def mamba_chunk_scan_combined(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    chunk_size: int,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    initial_states: torch.Tensor | None = None,
    seq_idx: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    dt_softplus: bool = False,
    return_final_states: bool = False,
    return_varlen_states: bool = False,
    **_options: object,
) -> torch.Tensor:
    """`x` `[batch, sequence, heads, channels]`, step `dt` `[batch, sequence, heads]`, `A`
    `[heads]`, `B`, `C` `[batch, sequence, groups, state]`.

    A head's state `h` `[channels, state]` is `h = e^(dt A) h + dt x B^T`, its output `h C + D x`,
    gated by `silu(z)`.
    """
    if (
        any(each is not None for each in (initial_states, seq_idx, cu_seqlens))
        or return_final_states
        or return_varlen_states
    ):
        raise NotImplementedError("mamba_chunk_scan_combined with states or packed sequences computes on a GPU only.")
    wide = torch.promote_types(x.dtype, torch.float32)
    step = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias.to(wide)
    step = F.softplus(step) if dt_softplus else step
    per_group = x.shape[2] // B.shape[2]
    inputs = x.to(wide)
    b, c = (tensor.to(wide).repeat_interleave(per_group, dim=2) for tensor in (B, C))
    decay = torch.exp(step * A.to(wide))
    state = inputs.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    outputs = []
    for token in range(x.shape[1]):
        learnt = (step[:, token, :, None] * inputs[:, token])[..., None] * b[:, token, :, None, :]
        state = state * decay[:, token, :, None, None] + learnt
        outputs.append(torch.einsum("bhps,bhs->bhp", state, c[:, token]))
    out = torch.stack(outputs, 1)
    if D is not None:
        out = out + inputs * (D.to(wide)[:, None] if D.dim() == 1 else D.to(wide))
    if z is not None:
        out = out * F.silu(z.to(wide))
    return out.to(x.dtype)


def mamba_split_conv1d_scan_combined(
    zxbcdt: torch.Tensor,
    conv1d_weight: torch.Tensor,
    conv1d_bias: torch.Tensor,
    dt_bias: torch.Tensor,
    A: torch.Tensor,
    D: torch.Tensor,
    chunk_size: int,
    initial_states: torch.Tensor | None = None,
    seq_idx: torch.Tensor | None = None,
    activation: str = "silu",
    rmsnorm_weight: torch.Tensor | None = None,
    headdim: int | None = None,
    ngroups: int = 1,
    norm_before_gate: bool = True,
    **_options: object,
) -> torch.Tensor:
    """All of a mixer between its projections: gate, convolution and scan of `zxbcdt`
    `[batch, sequence, 2 inner + 2 groups state + heads]`.

    Returns:
        `[batch, sequence, inner]`.
    """
    if initial_states is not None or seq_idx is not None or rmsnorm_weight is not None:
        raise NotImplementedError(
            "mamba_split_conv1d_scan_combined with states, packing or a norm computes on a GPU only."
        )
    heads = A.shape[0]
    channels = headdim if headdim is not None else D.shape[-1]
    inner = heads * channels
    both = (zxbcdt.shape[-1] - 2 * inner - heads) // 2
    z, mixed, dt = torch.split(zxbcdt, [inner, inner + 2 * both, heads], dim=-1)
    mixed = causal_conv1d_fn(mixed.transpose(1, 2), conv1d_weight, conv1d_bias, activation=activation).transpose(1, 2)
    x, b, c = torch.split(mixed, [inner, both, both], dim=-1)
    out = mamba_chunk_scan_combined(
        x.reshape(*x.shape[:-1], heads, channels),
        dt,
        A,
        b.reshape(*b.shape[:-1], ngroups, -1),
        c.reshape(*c.shape[:-1], ngroups, -1),
        chunk_size,
        D=D,
        z=z.reshape(*z.shape[:-1], heads, channels),
        dt_bias=dt_bias,
        dt_softplus=True,
    )
    return out.flatten(-2)
