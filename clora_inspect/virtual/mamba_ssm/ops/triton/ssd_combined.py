"""Stand-in for `mamba_ssm.ops.triton.ssd_combined`: the scan of Mamba 2 (arXiv 2405.21060).

It runs token by token. The kernels compute the same result chunk by chunk, which is faster but has
no simple form. Shapes: `B` batch, `S` sequence, `H` heads, `P` channels of a head, `G` groups of
heads, `N` size of the state. In shapes `B` is the batch; as an argument it is a matrix of the scan.
"""

from __future__ import annotations

import torch
from causal_conv1d import causal_conv1d_fn
from torch.nn import functional as F

from clora_inspect.virtual.scan_kernel import ScanKernel


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
    """Return the scan's output `[B, S, H, P]` in the dtype of `x`.

    The state of a head is a matrix M `[P, N]`. For each token it becomes
    `M = exp(dt A) M + dt x B^T`; the token's output is `(M C + D x) silu(z)`.

    Args:
        x: input `[B, S, H, P]`.
        dt: step size `[B, S, H]`.
        A: decay rate `[H]`, negative.
        B: input weights `[B, S, G, N]`.
        C: output weights `[B, S, G, N]`.
        chunk_size: ignored; it changes the kernel's speed only.
        D: weight of the skip connection, `[H]` or `[H, P]`.
        z: gate `[B, S, H, P]`; without it there is no gating.
        dt_bias: added to `dt`, `[H]`.
        initial_states: not supported.
        seq_idx: not supported.
        cu_seqlens: not supported.
        dt_softplus: whether to take the softplus of `dt`.
        return_final_states: not supported.
        return_varlen_states: not supported.

    Raises:
        NotImplementedError: an option that is not supported is used: states and packed sequences.
    """
    if (
        any(each is not None for each in (initial_states, seq_idx, cu_seqlens))
        or return_final_states
        or return_varlen_states
    ):
        raise NotImplementedError("mamba_chunk_scan_combined with states or packed sequences computes on a GPU only.")
    given = {name: each for name, each in (("D", D), ("z", z), ("dt_bias", dt_bias)) if each is not None}

    def compute(tensors: list[torch.Tensor]) -> torch.Tensor:
        return _token_by_token(*tensors[:5], dt_softplus=dt_softplus, **dict(zip(given, tensors[5:], strict=True)))

    products = 2 * x.numel() * B.shape[-1]
    out: torch.Tensor = ScanKernel.apply(  # type: ignore[no-untyped-call]
        compute, tuple(x.shape), products, x, dt, A, B, C, *given.values()
    )
    return out


def _token_by_token(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    *,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
) -> torch.Tensor:
    """Return the result of `mamba_chunk_scan_combined`."""
    # The kernel computes in float32. float64, which it does not take, is not reduced here.
    wide = torch.promote_types(x.dtype, torch.float32)
    dt_BSH = dt.to(wide) if dt_bias is None else dt.to(wide) + dt_bias.to(wide)
    dt_BSH = F.softplus(dt_BSH) if dt_softplus else dt_BSH
    x_BSHP = x.to(wide)
    heads_per_group = x.shape[2] // B.shape[2]
    B_BSHN, C_BSHN = (tensor.to(wide).repeat_interleave(heads_per_group, dim=2) for tensor in (B, C))
    decay_BSH = torch.exp(dt_BSH * A.to(wide))
    state_BHPN = x_BSHP.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    outputs = []
    for token in range(x.shape[1]):
        update_BHPN = (dt_BSH[:, token, :, None] * x_BSHP[:, token])[..., None] * B_BSHN[:, token, :, None, :]
        state_BHPN = state_BHPN * decay_BSH[:, token, :, None, None] + update_BHPN
        outputs.append(torch.einsum("bhpn,bhn->bhp", state_BHPN, C_BSHN[:, token]))
    out_BSHP = torch.stack(outputs, 1)
    if D is not None:
        out_BSHP = out_BSHP + x_BSHP * (D.to(wide)[:, None] if D.dim() == 1 else D.to(wide))
    if z is not None:
        out_BSHP = out_BSHP * F.silu(z.to(wide))
    return out_BSHP.to(x.dtype)


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
    """Compute what a mixer does between its projections: convolution, scan and gate.

    Args:
        zxbcdt: output of the input projection `[B, S, H * P + H * P + G * N + G * N + H]`: the gate
            z, then x, B and C for the convolution, then the step size dt.
        conv1d_weight: `[H * P + 2 * G * N, width]`.
        conv1d_bias: `[H * P + 2 * G * N]`.
        dt_bias: `[H]`.
        A: `[H]`.
        D: `[H]` or `[H, P]`.
        chunk_size: ignored, as in `mamba_chunk_scan_combined`.
        initial_states: not supported.
        seq_idx: not supported.
        activation: of the convolution.
        rmsnorm_weight: not supported; megatron-core's mixer has a norm module of its own.
        headdim: P; needed if D is `[H]`.
        ngroups: G.
        norm_before_gate: ignored without `rmsnorm_weight`.

    Returns:
        `[B, S, H * P]`.

    Raises:
        NotImplementedError: an option that is not supported is used.
    """
    if initial_states is not None or seq_idx is not None or rmsnorm_weight is not None:
        raise NotImplementedError(
            "mamba_split_conv1d_scan_combined with states, packing or a norm computes on a GPU only."
        )
    heads = A.shape[0]
    channels = headdim if headdim is not None else D.shape[-1]
    inner = heads * channels
    # The size of B, and of C: groups * state.
    per_matrix = (zxbcdt.shape[-1] - 2 * inner - heads) // 2
    z, xbc, dt = torch.split(zxbcdt, [inner, inner + 2 * per_matrix, heads], dim=-1)
    xbc = causal_conv1d_fn(xbc.transpose(1, 2), conv1d_weight, conv1d_bias, activation=activation).transpose(1, 2)
    x, b, c = torch.split(xbc, [inner, per_matrix, per_matrix], dim=-1)
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
