"""Measure on a GPU what transformer layers keep for their backward, and the peaks of a step.

    python benchmarks/gpu_memory.py tests/golden/gpu_memory.json

Real megatron-core layers with real Transformer Engine, in bf16, at the true width of llama3-8b and
qwen3-30b-a3b, on one GPU without parallelism: every parameter trained, or LoRA of rank 16 on every
linear with a frozen base; without recompute, with `core_attn` alone, and with whole layers. Dropout
and load-balancing losses are off.

A row is one block of one or two layers, without embedding, final norm and output layer, whose input
needs a gradient as it does inside of a model. All sizes are bytes of torch's allocator, measured in
the second step, when workspaces and gradients exist:

- `weights`: parameters, which are there before the step. `gradients`: `.grad` of what is trained,
  bf16, there too. Neither is in the other numbers; nor are the block's input and the gradient of
  its output.
- `held`: what else there is before the step: workspaces, and what modules keep of the step before,
  such as the routing of a dispatcher. Not in the numbers below.
- `forward_peak`: the most during the forward. `kept`: what is there after it.
- `backward_peak`: the most during the backward.
- `saved`: distinct storages that autograd saves, without parameters, counted by torch's hooks in a
  forward of its own; `input_saved` says if the block's input is among them. `tensors` lists them.

With `--device meta` the same numbers are counted without a GPU, as `plan --memory` counts them:
without `held`, `input_saved` and `tensors`, and with the `gradients` that a step would leave. With
`--device cpu` the code of the measurement runs with the stand-in for Transformer Engine and without
peaks, with `--small` on narrow layers: to try it without a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import Counter
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch

from clora import CanonicalLoRA
from clora_inspect.cost.in_flight import chunk_bytes
from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.live import LiveBytes
from clora_inspect.cost.routing import even_routing
from clora_inspect.job.layout import Layout
from clora_inspect.job.versions import versions
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.model.building import build
from clora_inspect.virtual import megatron_on, virtual_cluster

MODELS = ("llama3-8b", "qwen3-30b-a3b")
LENGTHS = (4096, 2048)
LAYERS = (1, 2)
RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "core_attn": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
RANK = 16
TARGETS = ["linear_q", "linear_k", "linear_v", "linear_proj", "linear_fc1_up", "linear_fc1_gate", "linear_fc2"]
SMALL = {
    "hidden_size": 128,
    "ffn_hidden_size": 256,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "kv_channels": 32,
}
SMALL_EXPERTS = {"num_moe_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", help="file to write; standard output when left out")
    parser.add_argument("--device", choices=("cuda", "cpu", "meta"), default="cuda")
    parser.add_argument("--small", action="store_true", help="narrow layers")
    options = parser.parse_args()
    rows = []
    for case in cases(small=options.small):
        print(*case.values(), file=sys.stderr, flush=True)
        rows.append({**case, **numbers(case, options.device, small=options.small)})
    found = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "versions": {**versions(device=options.device), "cudnn": torch.backends.cudnn.version()},
        "micro_batch_size": 1,
        "dtype": "bfloat16",
        "gradients_dtype": "bfloat16",
        "lora_targets": TARGETS,
    }
    # A line per row.
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = json.dumps(found, indent=1).removesuffix("\n}") + f',\n "rows": [\n{lines}\n ]\n}}\n'
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text, encoding="utf-8")


def cases(*, small: bool = False) -> list[dict[str, Any]]:
    """Return what tells the rows apart."""
    names = ("model", "seq_length", "layers", "lora_rank", "recompute")
    lengths = (128,) if small else LENGTHS
    return [
        dict(zip(names, values, strict=True)) for values in product(MODELS, lengths, LAYERS, (None, RANK), RECOMPUTE)
    ]


def numbers(case: dict[str, Any], device: str, *, small: bool = False) -> dict[str, Any]:
    """Return the numbers of one row, measured, or with the device "meta" counted."""
    with quiet(), megatron_on(device), virtual_cluster(Layout()):
        found = (
            _counted(case, small=small) if device == "meta" else _measured(case, on_gpu=device == "cuda", small=small)
        )
    gc.collect()
    return found


def _counted(case: dict[str, Any], *, small: bool) -> dict[str, Any]:
    block = _block(case, small=small)
    shape = (case["seq_length"], 1, block.config.hidden_size)
    states, output_gradient = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(2))
    states.requires_grad_()
    trained = [p for p in block.parameters() if p.requires_grad]
    found = {"weights": sum(p.nbytes for p in block.parameters()), "gradients": sum(p.nbytes for p in trained)}
    # What is measured beside it runs in the virtual world as well, where nothing is compiled.
    live = LiveBytes([*block.parameters(), *block.buffers(), states, output_gradient], compiled=False)
    with ExitStack() as stack:
        for parameter in trained:
            # Its gradient of the step before is there, and not counted; the new one is added to it.
            hook = parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
            stack.callback(hook.remove)
        stack.enter_context(even_routing())
        for _ in range(2):
            before = live.moment
            with kept_bytes([block]) as kept, live:
                output = _forward(block, states)
            after_forward = live.moment
            with live:
                torch.autograd.backward(output, output_gradient)
            end, saved = live.moment, kept.total
            states.grad = None
            # Else the output of the first step would be there in the second.
            del output
    needs = chunk_bytes(live.span(before, after_forward), live.span(after_forward, end))
    return {
        **found,
        "forward_peak": needs.forward_peak,
        "kept": needs.kept,
        "backward_peak": needs.backward_peak,
        "saved": saved,
    }


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _measured(case: dict[str, Any], *, on_gpu: bool, small: bool) -> dict[str, Any]:
    block = _block(case, small=small)
    config = block.config
    generator = torch.Generator().manual_seed(1)
    shape = (case["seq_length"], 1, config.hidden_size)
    device = torch.device(torch.cuda.current_device())
    states, output_gradient = (
        torch.randn(shape, generator=generator).to(device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    states.requires_grad_()
    _step(block, states, output_gradient, on_gpu=on_gpu)
    peaks = _step(block, states, output_gradient, on_gpu=on_gpu)
    states.grad = None
    weights = sum(p.nbytes for p in block.parameters())
    gradients = sum(p.grad.nbytes for p in block.parameters() if p.grad is not None)
    before = peaks.pop("before")
    saved = _saved(block, states, output_gradient)
    for p in block.parameters():
        # Freed at once, because `held` of the next case would count them.
        p.grad, p.data = None, p.data.new_empty(0)
    return {
        "weights": weights,
        "gradients": gradients,
        "held": None if before is None else before - weights - gradients - states.nbytes - output_gradient.nbytes,
        **peaks,
        **saved,
    }


def _block(case: dict[str, Any], *, small: bool) -> Any:
    """Build a block of layers, trained or adapted."""
    fields: dict[str, Any] = {
        "num_layers": case["layers"],
        "params_dtype": "bfloat16",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        # megatron-core logs these losses in one tensor of the process, sized by the first model.
        "moe_router_load_balancing_type": "none",
        **RECOMPUTE[case["recompute"]],
    }
    definition = load_definition(case["model"])
    if small:
        fields |= SMALL | (SMALL_EXPERTS if definition.config.get("num_moe_experts") else {})
    (model,) = build(definition.override(fields), Layout(), one_layer=True)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, 0.02)
    if case["lora_rank"] is not None:
        CanonicalLoRA(target_modules=TARGETS, dim=case["lora_rank"], alpha=32)(model)
    return model.train()


def _forward(block: Any, states: torch.Tensor) -> torch.Tensor:
    # As a pipeline hands a stage in the middle its input.
    block.set_input_tensor([states])
    output: torch.Tensor = block(None, None, None)
    return output


def _step(block: Any, states: torch.Tensor, output_gradient: torch.Tensor, *, on_gpu: bool) -> dict[str, int | None]:
    """Run a step and return its peaks above what is there before it."""
    states.grad = None
    before = _restart_peak(on_gpu=on_gpu)
    output = _forward(block, states)
    forward_peak, kept = _peak_and_now(on_gpu=on_gpu)
    _restart_peak(on_gpu=on_gpu)
    output.backward(output_gradient)
    backward_peak, _ = _peak_and_now(on_gpu=on_gpu)
    if not on_gpu:
        return dict.fromkeys(("before", "forward_peak", "kept", "backward_peak"))
    return {
        "before": before,
        "forward_peak": forward_peak - before,
        "kept": kept - before,
        "backward_peak": backward_peak - before,
    }


def _restart_peak(*, on_gpu: bool) -> int:
    if not on_gpu:
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _peak_and_now(*, on_gpu: bool) -> tuple[int, int]:
    if not on_gpu:
        return 0, 0
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()


def _saved(block: Any, states: torch.Tensor, output_gradient: torch.Tensor) -> dict[str, Any]:
    """Count what autograd saves in a forward."""
    not_counted = {p.untyped_storage().data_ptr() for p in block.parameters()}
    storages: dict[int, tuple[torch.UntypedStorage, str]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in not_counted and storage.nbytes():
            # The storage is held, so that its address is not given to another one.
            storages.setdefault(
                storage.data_ptr(), (storage, f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch."))
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = _forward(block, states)
    has_input = states.untyped_storage().data_ptr() in storages
    counts = Counter((text, storage.nbytes()) for storage, text in storages.values())
    # Frees what was saved: deleting the output alone does not free all of it.
    output.backward(output_gradient)
    return {
        "saved": sum(storage.nbytes() for storage, _ in storages.values()),
        "input_saved": has_input,
        "tensors": [
            {"tensor": text, "bytes": size, "count": count}
            for (text, size), count in sorted(counts.items(), key=lambda item: -item[0][1] * item[1])
        ],
    }


if __name__ == "__main__":
    main()
