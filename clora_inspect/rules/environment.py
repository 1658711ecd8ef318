"""CL8, environment: what is installed, and whether the job fits the GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from clora.limits import LARGEST_PIPELINE
from clora.megatron_releases import SUPPORTED, series
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.memory import training_bytes, weight_bytes
from clora_inspect.job.versions import STAND_IN
from clora_inspect.rules.base import Needs, Rule, RuleSettings
from clora_inspect.rules.linears import module_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

GIB = 1 << 30
TESTED = {"megatron-core": tuple(map(series, SUPPORTED)), "torch": ("2.",)}
"""Package -> prefixes of the versions that this release was tested with."""


class TransformerEngineMissing(Rule):
    """Transformer Engine is not installed here, and Megatron-Bridge cannot be imported without it.

    The plan needs none, because it is made with a stand-in. Training with Megatron-Bridge on this
    machine would fail.

    Bad: a job with `implementation = "megatron-bridge"`, to be trained on a machine without
    Transformer Engine.
    Good: `pip install clora-inspect[te]` where it is trained.
    """

    code = "CL801"
    name = "transformer-engine-missing"
    severity = Severity.INFO
    reference_only = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:  # noqa: ARG002 - the environment is the same for every job
        # importlib.metadata is slow to import, and this rule runs only for Megatron-Bridge jobs.
        from importlib.metadata import PackageNotFoundError, version

        try:
            version("transformer-engine")
        except PackageNotFoundError:
            yield self.found(
                "Transformer Engine is not installed here: the plan is made with a stand-in, and Megatron-Bridge "
                "cannot be imported",
                fix="pip install clora-inspect[te] on the machine that trains",
            )


class UntestedVersion(Rule):
    """The plan was made with a release of torch or megatron-core that this release of clora-inspect
    was not tested with.

    Modules may have other names and shapes there than clora-inspect expects. What it cannot build
    or does not know how to adapt is refused, so that what is planned was understood.

    Bad: a plan made with megatron-core 0.21.
    Good: megatron-core 0.16 to 0.20
    """

    code = "CL802"
    name = "untested-version"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        for package, tested in TESTED.items():
            used = job.plan.versions.get(package, "")
            if used and used != STAND_IN and not used.startswith(tested):
                known = " to ".join(dict.fromkeys(f"{prefix}*" for prefix in (tested[0], tested[-1])))
                yield self.found(
                    f"the plan was made with {package} {used}, and this release was tested with {known}",
                    fix="compare the plan with one of a tested release: clora-inspect diff A B",
                )


class QueryNormOfRelease(Rule):
    """Latent attention does not compress its queries, and megatron-core 0.19 and later fuse a norm
    into `linear_q_proj` when `qk_layernorm` is on. Hugging Face's model (DeepSeek-V2-Lite) has none
    there: with its weights the model computes something else, and an exported adapter does not fit.

    This is a warning where the plan's model has the norm, and a note where clora-inspect has built
    Hugging Face's model, because the model that you train may have it.

    Bad: `q_lora_rank = None` and `qk_layernorm = True` with megatron-core 0.19
    Good: `qk_layernorm = False`, and a subclass of `TELayerNormColumnParallelLinear` as
    `linear_kv_up_proj` in the layer's spec
    """

    code = "CL806"
    name = "query-norm-of-release"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        queries = [one for one in job.linears if one.last_name == "linear_q_proj"]
        normed = [one for one in queries if one.class_name == _WITH_NORM]
        hidden = job.config.get("hidden_size")
        numbers = f"{len(normed)} norms" + (f" of {hidden:,} parameters" if isinstance(hidden, int) else "")
        if normed:
            yield self.found(
                f"this release of megatron-core normalises the input of linear_q_proj, {numbers} that the model of "
                "Hugging Face does not have",
                fix=f"{_OWN_SPEC}; or train with megatron-core 0.18",
                details=module_places(normed),
                location=job.location_of("model"),
            )
            return
        latents = [one for one in job.linears if one.last_name == "linear_kv_up_proj"]
        # Built by hand: `qk_layernorm` is off, and there is a norm all the same.
        if queries and not job.config.get("qk_layernorm") and any(one.class_name == _WITH_NORM for one in latents):
            yield self.found(
                f"qk_layernorm = True would normalise the input of linear_q_proj in this release of megatron-core, in "
                f"{len(queries)} layers; the plan is of Hugging Face's model, which has no norm there",
                severity=Severity.INFO,
                fix=f"let the model that you train be the same: {_OWN_SPEC}",
            )


_WITH_NORM = "TELayerNormColumnParallelLinear"
_OWN_SPEC = (
    "set qk_layernorm = False, and in the layer's spec let self_attention.submodules.linear_kv_up_proj be a subclass "
    f"of {_WITH_NORM}, which megatron-core takes for a plain linear"
)


class ModelBuildFailed(Rule):
    """The model cannot be found, read or built, or its own code raised an error. The finding has
    the error's message.

    Bad: `model = "recipes.llama3:build_8"`, a function that does not exist.
    Good: `model = "recipes.llama3:build_8b"`
    """

    code = "CL803"
    name = "model-build-failed"
    severity = Severity.ERROR
    needs = Needs.BUILD


class MemorySettings(RuleSettings, frozen=True, kw_only=True):
    headroom: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    """Share of the GPU's memory (0 to 1) that must be left: for fragmentation and for what is
    outside of torch's allocator where the peak was counted, elsewhere for activations as well."""


