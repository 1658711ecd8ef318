"""CL3, parallel layout: layers recomputed together that megatron-core cannot recompute together."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


WITHOUT_MASK = "0.18."
"""Series of megatron-core in which prediction layers cannot be recomputed in full."""


class PredictionRecompute(Rule):
    """The model has multi-token-prediction layers, and megatron-core cannot recompute them as the
    config says: its first training forward raises.

    It asserts that layers are recomputed one by one. In 0.18 it cannot recompute them in full at
    all: it hands them a `padding_mask` that their recomputed forward does not take.

    Bad: `mtp_num_layers = 1` with `recompute_method = "uniform"` and `recompute_num_layers = 2`.
    Good: `recompute_num_layers = 1`
    """

    code = "CL327"
    name = "prediction-recompute"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if not job.config.get("mtp_num_layers"):
            return
        size = _layers_at_a_time(job)
        release = job.plan.versions.get("megatron-core", "")
        if release.startswith(WITHOUT_MASK) and job.config.get("recompute_granularity") == "full":
            yield self.found(
                f"recompute_granularity = full with multi-token prediction: megatron-core {release} gives the "
                "recomputed forward a padding_mask, which it does not take (TypeError)",
                fix="set recompute_granularity = selective, or use another release of megatron-core",
                location=job.location_of("model.recompute_granularity"),
            )
        elif size > 1:
            yield self.found(
                f"recompute_num_layers = {size} with multi-token prediction: megatron-core's forward asserts 1",
                fix='set recompute_num_layers = 1, or recompute_method = "block"',
                location=job.location_of("model.recompute_num_layers"),
            )


class RecomputeRemainder(Rule):
    """Layers are recomputed several at a time, and the layers of a pipeline stage (or of a virtual
    chunk of one) do not divide by that number.

    megatron-core reaches behind the last layer for the rest: the first training forward raises an
    IndexError. Evaluation recomputes nothing, and runs.

    Bad: `recompute_method = "uniform"` and `recompute_num_layers = 3` for 32 layers.
    Good: `recompute_num_layers = 4`
    """

    code = "CL331"
    name = "recompute-remainder"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        size = _layers_at_a_time(job)
        # The stacks of Mamba models ignore the setting.
        wrong = sorted({count for count in _layers_of_chunks(job) if count % size}) if _has_block(job) else []
        if wrong:
            yield self.found(
                f"recompute_num_layers = {size}, and a {'stage' if job.plan.layout.vpp == 1 else 'virtual chunk'} has "
                f"{' or '.join(counted(count, 'layer') for count in wrong)}, which it does not divide: "
                "megatron-core's first training forward raises IndexError",
                fix="set a recompute_num_layers that divides them, such as 1",
                location=job.location_of("model.recompute_num_layers"),
            )


class RecomputeIgnored(Rule):
    """Full recomputation is asked for in a Mamba model, whose stack of layers has none:
    megatron-core keeps all activations and says nothing.

    Selective recomputation works inside the attention and MLP layers of such a model.

    Bad: `recompute_granularity = "full"` for Nemotron-H, and memory planned for it.
    Good: `recompute_granularity = "selective"`
    """

    code = "CL335"
    name = "recompute-ignored"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("recompute_granularity") == "full" and job.modules_of("MambaStack"):
            yield self.found(
                "recompute_granularity = full in a Mamba model: megatron-core recomputes nothing, and keeps all "
                "activations",
                fix="count on the memory of all activations, or use selective recomputation",
                location=job.location_of("model.recompute_granularity"),
            )


def _layers_at_a_time(job: PlannedJob) -> int:
    """Return how many layers are recomputed together; 1 where they are not, or one by one."""
    config = job.config
    uniform = config.get("recompute_granularity") == "full" and config.get("recompute_method") == "uniform"
    return (config.get("recompute_num_layers") or 1) if uniform else 1


def _layers_of_chunks(job: PlannedJob) -> list[int]:
    """Return the number of decoder layers of every chunk of every stage."""
    layers: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for linear in job.linears:
        if linear.layer is not None and job.towers.in_decoder(linear.local_path):
            layers[linear.ranks.pp, linear.chunk].add(linear.layer)
    return [len(numbers) for numbers in layers.values()]


def _has_block(job: PlannedJob) -> bool:
    return bool(job.modules_of("TransformerBlock"))
