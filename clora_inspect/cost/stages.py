"""Count what all stages of a job cost. Stages with the same modules are run once."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clora.errors import described
from clora.linears import language_model, layer_pattern, unwrap
from clora_inspect.cost.between_micro_batches import DataParallelSettings, handed_on, pipeline_traffic, step_traffic
from clora_inspect.cost.flops import FlopCount
from clora_inspect.cost.fusions import run_settings, usual_fusions
from clora_inspect.cost.memory import rank_memory, runs_of
from clora_inspect.cost.operations import counting
from clora_inspect.cost.ownership import ownership
from clora_inspect.cost.settings import CostError, MicroBatchError, refused_setting
from clora_inspect.cost.traffic import TrafficCount
from clora_inspect.sources.model_name import run_file
from clora_inspect.sources.run.cost import cost_of_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from clora_inspect.cost.memory import Run
    from clora_inspect.job.cluster import Stage
    from clora_inspect.job.flops import Flops
    from clora_inspect.job.job import Job
    from clora_inspect.job.layout import Layout
    from clora_inspect.job.rank_memory import RankMemory
    from clora_inspect.job.traffic import Traffic
    from clora_inspect.job.workload import Workload


@dataclass(frozen=True, slots=True)
class RankCost:
    """The costs of one rank: the peak of its memory, and a micro-batch."""

    memory: RankMemory
    traffic: tuple[Traffic, ...]
    flops: Flops


class StageCosts:
    """The costs of a job's stages."""

    def __init__(self, job: Job, workload: Workload) -> None:
        """Begin with no stage.

        Raises:
            CostError: the job is built on another device than meta, or the ranks do not divide
                a row.
            WorkloadError: two fields give a step different lengths.
        """
        if job.device != "meta":
            raise CostError(f"Memory is counted on the meta device, and --device is {job.device}. Leave it out.")
        if workload.packed is not None and (problem := _cannot_pack(workload, workload.packed, job.layout)):
            raise CostError(problem)
        parts = job.layout.cp * (2 if job.layout.cp > 1 else 1) * (job.layout.tp if job.layout.sequence_parallel else 1)
        if workload.seq_length % parts:
            raise CostError(
                f"seq_length = {workload.seq_length}: the ranks of cp and tp take equal parts of a row, so it is a "
                f"multiple of {parts} for {job.layout.label}."
            )
        workload.check_batch(job.layout)
        rows, alone = workload.global_batch_size, workload.micro_batch_size * job.layout.dp
        if rows is not None and workload.num_microbatches is None and rows % alone:
            raise CostError(
                f"global_batch_size = {rows}: it is no multiple of micro_batch_size x dp = "
                f"{workload.micro_batch_size} x {job.layout.dp}."
            )
        settings = cost_of_run(run_file(job.model))
        fields = {name: value for name, value in settings.fields.items() if name not in job.model_overrides}
        # megatron-core may be older here than where the run was written, and have fewer fields.
        reason = settings.refused or refused_setting(SimpleNamespace(**fields))
        if reason is not None:
            raise CostError(f"The memory of {job.model} cannot be counted: {reason}")
        self._run_fields = fields
        self._job, self._workload = job, workload
        self._runs: dict[object, tuple[list[Run], tuple[Traffic, ...], Flops]] = {}

    def of(self, stage: Stage, chunks: Sequence[nn.Module]) -> RankCost:
        """Return what a rank of `stage`, whose chunks are adapted, costs.

        Raises:
            MicroBatchError: the stage's modules cannot be run.
            CostError: its config has a field that the account does not know.
        """
        model = language_model(unwrap(chunks[0]))
        if not hasattr(model, "config"):
            raise CostError(
                f"The memory of {self._job.model} cannot be counted: {type(model).__name__} has no config, which every "
                "module of megatron-core has and which says how its micro-batches run."
            )
        with run_settings(chunks, self._run_fields):
            return self._of(stage, chunks)

    def _of(self, stage: Stage, chunks: Sequence[nn.Module]) -> RankCost:
        config: Any = language_model(unwrap(chunks[0])).config
        reason = refused_setting(config)
        if reason is None and self._workload.packed is not None:
            reason = _reads_rows(chunks, config)
        if len(chunks) > 1 and (problem := _cannot_interleave(self._workload, self._job.layout, config)):
            raise CostError(problem)
        if reason is not None:
            raise CostError(f"The memory of {self._job.model} cannot be counted: {reason}")
        key = tuple(_signature(chunk) for chunk in chunks)
        if key not in self._runs:
            try:
                with usual_fusions(chunks, {*self._job.model_overrides, *self._run_fields}), ownership(chunks) as owner:
                    traffic, flops = TrafficCount(owner), FlopCount(owner)
                    runs = runs_of(chunks, self._workload, [counting(traffic, flops)])
                    self._runs[key] = runs, traffic.lines, flops.flops
            # The modules may be a user's, and sys.exit() there must not end this command.
            except (Exception, SystemExit) as error:
                raise MicroBatchError(
                    f"The memory of {self._job.model} cannot be counted: one micro-batch of stage {stage.pp} on the "
                    f"meta device ended in {described(error, 300)}"
                ) from error
        trained = frozenset(name for chunk in chunks for name, each in chunk.named_parameters() if each.requires_grad)
        runs, sent, operations = self._runs[key]
        layout, workload = self._job.layout, self._workload
        return RankCost(
            memory=rank_memory(chunks, runs, layout, workload, stage=stage.pp, adapters=trained),
            traffic=(*sent, *self._between(stage, chunks)),
            flops=operations,
        )

    def _between(self, stage: Stage, chunks: Sequence[nn.Module]) -> tuple[Traffic, ...]:
        """Return the traffic that no chunk makes by itself."""
        layout, workload = self._job.layout, self._workload
        config: Any = language_model(unwrap(chunks[0])).config
        states = handed_on(config, workload, layout)
        settings = DataParallelSettings(
            distributed_optimizer=workload.use_distributed_optimizer, gradients_in_fp32=workload.grad_reduce_in_fp32
        )
        return (*pipeline_traffic(states, stage.pp, layout), *step_traffic(chunks, layout, settings))