class MemoryDoesNotFit(Rule):
    """The fullest rank needs more memory than the job's GPU has.

    A check counts the peak of each job with `gpu-memory-gib`, for its `workload`, and `plan` does
    with `--memory`. `headroom` is then left for fragmentation and for what is outside of torch's
    allocator (CUDA context, NCCL); a peak that reaches into it is a warning. A peak that a check
    cannot count is a warning as well. Where it is not counted, the sum counts the frozen base in
    its dtype and 18 bytes for each parameter of an adapter (bf16 weight, fp32 gradient, Adam).
    Activations need memory too, so that this is a lower bound: a job with this error cannot work,
    and another job may still need too much.

    Bad: Llama-3 70B with tp = 1 and `gpu-memory-gib = 80`
    Good: tp = 4
    """

    code = "CL805"
    name = "memory-does-not-fit"
    severity = Severity.ERROR
    settings = MemorySettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        memory = job.gpu_memory_gib
        if memory is None:
            return
        if job.plan.uncounted:
            yield self.found(
                f"the peak was not counted, and weights alone are judged: {job.plan.uncounted}",
                severity=Severity.WARNING,
                fix="give the job a workload that can be counted",
                location=job.location_of("gpu_memory_gib"),
            )
        headroom = self.settings_for(job, MemorySettings).headroom
        dtype = job.plan.model.weights_dtype
        peaks = {stage: peak / GIB for stage, peak in _peaks(job).items()}
        sizes = peaks or {
            ranks.pp: (weight_bytes(ranks.base_params, dtype) + training_bytes(ranks.trainable_params)) / GIB
            for ranks in job.plan.rank_classes
        }
        stage, gib = max(sizes.items(), key=lambda size: size[1])
        if gib > memory * (1 - headroom):
            left = f"{memory * headroom:.1f} for " + (
                "fragmentation, CUDA and NCCL" if peaks else "activations and all else"
            )
            yield self.found(
                f"a rank of stage {stage} needs {gib:.1f} GiB "
                + ("at its peak" if peaks else "for weights, gradients and optimizer states alone")
                + f", and the GPU has {memory:g} GiB"
                + (f", of which headroom = {headroom:g} leaves {left}" if gib <= memory else ""),
                severity=Severity.WARNING if gib <= memory else Severity.ERROR,
                fix="use a larger tp, pp or ep" + (", or recompute activations" if peaks else ""),
                location=job.location_of("gpu_memory_gib"),
            )


class StageSettings(RuleSettings, frozen=True, kw_only=True):
    above: Annotated[float, Meta(ge=0, le=LARGEST_PIPELINE)] = 0.15
    """How far the peak of a stage may be above the mean of all stages, as a share of the mean."""


class FullestStage(Rule):
    """A rank of one pipeline stage peaks far above the mean of all stages, so that this stage alone
    decides which GPU is needed, and memory of the others lies idle.

    Peaks are counted by a check of a job with `gpu-memory-gib`, and by `plan --memory`; nothing is
    said elsewhere. In the usual schedule an earlier stage keeps the activations of more
    micro-batches, and the first and last stage have the embedding and the output layer besides.

    Bad: 16 layers on pp = 4, 4 on each stage, with the first stage 40 % above the mean
    Good: 3 layers on the first stage, or its layers recomputed
    """

    code = "CL807"
    name = "fullest-stage"
    severity = Severity.INFO
    settings = StageSettings

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        peaks = _peaks(job)
        # All stages are counted or none.
        if len(peaks) < 2:
            return
        above = self.settings_for(job, StageSettings).above
        mean = sum(peaks.values()) / len(peaks)
        over = {stage: peak for stage, peak in peaks.items() if peak > mean * (1 + above)}
        if not over:
            return
        stage, peak = max(over.items(), key=lambda each: each[1])
        yield self.found(
            f"a rank of stage {stage} peaks at {peak / GIB:.1f} GiB, {100 * (peak / mean - 1):.0f} % above the mean of "
            f"all stages, {mean / GIB:.1f} GiB",
            fix="give the stage fewer layers, or recompute activations",
            details=tuple(
                f"stage {each}: {size / GIB:.1f} GiB, {_largest_part(job, each)}" for each, size in peaks.items()
            ),
            location=job.location_of("layout.pp"),
        )


def _peaks(job: PlannedJob) -> dict[int, int]:
    """Return the peak of each pipeline stage in bytes; nothing where none was counted."""
    peaks: dict[int, int] = {}
    for ranks in job.plan.rank_classes:
        if ranks.memory:
            peaks[ranks.pp] = max(peaks.get(ranks.pp, 0), ranks.memory.peak_bytes)
    return peaks


def _largest_part(job: PlannedJob, stage: int) -> str:
    """Describe what takes most of a stage's peak."""
    memory = next(ranks.memory for ranks in job.plan.rank_classes if ranks.pp == stage and ranks.memory)
    sizes = {part: getattr(memory, f"{part}_bytes") for part in ("weights", "activations", "transient", "optimizer")}
    part = max(sizes, key=lambda each: sizes[each])
    return f"{sizes[part] / GIB:.1f} of it {part}"
