"""Each field that changes what a rank needs is counted, assumed or refused: none is passed over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clora import CanonicalLoRA
from clora_inspect.cost.settings import SETTINGS, CostError, Treatment, refused_setting
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import Workload
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.run.fields import CONFIG, OF_EXPERTS, UNBUILT
from clora_inspect.sources.run.kinds import COST_FIELDS

PAGE = Path(__file__).parents[3] / "docs" / "memory.md"
DENSE = {"num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
SPARSE = {**DENSE, "num_moe_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "kv_channels": 16}
ALONE, STAGES, CHUNKS = Layout(), Layout(pp=2), Layout(pp=2, vpp=2)

NUMBERS: dict[str, tuple[dict[str, Any], dict[str, Any], Layout]] = {
    "recompute_granularity": ({"recompute_granularity": "selective", "recompute_modules": ["mlp"]}, DENSE, ALONE),
    "moe_layer_recompute": ({"moe_layer_recompute": True}, SPARSE, ALONE),
    "activation_func_fp8_input_store": ({"activation_func_fp8_input_store": True}, DENSE, ALONE),
    "cross_entropy_loss_fusion": (
        {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"},
        DENSE,
        ALONE,
    ),
    "moe_router_dtype": ({"moe_router_dtype": "fp32"}, SPARSE, ALONE),
    "deallocate_pipeline_outputs": ({"deallocate_pipeline_outputs": False}, DENSE, STAGES),
    "microbatch_group_size_per_vp_stage": ({"microbatch_group_size_per_vp_stage": 4}, DENSE, CHUNKS),
    "tp_comm_overlap": ({"tp_comm_overlap": True}, DENSE, Layout(tp=2)),
    "gradient_accumulation_fusion": ({"gradient_accumulation_fusion": True}, DENSE, ALONE),
    "overlap_p2p_comm": ({"overlap_p2p_comm": True, "batch_p2p_comm": False}, DENSE, CHUNKS),
    "memory_efficient_layer_norm": ({"memory_efficient_layer_norm": True}, DENSE, ALONE),
    "disable_parameter_transpose_cache": ({"disable_parameter_transpose_cache": True}, DENSE, ALONE),
}
"""Field that is not refused -> the fields to set, those of a small model, and a layout."""

REFUSED: dict[str, Any] = {
    "fp8": "hybrid",
    "fp4": "e2m1",
    "distribute_saved_activations": True,
    "cpu_offloading": True,
    "fine_grained_activation_offloading": True,
    "cuda_graph_impl": "local",
    "enable_cuda_graph": True,
    "external_cuda_graph": True,
    "cp_comm_type": ["p2p", "a2a+p2p"],
    "hybrid_context_parallel": True,
    "overlap_moe_expert_parallel_comm": True,
    "num_microbatches_with_partial_activation_checkpoints": 2,
    "overlap_dispatch_backward_with_experts_wgrad": True,
    "moe_paged_stash": True,
    "moe_expert_rank_capacity_factor": 1.5,
    "moe_dispatch_fwd_dtype": "mxfp8",
    "gtp_weight_remat_size": 2,
    "expert_gtp_weight_remat_size": 2,
    "attention_backend": "unfused",
    "symmetric_ar_type": "two_shot",
    "use_kitchen": True,
    "use_kitchen_attention": True,
    "moe_router_fusion": True,
    "use_te_activation_func": True,
    "use_transformer_engine_op_fuser": True,
}


def _memory(fields: dict[str, Any], small: dict[str, Any], layout: Layout) -> RankMemory:
    model = "qwen3-30b-a3b" if "num_moe_experts" in small else "llama3-8b"
    job = Job(model=model, model_overrides={**small, **fields}, layout=layout, lora=CanonicalLoRA(dim=4))
    memory = plan_job(job, Workload(seq_length=64, num_microbatches=8)).rank_classes[0].memory
    assert isinstance(memory, RankMemory)
    return memory


def test_each_field_has_a_case_and_a_row_in_the_documentation() -> None:
    names = {setting.name: setting.treatment for setting in SETTINGS}
    assert set(REFUSED) == {name for name, treatment in names.items() if treatment is Treatment.REFUSED}
    assert set(NUMBERS) == set(names) - set(REFUSED)
    page = PAGE.read_text()
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name", NUMBERS)
def test_a_field_that_is_not_refused_changes_the_number_or_is_known_not_to(name: str) -> None:
    [setting] = [setting for setting in SETTINGS if setting.name == name]
    fields, small, layout = NUMBERS[name]
    changed, plain = _memory(fields, small, layout), _memory({}, small, layout)
    assert (changed.peak_bytes == plain.peak_bytes) == (setting.treatment is Treatment.NO_CHANGE)
    assumed, before = ({line.what for line in memory.lines if not line.counted} for memory in (changed, plain))
    assert (assumed != before) == (setting.treatment is Treatment.ASSUMED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_can_count_is_refused_by_its_name(name: str) -> None:
    value = REFUSED[name]
    reason = refused_setting(SimpleNamespace(**{name: value}))
    assert reason is not None
    assert reason.startswith(f"it has {name} = {value}, which ")
    [setting] = [setting for setting in SETTINGS if setting.name == name]
    for off in (None, False, 0, *setting.off):
        assert refused_setting(SimpleNamespace(**{name: off})) is None


@pytest.mark.parametrize(
    ("fields", "layout", "ending"),
    [
        ({"fp8": "hybrid"}, ALONE, "fp8=null"),
        ({"attention_backend": "unfused"}, ALONE, "attention_backend=auto"),
        ({"cuda_graph_impl": "transformer_engine"}, ALONE, "cuda_graph_impl=none"),
        ({"hybrid_context_parallel": True}, Layout(cp=2), "hybrid_context_parallel=false"),
    ],
    ids=str,
)
def test_the_words_of_a_refusal_lead_to_a_number(fields: dict[str, Any], layout: Layout, ending: str) -> None:
    with pytest.raises(CostError) as refused:
        _memory(fields, DENSE, layout)
    option = str(refused.value).rpartition("A number without it: --set model.")[2].removesuffix(".")
    assert option == ending
    name, _, value = option.partition("=")
    assert _memory({name: {"null": None, "false": False}.get(value, value)}, DENSE, layout).peak_bytes


def test_a_run_passes_on_each_of_them() -> None:
    """Fields that change no module are not built from a run, so the account gets them apart."""
    not_built = {setting.name for setting in SETTINGS} - CONFIG - OF_EXPERTS - set(UNBUILT)
    assert not_built - COST_FIELDS.keys() == {
        # They change nothing here.
        *{"gradient_accumulation_fusion", "overlap_p2p_comm"},
        *{"memory_efficient_layer_norm", "disable_parameter_transpose_cache"},
    }


@pytest.mark.parametrize(
    ("fields", "layout"),
    [
        ({"fp8": "e4m3", "fp8_recipe": recipe}, ALONE)
        for recipe in ("delayed", "tensorwise", "blockwise", "mxfp8")
    ]
    + [
        ({"fp8": "e4m3", "fp8_dot_product_attention": True}, ALONE),
        ({"fp4": "e2m1"}, ALONE),
        ({"cuda_graph_impl": "transformer_engine"}, ALONE),
        ({"fine_grained_activation_offloading": True, "offload_modules": ["core_attn"]}, ALONE),
        ({"cp_comm_type": "a2a+p2p", "hierarchical_context_parallel_sizes": [2, 2]}, Layout(cp=4)),
        ({"attention_backend": "unfused"}, ALONE),
        ({"num_microbatches_with_partial_activation_checkpoints": 1}, STAGES),
    ],
    ids=str,
)  # fmt: skip
def test_a_job_with_such_a_field_has_no_account(fields: dict[str, Any], layout: Layout) -> None:
    name = next(iter(fields))
    with pytest.raises(CostError, match=rf"The memory of llama3-8b cannot be counted: it has {name} = "):
        _memory(fields, DENSE, layout)


@pytest.mark.parametrize(("value", "is_refused"), [("p2p", False), (["a2a", "p2p"], False), ("a2a+p2p", True)])
def test_only_some_values_of_a_field_are_refused(value: Any, is_refused: bool) -> None:
    assert (refused_setting(SimpleNamespace(cp_comm_type=value)) is not None) == is_refused
