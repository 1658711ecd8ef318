"""CL3, parallel layout: attention that Transformer Engine cannot compute under context
parallelism.

Read in the source of Transformer Engine 2.9 and later, and known from reports: its kernels need a
GPU, and the attention that runs on the CPU here knows no context parallelism.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted
from clora_inspect.sources.exchange import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

DEFAULT = "p2p"
"""Used where `cp_comm_type` is not set."""


class _Demand(NamedTuple):
    """Something in the attention that works with some kinds of communication only."""

    what: str
    kinds: tuple[str, ...]


class ContextParallelAttention(Rule):
    """Transformer Engine has no attention for this model with context parallelism as it is set up.

    How the ranks exchange keys and values is `cp_comm_type`, by default `p2p`, a ring. Learned
    sinks and off-by-one softmax work with `a2a` only. Sliding windows work with `a2a` and
    `all_gather`. Latent attention works with `p2p` and `a2a+p2p` up to Transformer Engine 2.9. The
    run ends in its first forward, with "No dot product attention backend" or an assertion.

    It is a warning because it rests on Transformer Engine's source and on reports: it takes GPUs to
    see it.

    Bad: gpt-oss-20b with cp = 2 and no `cp_comm_type`.
    Good: `cp_comm_type = "a2a"`
    """

    code = "CL317"
    name = "context-parallel-attention"
    severity = Severity.WARNING
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        cp, kinds = job.plan.layout.cp, kinds_of(job)
        demands = _demands(job) if cp > 1 else []
        broken = [demand for demand in demands if not kinds <= set(demand.kinds)]
        if broken:
            # All demands and not only the broken ones: the fix must not break another one.
            fitting = [kind for kind in KINDS if all(kind in demand.kinds for demand in demands)]
            named = " and ".join(sorted(kinds)) + ("" if job.config.get("cp_comm_type") else " (the default)")
            yield self.found(
                f"cp = {cp} with cp_comm_type = {named}: Transformer Engine has no attention for "
                f"{' and '.join(demand.what for demand in broken)}",
                fix=f"set cp_comm_type = {' or '.join(fitting)} in the model's config" if fitting else "use cp = 1",
                details=[f"{demand.what}: {' or '.join(demand.kinds)}" for demand in demands],
                location=job.location_of("layout.cp"),
            )


class ContextParallelHeads(Rule):
    """With `cp_comm_type = "a2a"` the ranks of cp exchange whole heads, and the heads of a
    tensor-parallel rank do not divide by cp.

    Query heads and key-value groups both have to. It is a warning because it rests on Transformer
    Engine's source: it takes GPUs to see it.

    Bad: 8 key-value groups with tp = 4, cp = 4 and `cp_comm_type = "a2a"`.
    Good: cp = 2
    """

    code = "CL318"
    name = "context-parallel-heads"
    severity = Severity.WARNING
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        layout, heads = job.plan.layout, job.config.get("num_attention_heads")
        if layout.cp == 1 or not heads or not kinds_of(job) & {"a2a", "a2a+p2p"} or not _has_attention(job):
            return
        # With fewer groups than ranks, a rank works on one whole group.
        on_rank = {
            "query head": max(1, heads // layout.tp),
            "key-value group": max(1, job.config.get("num_query_groups", heads) // layout.tp),
        }
        # The group of a2a in `a2a+p2p` is smaller than cp and not known here.
        exact = "a2a" in kinds_of(job)
        wrong = [counted(count, what) for what, count in on_rank.items() if count % (layout.cp if exact else 2)]
        if wrong:
            yield self.found(
                f"cp = {layout.cp} with cp_comm_type = {'a2a' if exact else 'a2a+p2p'}: a tensor-parallel "
                f"rank has {' and '.join(wrong)}, which do not divide by {layout.cp if exact else 2}",
                fix="use a smaller tp or cp, or another cp_comm_type",
                location=job.location_of("layout.cp"),
            )


def kinds_of(job: PlannedJob) -> set[str]:
    """Return the kinds of communication that the layers of `job` use."""
    written = job.config.get("cp_comm_type") or DEFAULT
    return {written} if isinstance(written, str) else set(written)


def _demands(job: PlannedJob) -> list[_Demand]:
    config = job.config
    demands: list[_Demand] = []
    if not _has_attention(job):
        return demands
    softmax = config.get("softmax_type", "vanilla")
    if softmax != "vanilla":
        name = "learned sinks" if softmax == "learnable" else "an off-by-one softmax"
        demands.append(_Demand(f"{name} (softmax_type = {softmax})", ("a2a",)))
    window = config.get("window_size")
    # -1 means no limit, and 0 on the right is what every causal attention has.
    if window and (window[0] != -1 or window[1] not in (-1, 0)):
        demands.append(_Demand(f"sliding windows (window_size = {window[0]}, {window[1]})", ("a2a", "all_gather")))
    if job.modules_of("MLASelfAttention"):
        # The defaults are megatron-core's; the config of a plan leaves them out.
        key = config.get("qk_head_dim", 128) + config.get("qk_pos_emb_head_dim", 64)
        value = config.get("v_head_dim", 128)
        if key != value:
            demands.append(_Demand(f"keys of {key} and values of {value} (latent attention)", ("p2p", "a2a+p2p")))
    return demands


def _has_attention(job: PlannedJob) -> bool:
    return bool(job.modules_of("SelfAttention"))
