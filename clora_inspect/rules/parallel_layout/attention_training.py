"""CL3, parallel layout: settings of the attention that are not for training, or not for this
model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

_ROTARY = ("rope", "yarn", "mrope")
"""The values of `position_embedding_type` that rotate queries and keys."""


class LatentsCached(Rule):
    """Latent attention is to cache its latents, which is for inference. megatron-core asserts in
    its forward that it is not training.

    In inference it multiplies the weight of `linear_kv_up_proj` into others and deletes the linear,
    and an adapter with it, so clora refuses to put one there.

    Bad: `cache_mla_latents = true`
    Good: `cache_mla_latents = false`
    """

    code = "CL326"
    name = "latents-cached"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("cache_mla_latents") and job.modules_of("MLASelfAttention"):
            yield self.found(
                "cache_mla_latents is on: megatron-core's latent attention refuses it in training",
                fix="set cache_mla_latents = false",
                location=job.location_of("model.cache_mla_latents"),
            )


class PositionsOfLatentAttention(Rule):
    """Latent attention has rotary positions of its own, and the model computes YaRN's for it as
    well. megatron-core asserts in its forward that it gets none.

    Bad: `position_embedding_type = "yarn"` for DeepSeek-V3.
    Good: `position_embedding_type = "rope"`: YaRN is latent attention's `rope_type`.
    """

    code = "CL334"
    name = "positions-of-latent-attention"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("position_embedding_type") == "yarn" and job.modules_of("MLASelfAttention"):
            yield self.found(
                "position_embedding_type = yarn with latent attention, which rotates by itself: its forward refuses "
                "the model's positions",
                fix="set position_embedding_type = rope and rope_type = yarn",
                location=job.location_of("model.position_embedding_type"),
            )


class FusedQueryRotation(Rule):
    """`fused_single_qkv_rope` is on, and the fused kernel is not for this attention.

    The kernel rotates queries and keys while they still lie in one tensor with the values. So it
    knows no norms on queries and keys, and needs rotary positions in every layer: megatron-core
    asserts both in its first forward. With more tensor-parallel ranks than key-value groups it
    leaves every rank with the query heads of a whole group, which was read in its source and is a
    warning: the kernel needs a GPU.

    Bad: `fused_single_qkv_rope = true` for Qwen3, which has such norms.
    Good: `fused_single_qkv_rope = false`
    """

    code = "CL329"
    name = "fused-query-rotation"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # Latent attention has a forward of its own, which does not look at the field.
        ordinary = job.modules_of("SelfAttention") > job.modules_of("MLASelfAttention")
        if not job.config.get("fused_single_qkv_rope") or not ordinary:
            return
        for severity, why in _unfit(job):
            yield self.found(
                f"fused_single_qkv_rope is on, and {why}",
                fix="set fused_single_qkv_rope = false",
                severity=severity,
                location=job.location_of("model.fused_single_qkv_rope"),
            )


class PredictionWithoutRotation(Rule):
    """Some layers have no rotary positions, and the model has multi-token-prediction layers.

    megatron-core looks every attention up in `no_rope_freq` by the number of its layer. Those of
    prediction layers follow the decoder's, and the list ends there: the first forward raises.

    Bad: `mtp_num_layers = 1` for SmolLM3.
    Good: `mtp_num_layers = 0`
    """

    code = "CL336"
    name = "prediction-without-rotation"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # Latent attention does not look at the field.
        ordinary = job.modules_of("SelfAttention") > job.modules_of("MLASelfAttention")
        if job.config.get("no_rope_freq") and job.config.get("mtp_num_layers") and ordinary:
            yield self.found(
                "no_rope_freq with multi-token prediction: its list has no entry for the prediction layers, and their "
                "first forward raises",
                fix="set mtp_num_layers = 0",
                location=job.location_of("model.mtp_num_layers"),
            )


def _unfit(job: PlannedJob) -> Iterator[tuple[Severity, str]]:
    config, tp = job.config, job.plan.layout.tp
    if config.get("qk_layernorm") or config.get("qk_l2_norm"):
        yield Severity.ERROR, "queries and keys have norms: megatron-core's first forward raises"
    # A user's own model class may have no such attribute; nothing is known of it then.
    positions = config.get("position_embedding_type", _ROTARY[0])
    if positions not in _ROTARY:
        yield Severity.ERROR, f"position_embedding_type = {positions} rotates nothing: the first forward raises"
    without = config.get("no_rope_freq") or []
    if isinstance(without, list) and any(without):
        yield Severity.ERROR, f"{sum(map(bool, without))} layers have no rotary positions: the first forward raises"
    groups = config.get("num_query_groups")
    if groups and groups < tp:
        yield (
            Severity.WARNING,
            f"tp = {tp} is above the {groups} key-value groups: every rank gets the query heads of a whole group",
        )
