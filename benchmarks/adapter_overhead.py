"""Measure what an adapter costs: forward and backward of an adapted layer against the bare one,
with the width of Llama 3 8B, on the CPU.

    python benchmarks/adapter_overhead.py [--reference FOLDER] [--tokens 256] [--rounds 9]

`FOLDER` holds release 0.3.1 of Megatron-Bridge, installed without its dependencies, which need
CUDA:

    pip install --no-deps --target FOLDER megatron-bridge==0.3.1

All variants of a layer (bare, ours, the reference) share its weights and run in turn, on one
thread, in one process. The CPU time of this thread is measured.

An adapter costs a few percent of its layer. On a machine that also does other work, the layer's own
time varies by more than this. So the variants are compared within each round, and each round has
another order.

The table shows medians over the rounds: milliseconds, and the ratio of two variants with the
half-width of its 95 % confidence interval. "cost" is what an adapter adds to the bare layer.
"""

from __future__ import annotations

import argparse
import sys
import time
from copy import copy
from importlib.machinery import ModuleSpec
from math import ceil, floor, sqrt
from pathlib import Path
from random import Random
from statistics import median
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clora import CanonicalLoRA
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    import torch
    from torch import nn

LAYERS = {
    "linear_qkv": "self_attention",
    "linear_proj": "self_attention",
    "linear_fc1": "mlp",
    "linear_fc2": "mlp",
}
RANK = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="folder with megatron-bridge 0.3.1")
    parser.add_argument("--tokens", type=int, default=256, help="rows of the input")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each variant")
    options = parser.parse_args()
    print(
        f"{'layer':<12} {'dtype':<9} {'bare':>9} {'ours':>9} {'reference':>10}   "
        f"{'ours / reference':>16} {'cost / cost':>12}"
    )
    with virtual_megatron("cpu"), virtual_cluster(Layout()):
        import torch

        torch.set_num_threads(1)
        # Backward usually runs on threads of its own, whose CPU time `thread_time` does not count.
        torch.autograd.set_multithreading_enabled(False)
        for dtype in ("float32", "bfloat16"):
            for name in LAYERS:
                print(_row(name, dtype, options), flush=True)


def _row(name: str, dtype: str, options: argparse.Namespace) -> str:
    import torch

    variants = {"bare": _layer(name, dtype), "ours": _ours(_layer(name, dtype), name)}
    if options.reference:
        variants["reference"] = _reference(_layer(name, dtype), name, options.reference)
    width = 14336 if name == "linear_fc2" else 4096
    x_SBI = torch.randn(options.tokens, 1, width, dtype=getattr(torch, dtype))
    grads: dict[str, torch.Tensor] = {}
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    order = Random(0)
    for round_number in range(options.rounds + 1):
        for variant in order.sample(list(variants), len(variants)):
            seconds, out = _timed(variants[variant], x_SBI, grads)
            grads.setdefault("out", torch.ones_like(out))
            # The first round allocates memory and loads code, so it is not counted.
            if round_number:
                times[variant].append(seconds)
    ms = {variant: 1000 * median(measured) for variant, measured in times.items()}
    if "reference" not in ms:
        return f"{name:<12} {dtype:<9} {ms['bare']:>9.2f} {ms['ours']:>9.2f} {'-':>10}   {'-':>16} {'-':>12}"
    rounds = list(zip(times["bare"], times["ours"], times["reference"], strict=True))
    cost = median(ours - bare for bare, ours, _ in rounds) / median(theirs - bare for bare, _, theirs in rounds)
    ratio, half_width = _median([ours / theirs for _, ours, theirs in rounds])
    return (
        f"{name:<12} {dtype:<9} {ms['bare']:>9.2f} {ms['ours']:>9.2f} {ms['reference']:>10.2f}   "
        f"{f'{ratio:.3f} ± {half_width:.3f}':>16} {cost:>12.3f}"
    )


def _median(values: list[float]) -> tuple[float, float]:
    """Return the median and the half-width of its 95 % confidence interval."""
    # By ranks, so that it needs no assumption about the distribution of the values: of n values,
    # the number below the true median has a standard deviation of sqrt(n) / 2, and 1.96 / 2 is
    # 0.98.
    ranked = sorted(values)
    reach = 0.98 * sqrt(len(ranked))
    low = ranked[max(floor(len(ranked) / 2 - reach), 0)]
    high = ranked[min(ceil(len(ranked) / 2 + reach), len(ranked)) - 1]
    return median(ranked), (high - low) / 2


def _timed(layer: Any, x: torch.Tensor, grads: dict[str, torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Return the CPU seconds of one forward and backward, and the output."""
    import torch

    x = x.detach().requires_grad_()
    start = time.thread_time()
    out, *_ = layer(x)
    out.backward(grads.get("out", torch.ones_like(out)))
    seconds = time.thread_time() - start
    for parameter in layer.parameters():
        parameter.grad = None
    return seconds, out.detach()


_layers: dict[tuple[str, str], Any] = {}
"""The layer that `_layer` built last; older ones are dropped to save memory."""


def _layer(name: str, dtype: str) -> nn.Module:
    """Return a frozen linear of a real layer: a new module at each call, with the same weights."""
    if (name, dtype) not in _layers:
        _layers.clear()
        overrides = {"num_layers": 1, "vocab_size": 128, "params_dtype": dtype}
        definition = load_definition("llama3-8b").override(overrides)
        from clora_inspect.sources.build import build_chunks

        with quiet():
            (model,) = build_chunks(definition, Layout())
        layer: Any = model.get_submodule(f"decoder.layers.0.{LAYERS[name]}.{name}")
        _layers[name, dtype] = layer.requires_grad_(False)
    made = copy(_layers[name, dtype])
    made._modules = dict(made._modules)  # noqa: SLF001 - a shallow copy shares the table of children
    return made  # type: ignore[no-any-return]


def _ours(layer: nn.Module, name: str) -> nn.Module:
    return CanonicalLoRA(dim=RANK).transform(layer, name, f"decoder.layers.0.{LAYERS[name]}")


def _reference(layer: nn.Module, name: str, folder: Path) -> nn.Module:
    with quiet():
        lora = _bridge(folder)(dim=RANK)
        adapted: nn.Module = lora.transform(layer, name, f"decoder.layers.0.{LAYERS[name]}")
    return adapted


def _bridge(folder: Path) -> Any:
    """Return Megatron-Bridge's class."""
    # A package module made by hand: importing the real one imports all of Megatron-Bridge, which
    # needs CUDA.
    if "megatron.bridge" not in sys.modules:
        import megatron

        package = ModuleType("megatron.bridge")
        package.__path__ = [str(folder / "megatron" / "bridge")]
        package.__spec__ = ModuleSpec("megatron.bridge", None, is_package=True)
        sys.modules["megatron.bridge"] = megatron.bridge = package
    from megatron.bridge.peft.canonical_lora import CanonicalLoRA as ReferenceLoRA

    return ReferenceLoRA


if __name__ == "__main__":
    main()
