"""The peak of a stage is what real modules need that run a whole step in megatron-core's order."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from clora import CanonicalLoRA
from clora_inspect.cost.in_flight import worst_moment
from clora_inspect.cost.live import LiveBytes
from clora_inspect.cost.memory import micro_batch, runs_of
from clora_inspect.cost.microbatch import backward, forward, hand_on
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.verify.small.shrink import shrink
from clora_inspect.virtual import virtual_cluster, virtual_megatron

LORA = CanonicalLoRA(dim=4)
WORKLOAD = Workload(seq_length=64)
# The first of three stages. F0: a micro-batch's forward through chunk 0, B0: the oldest one's
# backward.
ONE_CHUNK = "F0 F0 F0 B0 F0 B0 F0 B0 F0 B0 B0 B0"
# One stage.
ALONE = "F0 B0 F0 B0"
# The first of two stages with two chunks each.
TWO_CHUNKS = "F0 F0 F1 F1 F0 B1 F0 B1 F1 B0 F1 B0 B1 B1 B0 B0"
IN_CI = ("deepseek-v3", "gpt-oss-20b", "llama3-8b", "nemotron-h-8b", "qwen3-next-80b-a3b")
CASES = [
    pytest.param(name, recompute, marks=() if name in IN_CI else pytest.mark.nightly)
    for name in architectures.names()
    for recompute in ("none", "full")
]
CASES += [
    pytest.param(name, recompute, marks=pytest.mark.nightly)
    for name, recompute in (
        *(
            ("deepseek-v3", f"selective:{modules}")
            for modules in ("mla_up_proj", "moe_act,layernorm", "shared_experts")
        ),
        *(("qwen3-30b-a3b", f"selective:{modules}") for modules in ("layernorm", "moe")),
        *(("llama3-8b", recompute) for recompute in ("selective:mlp", "selective:core_attn", "full:block:1")),
    )
]


def _small(name: str, recompute: str) -> ModelDefinition:
    job = Job(model=name, model_overrides={"num_layers": 9}, lora=LORA)
    definition = load_definition(name).override(job.model_overrides)
    return shrink(definition, plan_job(job), Layout(), Layout()).definition.override(recompute_fields(recompute))


def _chunks(definition: ModelDefinition, layout: Layout) -> list[torch.nn.Module]:
    from clora_inspect.sources.build import build_chunks

    chunks: list[torch.nn.Module] = LORA(build_chunks(definition, layout))
    return chunks


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _peak_of_a_step(chunks: list[torch.nn.Module], order: str) -> int:
    """Run all forwards and backwards of a step; return the most bytes that were alive."""
    for parameter in (each for chunk in chunks for each in chunk.parameters() if each.requires_grad):
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
    live = LiveBytes([tensor for chunk in chunks for tensor in (*chunk.parameters(), *chunk.buffers())])
    in_flight: list[deque[object]] = [deque() for _ in chunks]
    for way, number in (tuple(each) for each in order.split()):
        chunk = chunks[int(number)]
        if way == "F":
            passed = forward(chunk, micro_batch(WORKLOAD), observers=[live])
            hand_on(chunk, passed)
            in_flight[int(number)].append(passed)
            del passed
        else:
            backward(in_flight[int(number)].popleft(), observers=[live])  # type: ignore[arg-type]
    return live.span(0, live.moment).peak


@pytest.mark.parametrize(("name", "recompute"), CASES)
def test_the_peak_is_that_of_a_whole_step(name: str, recompute: str) -> None:
    definition = _small(name, recompute)
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        real = [_peak_of_a_step(_chunks(definition, Layout()), order) for order in (ONE_CHUNK, ALONE)]
        [run] = runs_of(_chunks(definition, Layout()), WORKLOAD)
    peaks = [worst_moment([run.needs], stage=0, stages=stages, micro_batches=6) for stages in (3, 1)]
    assert [peak.bytes + run.stays for peak in peaks] == real


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize(
    ("name", "layers"),
    [("llama3-8b", {"num_layers": 8}), ("qwen3-30b-a3b", {"num_layers": 8, "moe_layer_freq": 1})],
    ids=["dense", "experts"],
)
def test_the_peak_of_chunks_is_that_of_a_whole_step(name: str, layers: dict[str, int], recompute: str) -> None:
    layout = Layout(pp=2, vpp=2)
    definition = _small(name, recompute).override(layers)
    with quiet(), virtual_megatron("meta"), virtual_cluster(layout):
        real = _peak_of_a_step(_chunks(definition, layout), TWO_CHUNKS)
        runs = runs_of(_chunks(definition, layout), WORKLOAD)
    peak = worst_moment([run.needs for run in runs], stage=0, stages=2, micro_batches=4)
    assert peak.bytes + sum(run.stays for run in runs) == real


def test_a_function_that_is_compiled_makes_nothing_but_its_results() -> None:
    """It is one kernel, as `torch.compile` makes it of `jit_fuser`'s functions."""
    made = {}
    with virtual_megatron("meta"):
        from megatron.core.fusions.fused_bias_swiglu import swiglu_back

        inputs = torch.empty(8, 1024, device="meta"), torch.empty(8, 2048, device="meta")
        for compiled in (True, False):
            live = LiveBytes(inputs, compiled=compiled)
            with torch.no_grad(), live:
                gradient = swiglu_back(*inputs)
            made[compiled] = live.span(0, live.moment)
    assert made[True].peak == made[True].net == made[False].net == gradient.nbytes
    assert made[False].peak >= 2 * gradient.nbytes
