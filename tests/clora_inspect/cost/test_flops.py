"""The operations that are counted are those of torch's FlopCounterMode, by phase and by owner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clora import CanonicalLoRA
from clora_inspect.job.flops import Flops
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.small.shrink import shrink
from clora_inspect.virtual import virtual_cluster, virtual_megatron

LAYERS = 9
"""Enough for each kind of layer of the built-in architectures."""
TARGETS = ["linear_*", "in_proj", "out_proj"]
ROWS, LENGTH = 2, 16


@pytest.mark.parametrize("name", architectures.names())
def test_they_are_those_of_torch_forward_and_backward_with_a_frozen_base(name: str) -> None:
    lora = CanonicalLoRA(dim=4, exclude_modules=["output_layer"], target_modules=[])
    job = Job(model=name, model_overrides={"num_layers": LAYERS}, lora=lora)
    definition = shrink(
        load_definition(name).override(job.model_overrides), plan_job(job), Layout(), Layout()
    ).definition
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        from clora_inspect.sources.build import build_chunks

        [model] = build_chunks(definition, Layout())
        with FlopCounterMode(display=False) as base:
            _forward(model)
        lora(model)
        flops, forward, backward = _counted(model)
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        [model] = build_chunks(definition, Layout())
        lora(model)
        on_meta = _counted_on_meta(model)
    assert on_meta == flops
    assert flops.base_forward == base.get_total_flops() > 0
    assert flops.base_forward + flops.adapter_forward == forward
    assert flops.base_backward + flops.adapter_backward == backward
    # Gradients of inputs only: no weight of the base has one, and an adapter's both factors do.
    assert 0 < flops.adapter_forward < flops.adapter_backward <= 2 * flops.adapter_forward
    assert flops.base_backward < 2 * flops.base_forward
    assert 1 < flops.overstatement < 1.5


def test_a_frozen_linear_has_no_gradient_of_its_weight_and_attention_has_both() -> None:
    """The backward of a dense model, by hand."""
    heads, head, hidden, ffn, vocabulary, tokens = 4, 16, 64, 128, 128, ROWS * LENGTH
    attention = 2 * 2 * ROWS * heads * LENGTH * LENGTH * head
    qkv, projection, mlp = (2 * tokens * hidden * width for width in (2 * hidden, hidden, 3 * ffn))
    output = 2 * tokens * hidden * vocabulary
    layers = 2
    with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        import tiny_models
        from megatron.core.models.gpt import GPTModel
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

        config = tiny_models.config(Layout(), "cpu")
        spec = get_gpt_decoder_block_spec(config, use_transformer_engine=True)
        model = GPTModel(config, spec, vocabulary, LENGTH, position_embedding_type="rope")
        CanonicalLoRA(dim=4)(model)
        flops, _, _ = _counted(model)
    assert flops.base_forward == layers * (qkv + attention + projection + mlp) + output
    # The first layer's input needs no gradient, so its linear_qkv computes none.
    assert flops.base_backward == layers * (2 * attention + projection + mlp) + (layers - 1) * qkv + output


def _counted(model: Any) -> tuple[Flops, int, int]:
    """Return what is counted, and what FlopCounterMode counts forward and backward."""
    from clora_inspect.cost.flops import FlopCount
    from clora_inspect.cost.operations import counting
    from clora_inspect.cost.ownership import ownership

    with ownership([model]) as owner:
        count = FlopCount(owner)
        with counting(count):
            with FlopCounterMode(display=False) as forward:
                loss = _forward(model)
            with FlopCounterMode(display=False) as backward:
                loss.backward()
    return count.flops, forward.get_total_flops(), backward.get_total_flops()


def _counted_on_meta(model: Any) -> Flops:
    """Return what is counted of a micro-batch, whose tokens go to all experts alike."""
    from clora_inspect.cost.flops import FlopCount
    from clora_inspect.cost.microbatch import MicroBatch, backward, forward
    from clora_inspect.cost.operations import counting
    from clora_inspect.cost.ownership import ownership

    with ownership([model]) as owner:
        count = FlopCount(owner)
        with counting(count):
            backward(forward(model, MicroBatch(LENGTH, rows=ROWS)))
    return count.flops


def _forward(model: Any) -> Any:
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)
    positions = torch.arange(LENGTH).expand(ROWS, -1)
    return model(tokens, positions, None, labels=tokens).float().mean()
