"""The account of a rank's memory: what is kept, how many micro-batches are in flight, the sums."""

from __future__ import annotations

import json

import pytest
import torch

from clora import CanonicalLoRA
from clora.errors import ModelError
from clora_inspect.cost.in_flight import ChunkBytes, worst_moment
from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.microbatch import MicroBatch, forward
from clora_inspect.cost.settings import CostError
from clora_inspect.formats.plan.text import render
from clora_inspect.formats.plan.view import View
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import decode, encode
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import GIB, Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.rules.environment import MemoryDoesNotFit
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.small.shrink import shrink
from clora_inspect.virtual import virtual_cluster, virtual_megatron

SMALL = {"num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
ROWS, LENGTH = 2, 16


def _memories(**fields: object) -> list[RankMemory]:
    overrides = {**SMALL, **fields.pop("model", {})}  # type: ignore[dict-item]
    layout = fields.pop("layout", Layout())
    job = Job(model="llama3-8b", model_overrides=overrides, layout=layout, lora=CanonicalLoRA(dim=4))  # type: ignore[arg-type]
    plan = plan_job(job, Workload(seq_length=64, **fields))  # type: ignore[arg-type]
    found = [ranks.memory for ranks in plan.rank_classes]
    assert all(isinstance(memory, RankMemory) for memory in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("name", architectures.names())
def test_what_is_kept_on_meta_is_what_a_real_forward_keeps(name: str) -> None:
    lora = CanonicalLoRA(dim=4, exclude_modules=["output_layer"], target_modules=[])
    job = Job(model=name, model_overrides={"num_layers": 9}, lora=lora)
    definition = load_definition(name).override(job.model_overrides)
    definition = shrink(definition, plan_job(job), Layout(), Layout()).definition
    kept = {}
    for device in ("cpu", "meta"):
        with quiet(), virtual_megatron(device), virtual_cluster(Layout()):
            from clora_inspect.sources.build import build_chunks

            [model] = lora(build_chunks(definition, Layout()))
            with kept_bytes([model]) as found:
                if device == "meta":
                    passed = forward(model, MicroBatch(LENGTH, rows=ROWS))
                    output = passed.output
                else:
                    tokens = torch.zeros(ROWS, LENGTH, dtype=torch.long)
                    positions = torch.arange(LENGTH).expand(ROWS, -1)
                    output = model.train()(tokens, positions, None, labels=tokens)
            kept[device] = dict(found.by_module)
            assert output.requires_grad
    assert kept["meta"] == kept["cpu"]
    assert sum(kept["cpu"].values()) > 0


@pytest.mark.parametrize(
    ("chunks", "stage", "stages", "micro_batches", "kept"),
    [(1, 0, 4, 8, (4,)), (1, 3, 4, 8, (1,)), (1, 0, 4, 2, (2,)), (2, 0, 2, 4, (3, 2)), (2, 1, 2, 4, (2, 1))],
    ids=["first", "last", "few", "interleaved first", "interleaved last"],
)
def test_micro_batches_in_flight(
    chunks: int, stage: int, stages: int, micro_batches: int, kept: tuple[int, ...]
) -> None:
    """Counted by hand from the order of megatron-core's schedules."""
    each = ChunkBytes(kept=10, forward_peak=12, backward_peak=15)
    peak = worst_moment([each] * chunks, stage=stage, stages=stages, micro_batches=micro_batches)
    assert peak.kept == kept
    assert peak.activations == 10 * sum(kept)
    assert peak.transient == 5
    assert peak.in_backward


@pytest.mark.parametrize("name", ["deepseek-v2-lite", "llama3-8b"])
def test_what_stays_between_micro_batches_is_counted_once_among_the_buffers(name: str) -> None:
    job = Job(model=name, model_overrides={"num_layers": 2}, layout=Layout(tp=2))
    [ranks] = plan_job(job, Workload(seq_length=64)).rank_classes
    assert isinstance(ranks.memory, RankMemory)
    sizes = {line.what: line.bytes for line in ranks.memory.lines}
    assert min(sizes.values()) >= 0
    assert sizes["memory that stays between micro-batches"] > 0


def test_a_stage_keeps_the_states_that_it_got_for_each_micro_batch_in_flight() -> None:
    job = Job(model="llama3-8b", model_overrides={"num_layers": 4}, layout=Layout(pp=4), lora=CanonicalLoRA(dim=4))
    first, *later = (ranks.memory for ranks in plan_job(job, Workload(seq_length=64)).rank_classes)
    for memory in later:
        assert memory.buffers_bytes == first.buffers_bytes  # type: ignore[union-attr]
    # The first stage keeps four, the second three, and only the second gets states.
    states = 64 * 4096 * 2
    assert later[0].activations_bytes / 3 - first.activations_bytes / 4 >= 0.9 * states  # type: ignore[union-attr]


def test_parts_add_up_to_the_peak_and_the_plan_carries_them() -> None:
    job = Job(model="llama3-8b", model_overrides=SMALL, layout=Layout(tp=2, pp=2), lora=CanonicalLoRA(dim=4))
    plan = plan_job(job, Workload(seq_length=64))
    again = decode(encode(plan), "plan.json")
    assert again == plan
    for ranks in json.loads(encode(plan))["rank_classes"]:
        memory = ranks["memory"]
        assert memory["peak_bytes"] == sum(size for part, size in memory.items() if part not in ("peak_bytes", "lines"))
        assert memory["peak_bytes"] == sum(line["bytes"] for line in memory["lines"])
        assert memory["gradients_bytes"] >= 4 * ranks["trainable_params"]
        assert memory["optimizer_bytes"] == 12 * ranks["trainable_params"]
        assert memory["weights_bytes"] == 2 * (ranks["base_params"] + ranks["trainable_params"])
    text = render(plan, view=View(memory=True))
    assert "peak, per rank:" in text
    assert "saved for the backward by the real modules" in text
    plain = plan_job(job)
    assert b'"memory"' not in encode(plain)
    assert "peak, per rank" not in render(plain)


def test_experts_with_biases_are_counted_without_the_kernel_that_knows_none() -> None:
    fields = {"num_layers": 2, "num_moe_experts": 4, "moe_router_topk": 2, "moe_grouped_gemm": False}
    job = Job(model="qwen3-30b-a3b", model_overrides={**fields, "add_bias_linear": True}, lora=CanonicalLoRA(dim=4))
    [ranks] = plan_job(job, Workload(seq_length=64)).rank_classes
    assert isinstance(ranks.memory, RankMemory)
    assert ranks.memory.activations_bytes > 0


def test_the_optimizer_is_split_over_data_parallel_ranks() -> None:
    alone, split, whole = (
        _memories(layout=Layout(world_size=world), use_distributed_optimizer=is_split)[0]
        for world, is_split in ((1, True), (4, True), (4, False))
    )
    assert alone.optimizer_bytes == 4 * split.optimizer_bytes == whole.optimizer_bytes
    assert alone.activations_bytes == split.activations_bytes


@pytest.mark.parametrize("shared", [True, False])
def test_optimizer_states_of_experts_are_split_over_the_ranks_that_have_them(shared: bool) -> None:
    """Adapters that experts share are on all ranks of ep, so the optimizer splits them over all."""
    fields = {"num_layers": 2, "num_moe_experts": 4, "moe_router_topk": 2}
    lora = CanonicalLoRA(dim=8, target_modules=["*.experts.linear_fc2"], share_expert_adapters=shared)
    job = Job(model="mixtral-8x7b", model_overrides=fields, layout=Layout(ep=2, etp=1, world_size=8), lora=lora)
    [ranks] = plan_job(job, Workload(seq_length=64)).rank_classes
    assert isinstance(ranks.memory, RankMemory)
    assert ranks.memory.optimizer_bytes == 12 * ranks.trainable_params // (8 if shared else 4)


@pytest.mark.parametrize(
    "recompute",
    [
        {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 2},
        {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
    ],
    ids=lambda fields: "-".join(map(str, fields.values())),
)
def test_recomputation_keeps_less(recompute: dict[str, object]) -> None:
    [everything], [less] = _memories(), _memories(model=recompute)
    assert less.activations_bytes < everything.activations_bytes
    assert less.weights_bytes == everything.weights_bytes


def test_a_users_function_decides_itself_what_is_recomputed() -> None:
    job = Job(model="gpt.py:model_provider", model_overrides=recompute_fields("full"))
    with pytest.raises(
        ModelError, match=r"--recompute, or recompute in a workload: .* Set recompute_granularity there"
    ):
        plan_job(job, Workload(seq_length=64))


def test_sequence_and_context_parallelism_keep_parts() -> None:
    """Each rank keeps its share, and a little that is not split."""
    [alone] = _memories()
    for layout in (Layout(tp=2), Layout(cp=2)):
        [shared] = _memories(layout=layout)
        assert alone.activations_bytes / 2 <= shared.activations_bytes < 0.7 * alone.activations_bytes


def test_a_row_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(CostError, match=r"seq_length = 64: .* multiple of 12"):
        _memories(layout=Layout(cp=6))


def test_micro_batches_that_the_interleaved_schedule_refuses_are_refused() -> None:
    interleaved = Layout(pp=2, vpp=2)
    for count, group in ((3, None), (1, None), (5, 4), (2, 4)):
        with pytest.raises(
            CostError, match=rf"num_microbatches = {count}: the interleaved schedule of pp2 vpp2 .* {group or 2}\."
        ):
            _memories(layout=interleaved, num_microbatches=count, model={"microbatch_group_size_per_vp_stage": group})
    # The default, and a last group that fills the pipeline.
    assert _memories(layout=interleaved)
    assert _memories(layout=interleaved, num_microbatches=6, model={"microbatch_group_size_per_vp_stage": 4})


def test_cl805_judges_the_peak_where_it_was_counted() -> None:
    job = Job(model="llama3-8b", model_overrides=SMALL, lora=CanonicalLoRA(dim=4))
    with_peak, without = plan_job(job, Workload(seq_length=4096)), plan_job(job)
    memory = with_peak.rank_classes[0].memory
    assert isinstance(memory, RankMemory)
    # Enough for the weights, and not for the activations.
    limit = (memory.weights_bytes + memory.peak_bytes) / 2 / GIB
    [finding] = MemoryDoesNotFit().check(PlannedJob(with_peak, gpu_memory_gib=limit))
    assert "at its peak" in finding.message
    assert f"{memory.peak_bytes / GIB:.1f} GiB" in finding.message
    assert not list(MemoryDoesNotFit().check(PlannedJob(without, gpu_memory_gib=limit)))
    assert not list(MemoryDoesNotFit().check(PlannedJob(with_peak, gpu_memory_gib=2 * memory.peak_bytes / GIB)))
