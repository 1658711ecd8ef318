"""Compare the memory that is predicted for ranks with what was measured on GPUs.

    python benchmarks/memory_accuracy.py FILE

FILE is JSON: `full_training` has `settings`, `models` and `rows` of runs without LoRA, in which
everything is trained; a row has `max_allocated_mib_by_rank`, or `max_allocated_gib`. `lora` has
rows whose settings are known in part: they are predicted under the assumptions that are printed,
and not judged. Either may be missing; `measurements.py` lists all fields. The median and the worst
error come last.

The exit status is 2 for a file that cannot be read, and where a row could not be predicted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measurements import FullTraining, LoraRow, MeasurementError, Row, passed_over, read

from clora.errors import CloraError
from clora_inspect.bridge.installed import find
from clora_inspect.cost.memory import rank_memory, runs_of
from clora_inspect.job.cluster import stages
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import GIB, Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

MIB = 1 << 20


def predicted(row: Row, full: FullTraining) -> list[RankMemory]:
    """Return the account of a rank of each stage, with everything trained."""
    definition = row.definition(full.models[row.model], full.settings)
    layout = row.layout(full.settings).with_etp(has_experts=definition.has_experts)
    workload = row.workload(full.settings)
    definition.check(layout)
    found = []
    with quiet(), virtual_megatron("meta"):
        from clora_inspect.sources.build import build_chunks

        for stage in stages(layout):
            with virtual_cluster(layout, stage.representative):
                chunks = build_chunks(definition, layout)
                with fused_gradients(chunks):
                    runs = runs_of(chunks, workload)
                found.append(rank_memory(chunks, runs, layout, workload, stage=stage.pp))
    return found


@contextmanager
def fused_gradients(chunks: list[nn.Module]) -> Iterator[None]:
    """Let the linears of Transformer Engine add gradients to `main_grad` as they compute them, as
    Megatron-LM's default does (`gradient_accumulation_fusion`).
    """
    import torch
    from transformer_engine.pytorch.module import base

    # The first backward makes the memory that stays for all later ones.
    base._dummy_wgrads.clear()  # noqa: SLF001 - the stand-in's own
    for chunk in chunks:
        for module in chunk.modules():
            if hasattr(module, "fuse_wgrad_accumulation"):
                module.fuse_wgrad_accumulation = True
                for parameter in module.parameters(recurse=False):
                    if parameter.dim() > 1:
                        marked: Any = parameter
                        marked.main_grad = torch.empty(parameter.shape, dtype=torch.float32, device="meta")
                        marked.grad_added_to_main_grad = False
    yield
    base._dummy_wgrads.clear()  # noqa: SLF001


def label(row: Row) -> str:
    """Return a row's name: its layout as it was measured."""
    sizes = {"tp": row.tp, "pp": row.pp, "vpp": row.vpp, "dp": row.dp or 1, "cp": row.cp, "ep": row.ep}
    axes = " ".join(f"{axis}{size}" for axis, size in sizes.items() if size > 1)
    return f"{row.model} {row.num_layers} layers, {axes or 'one GPU'}, {row.seq:,} tokens"


def compare(full: FullTraining) -> tuple[list[float], int]:
    """Print a row for each case, for its worst rank.

    Returns:
        The errors in percent, and the number of rows that could not be predicted.
    """
    errors = []
    print(f"{'case':62} {'predicted GiB':>13} {'measured GiB':>13} {'error':>8}")
    for row in full.rows:
        try:
            peaks = [memory.peak_bytes for memory in predicted(row, full)]
        except (CloraError, MeasurementError) as error:
            print(f"{label(row):62} not predicted: {error}")
            continue
        measured = [mib * MIB for mib in row.max_allocated_mib_by_rank or []]
        if measured:
            width = len(measured) // len(peaks)
            pairs = [(peaks[rank // width], measured[rank]) for rank in range(len(measured))]
        else:
            pairs = [(max(peaks), (row.max_allocated_gib or 0) * GIB)]
        worst = max(pairs, key=lambda pair: abs(pair[0] / pair[1] - 1))
        errors.append(100 * (worst[0] / worst[1] - 1))
        print(f"{label(row):62} {worst[0] / GIB:13.2f} {worst[1] / GIB:13.2f} {errors[-1]:+7.2f} %")
    return errors, len(full.rows) - len(errors)


QWEN3_8B = {
    "num_layers": 36,
    "hidden_size": 4096,
    "ffn_hidden_size": 12288,
    "num_attention_heads": 32,
    "num_query_groups": 8,
    "kv_channels": 128,
    "share_embeddings_and_output_weights": False,
}
NOT_BUILT_IN = {"qwen3-8b": ("qwen3-0.6b", QWEN3_8B)}
"""Model of a row -> a built-in architecture of its family, and the fields in which they differ."""


def show_lora(rows: list[LoraRow]) -> None:
    """Print predictions of each LoRA run, whose settings are known in part."""
    print("\nLoRA, not judged. Assumed: adapters on all default targets, dim 32, micro-batches of one row of")
    print("the tokens shown, 8 GPUs, distributed optimizer; measured GB taken for 10^9 bytes.")
    print("Adapters of Megatron-Bridge, where it is installed, gather inputs that clora's do not.")
    implementations = ["clora", *(["megatron-bridge"] if find() else [])]
    for row, implementation in product(rows, implementations):
        layout = Layout(tp=row.tp, ep=row.ep, etp=1, sp=row.sp, world_size=8)
        model, fields = NOT_BUILT_IN.get(row.model, (row.model, {}))
        for tokens in [row.seq] if row.seq else [4096, 8192]:
            workload = Workload(seq_length=tokens, num_microbatches=row.micro_batches)
            job = Job(model=model, model_overrides=fields, layout=layout, planned_by=implementation)
            case = f"{row.model}, {implementation}, {tokens:,} tokens"
            try:
                plan = plan_job(job, workload)
            except Exception as error:  # noqa: BLE001 - the other rows are shown
                print(f"{case:62} not predicted: {error}")
                continue
            peak = max(ranks.memory.peak_bytes for ranks in plan.rank_classes if ranks.memory) / 1e9
            print(f"{case:62} {peak:10.2f} GB {row.peak_gb:10.2f} GB")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE")
    try:
        file = parser.parse_args(words).file
        found = read(file)
        for name in passed_over(file):
            print(f"{name} is not known here, and nothing follows from it", file=sys.stderr)
        errors, left = compare(found.full_training) if found.full_training else ([], 0)
    except MeasurementError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if found.lora:
        show_lora(found.lora.rows)
    if left:
        print(f"\n{left} of {left + len(errors)} rows are not predicted and are in no number below")
    if errors:
        absolute = [abs(error) for error in errors]
        print(f"\nmedian error {statistics.median(absolute):.2f} %, worst {max(absolute):.2f} %")
    return 2 if left else 0


if __name__ == "__main__":
    sys.exit(main())
