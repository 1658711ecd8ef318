"""CL4, surgery: fast paths of megatron-core that adapters lose, or that fail in their runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import counted, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob

_NORM_INSIDE = "TELayerNormColumnParallelLinear"


class OverlapLost(Rule):
    """Tensor-parallel communication is overlapped (`tp_comm_overlap`), and adapters switch the
    overlap off in the forward of the linears that they adapt.

    An adapter multiplies the output of the norm in front of a linear, so clora asks Transformer
    Engine to return it. Transformer Engine then gathers the input before the product instead of
    during it. The result is right, and the run is slower than the option promises. The adapters of
    Megatron-Bridge gather the input a second time.

    Bad: `tp_comm_overlap = true` with every linear adapted.
    Good: `tp_comm_overlap = false`
    """

    code = "CL420"
    name = "overlap-lost"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        hit = {
            (one.ranks.pp, one.chunk, one.path): one for one in job.adapted if one.class_name == _NORM_INSIDE
        }.values()
        if job.config.get("tp_comm_overlap") and job.plan.layout.tp > 1 and hit:
            reference = job.reference
            effect = (
                f"the adapters of {reference.label} gather the input a second time"
                if reference
                else "Transformer Engine gathers their input before the product, and not during it"
            )
            yield self.found(
                f"tp_comm_overlap is on and {counted(len(hit), 'linear')} with a norm inside adapted: {effect}",
                fix="measure with tp_comm_overlap = false, which is simpler and may be as fast",
                details=places(hit),
                location=job.location_of("model.tp_comm_overlap"),
            )


class GraphsWithPackedSequences(Rule):
    """Transformer Engine captures the attention in CUDA graphs, which take tensors only: a batch
    with packed sequences fails at the first replay.

    Fine-tuning usually packs short examples, and a job does not say whether it does.

    Bad: `cuda_graph_impl = "transformer_engine"` in a run with packed sequences.
    Good: `cuda_graph_scope = ["mlp"]`, or batches that are not packed.
    """

    code = "CL421"
    name = "graphs-with-packed-sequences"
    severity = Severity.INFO

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        if job.config.get("cuda_graph_impl") != "transformer_engine" or not job.adapted:
            return
        # An empty scope captures whole layers. Attention outside of the graphs takes any argument.
        scope = job.config.get("cuda_graph_scope")
        if not scope or "attn" in scope:
            yield self.found(
                "cuda_graph_impl = transformer_engine captures the attention: a batch with packed sequences fails "
                "with 'CUDA graph accepts only Tensor inputs'",
                fix="if the run packs sequences: a cuda_graph_scope without attn, or cuda_graph_impl = none",
                location=job.location_of("model.cuda_graph_impl"),
            )