def _cannot_interleave(workload: Workload, layout: Layout, config: Any) -> str | None:
    """Return why megatron-core's interleaved schedule refuses the micro-batches; None if it runs
    them.
    """
    count, group = workload.micro_batches(layout), config.microbatch_group_size_per_vp_stage or layout.pp
    if group <= count and (count % group == 0 or count % group >= layout.pp):
        return None
    field = "" if group == layout.pp else " (microbatch_group_size_per_vp_stage)"
    return (
        f"num_microbatches = {count}: the interleaved schedule of {layout.label} runs micro-batches in groups of "
        f"{group}{field}, so it is a multiple of {group}."
    )


def _cannot_pack(workload: Workload, packed: int, layout: Layout) -> str | None:
    """Return why ranks cannot share rows of `packed` sequences; None if they can."""
    if workload.micro_batch_size != 1:
        return (
            f"micro_batch_size = {workload.micro_batch_size}, and packed = {packed}: packed sequences stand behind "
            f"each other in one row. Use --micro-batch-size 1, and the tokens of all of them as --seq-length."
        )
    parts = packed * (2 * layout.cp if layout.cp > 1 else 1)
    if workload.seq_length % parts:
        why = f" and the {layout.cp} ranks of cp take two equal parts of each" if layout.cp > 1 else ""
        return (
            f"seq_length = {workload.seq_length}, and packed = {packed}: the sequences of a row have equal "
            f"lengths{why}, so seq_length is a multiple of {parts}."
        )
    return None


def _reads_rows(chunks: Sequence[nn.Module], config: Any) -> str | None:
    """Return why a model cannot read packed rows, as a sentence; None if it can."""
    pattern = layer_pattern(language_model(unwrap(chunks[0])))
    if pattern is not None and "M" in pattern.letters:
        return "its Mamba layers read a row as one sequence. Leave --packed out."
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return (
            "it caps the scores of its attention, for which megatron-core's own attention is taken, and that reads no "
            "packed rows. Leave --packed out."
        )
    ways = config.cp_comm_type if isinstance(config.cp_comm_type, list) else [config.cp_comm_type]
    if config.context_parallel_size > 1 and "all_gather" in ways:
        return (
            "it has cp_comm_type = all_gather, and Transformer Engine gathers no keys of packed sequences "
            "(AttnFuncWithCPAndKVAllGather). Use p2p or a2a, or leave --packed out."
        )
    return None


def _signature(chunk: nn.Module) -> object:
    """Return what makes two chunks keep the same: their modules, and their parameters."""
    parameters = tuple((name, each.shape, each.dtype, each.requires_grad) for name, each in chunk.named_parameters())
    return parameters, tuple((path, type(module)) for path, module in chunk.named_modules())
