"""A function's model is compared with the job's layout, and its wrappers are seen through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora import CanonicalLoRA
from clora.errors import LayoutError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan

SOURCE = """
import torch
from torch import nn
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec as layers
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import Float16Module

SIZES = dict(num_layers=4, hidden_size=32, num_attention_heads=2, bf16=True, params_dtype=torch.bfloat16,
             pipeline_dtype=torch.bfloat16)

def gpt(config, pre_process=True, post_process=True, vp_stage=None):
    return GPTModel(config, layers(), vocab_size=64, max_sequence_length=32, pre_process=pre_process,
                    post_process=post_process, vp_stage=vp_stage)

def fields(layout):
    return dict(tensor_model_parallel_size=layout.tp, pipeline_model_parallel_size=layout.pp,
                virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
                sequence_parallel=layout.sequence_parallel)

def good(layout, pre_process, post_process, vp_stage):
    return gpt(TransformerConfig(**SIZES, **fields(layout)), pre_process, post_process, vp_stage)

def ignores():
    return gpt(TransformerConfig(**SIZES))

def without_ends(layout, vp_stage):
    return gpt(TransformerConfig(**SIZES, **fields(layout)), vp_stage=vp_stage)

class Head(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.language_model = model

def head_without_config():
    return Head(ignores())

def off_sp(layout):
    return gpt(TransformerConfig(**SIZES, **fields(layout) | {"sequence_parallel": False}))

def on_config(config, pre_process, post_process):
    return gpt(TransformerConfig(**vars(config) | SIZES), pre_process, post_process)

class Layer(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.layer_number, self.proj = number, nn.Linear(8, 8)

class Own(nn.Module):
    def __init__(self, numbers):
        super().__init__()
        self.layers = nn.ModuleList(Layer(number) for number in numbers)

def own(layout):
    first = parallel_state.get_pipeline_model_parallel_rank() * 2
    return Own([first + 1, first + 2])

def own_twice():
    return Own([1, 2])

def unnumbered():
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

def wrapped(layout, pre_process, post_process, vp_stage):
    model = good(layout, pre_process, post_process, vp_stage)
    return Float16Module(model.config, model)

def data_parallel(layout, pre_process, post_process, vp_stage):
    model = wrapped(layout, pre_process, post_process, vp_stage)
    return DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)

def torch_data_parallel(layout, pre_process, post_process, vp_stage):
    model = wrapped(layout, pre_process, post_process, vp_stage)
    return nn.parallel.DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])

def chunks(layout):
    return [wrapped(layout, parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=number),
                    parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=number), number)
            for number in range(layout.vpp)]

class Experts:
    def provide(self, pre_process, post_process):
        return gpt(TransformerConfig(**SIZES, num_moe_experts=4, moe_router_topk=2, add_bias_linear=False))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "layouts.py"
    path.write_text(SOURCE)
    return path


def plan(source: Path, function: str, layout: Layout) -> JobPlan:
    lora = CanonicalLoRA(target_modules=["linear_proj", "proj", "0"], dim=4)
    return plan_job(Job(model=f"{source}:{function}", layout=layout, lora=lora))


REFUSED = {
    ("ignores", Layout(pp=2)): "has pipeline_model_parallel_size = 1, and the job has --pp 2",
    ("ignores", Layout(tp=2)): "has tensor_model_parallel_size = 1, and the job has --tp 2",
    ("ignores", Layout(cp=2)): "has context_parallel_size = 1, and the job has --cp 2",
    ("ignores", Layout(ep=2)): "ep = 2 spreads experts, and",
    ("Experts", Layout(ep=2)): "has expert_model_parallel_size = 1, and the job has --ep 2",
    ("head_without_config", Layout(pp=2)): "the config of language_model has pipeline_model_parallel_size = 1",
    ("off_sp", Layout(tp=2, sp=True)): "has sequence_parallel = False, and the job has --sp True",
    ("without_ends", Layout(pp=2)): "post_process = True on a stage that is not the last one",
    ("without_ends", Layout(pp=2, vpp=2)): "post_process = True on a stage that is not the last one",
    ("own_twice", Layout(pp=2)): "layers {0..1} more than once in layers (stage 0: {0..1}; stage 1: {0..1})",
    ("unnumbered", Layout(pp=2)): "the same 4 parameters on each of the 2 stages",
}


@pytest.mark.parametrize(("function", "layout"), REFUSED, ids=lambda value: getattr(value, "label", value))
def test_a_model_for_another_layout_is_refused(source: Path, function: str, layout: Layout) -> None:
    with pytest.raises(LayoutError) as refused:
        plan(source, function, layout)
    assert REFUSED[function, layout] in str(refused.value)


@pytest.mark.parametrize("layout", [Layout(), Layout(pp=2), Layout(pp=2, vpp=2)], ids=lambda layout: layout.label)
def test_wrappers_and_lists_of_chunks_are_the_model_inside(source: Path, layout: Layout) -> None:
    bare = plan(source, "good", layout)
    assert (bare.totals.placements, bare.totals.linears) == (4, 24)
    for function in ("wrapped", "data_parallel", "torch_data_parallel", *(["chunks"] if layout.vpp > 1 else [])):
        inside = plan(source, function, layout)
        assert (inside.totals, inside.rank_classes) == (bare.totals, bare.rank_classes), function


@pytest.mark.parametrize(("function", "layout"), [("on_config", Layout(pp=2)), ("off_sp", Layout(tp=2))])
def test_a_config_of_the_layout_is_given_and_unsaid_sp_is_the_models(
    source: Path, function: str, layout: Layout
) -> None:
    planned = plan(source, function, layout)
    assert planned.totals == plan(source, "good", Layout()).totals
    assert planned.layout.label == ("tp2" if function == "off_sp" else "pp2")


def test_layers_of_ones_own_are_known_by_their_number(source: Path) -> None:
    stages = plan(source, "own", Layout(pp=2)).rank_classes
    assert [[row.global_layer for row in stage.placements] for stage in stages] == [[0, 1], [2, 3]]
