"""Compare the memory that is predicted for ranks with what was measured on GPUs.

    python benchmarks/memory_accuracy.py FILE

FILE is JSON: `full_training` has `settings`, `models` and `rows` of runs without LoRA, in which
everything is trained; a row has `max_allocated_mib_by_rank`, or `max_allocated_gib`. `lora`, which
may be missing, has rows whose settings are known in part: they are predicted under the assumptions
that are printed, and not judged. The median and the worst error come last.
"""

from __future__ import annotations

import json
import statistics
import sys
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_inspect.bridge.installed import find
from clora_inspect.cost.memory import rank_memory, runs_of
from clora_inspect.job.cluster import stages
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import GIB, Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

MIB = 1 << 20
VOCABULARY_UNIT = 128
SIZES = {
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "heads": "num_attention_heads",
    "query_groups": "num_query_groups",
    "moe_ffn_hidden_size": "moe_ffn_hidden_size",
    "shared_expert": "moe_shared_expert_intermediate_size",
    "experts": "num_moe_experts",
    "topk": "moe_router_topk",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_head_dim": "qk_head_dim",
    "qk_pos_emb_head_dim": "qk_pos_emb_head_dim",
    "v_head_dim": "v_head_dim",
}
"""Field of a model in FILE -> megatron-core's."""

MEGATRON_LM = {
    # What Megatron-LM's arguments are when nobody sets them.
    "bias_activation_fusion": True,
    "apply_rope_fusion": True,
    "deallocate_pipeline_outputs": True,
    # The fused loss of Transformer Engine that the settings name.
    "cross_entropy_loss_fusion": True,
    "cross_entropy_fusion_impl": "te",
    "mtp_num_layers": None,
}
ROUTER = {
    "moe_router_score_function": "softmax",
    "moe_router_pre_softmax": True,
    "moe_router_load_balancing_type": "seq_aux_loss",
    "moe_router_enable_expert_bias": False,
    "moe_router_num_groups": None,
    "moe_router_group_topk": None,
    "moe_router_topk_scaling_factor": 1.0,
    "moe_aux_loss_coeff": 0.001,
}


def definition_of(row: dict[str, Any], model: dict[str, Any], settings: dict[str, Any]) -> ModelDefinition:
    """Return the model of a row in megatron-core's fields."""
    base = "llama3-70b"
    fields = {ours: model[name] for name, ours in SIZES.items() if name in model}
    fields |= MEGATRON_LM | {"num_layers": row["num_layers"], "cp_comm_type": settings.get("cp_comm_type", "p2p")}
    unit = VOCABULARY_UNIT * row["tp"]
    # The null tokenizer adds one token before the vocabulary is padded.
    fields["vocab_size"] = -(-(model["vocab"] + 1) // unit) * unit
    if "experts" in model:
        base = "deepseek-v3" if "kv_lora_rank" in model else "qwen3-30b-a3b"
        moe, dense = settings.get("moe", {}), model.get("dense_layers", 0)
        fields |= ROUTER | {
            "moe_layer_freq": [0] * dense + [1] * (row["num_layers"] - dense),
            "moe_permute_fusion": bool(moe.get("permute_fusion")),
            "moe_expert_capacity_factor": moe.get("capacity_factor"),
            "moe_pad_expert_input_to_capacity": bool(moe.get("pad_expert_input_to_capacity")),
        }
        if "kv_lora_rank" in model:
            # Its kernel is another one, in Triton.
            fields["apply_rope_fusion"] = False
    for name in ("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules"):
        if row.get(name):
            fields[name] = row[name]
    return load_definition(base).override(fields)


def predicted(row: dict[str, Any], full: dict[str, Any]) -> list[RankMemory]:
    """Return the account of a rank of each stage, with everything trained."""
    settings = full["settings"]
    definition = definition_of(row, full["models"][row["model"]], settings)
    world = row["tp"] * row["pp"] * row["dp"] * row.get("cp", 1)
    layout = Layout(
        tp=row["tp"],
        pp=row["pp"],
        vpp=row.get("vpp", 1),
        cp=row.get("cp", 1),
        ep=row.get("ep", 1),
        etp=row.get("etp", 1),
        sp=row["tp"] > 1,
        world_size=world,
    )
    workload = Workload(
        seq_length=row["seq"],
        micro_batch_size=row.get("micro_batch_size", settings["micro_batch_size"]),
        num_microbatches=row["micro_batches"],
        use_distributed_optimizer=settings["use_distributed_optimizer"],
    )
    found = []
    with quiet(), virtual_megatron("meta"):
        from clora_inspect.sources.build import build_chunks

        for stage in stages(layout):
            with virtual_cluster(layout, stage.representative):
                chunks = build_chunks(definition, layout)
                with fused_gradients(chunks) as dummies:
                    runs = runs_of(chunks, workload)
                    made = dummies()
                # The first backward makes the memory that stays for all later ones.
                found.append((rank_memory(chunks, runs, layout, workload, stage=stage.pp), made))
    return [memory for memory, _ in found]


@contextmanager
def fused_gradients(chunks: list[nn.Module]) -> Iterator[Any]:
    """Let the linears of Transformer Engine add gradients to `main_grad` as they compute them, as
    Megatron-LM's default does (`gradient_accumulation_fusion`).
    """
    import torch
    from transformer_engine.pytorch.module import base

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
    yield lambda: sum(each.untyped_storage().nbytes() for each in base._dummy_wgrads.values())  # noqa: SLF001
    base._dummy_wgrads.clear()  # noqa: SLF001


def label(row: dict[str, Any]) -> str:
    axes = " ".join(f"{axis}{row[axis]}" for axis in ("tp", "pp", "dp", "cp", "ep") if row.get(axis, 1) > 1)
    return f"{row['model']} {row['num_layers']} layers, {axes}, {row['seq']:,} tokens"


def compare(full: dict[str, Any]) -> list[float]:
    """Print a row for each case, for its worst rank, and return the errors in percent."""
    errors = []
    print(f"{'case':62} {'predicted GiB':>13} {'measured GiB':>13} {'error':>8}")
    for row in full["rows"]:
        peaks = [memory.peak_bytes for memory in predicted(row, full)]
        measured = [mib * MIB for mib in row.get("max_allocated_mib_by_rank") or []]
        if measured:
            width = len(measured) // len(peaks)
            pairs = [(peaks[rank // width], measured[rank]) for rank in range(len(measured))]
        else:
            pairs = [(max(peaks), row["max_allocated_gib"] * GIB)]
        worst = max(pairs, key=lambda pair: abs(pair[0] / pair[1] - 1))
        errors.append(100 * (worst[0] / worst[1] - 1))
        print(f"{label(row):62} {worst[0] / GIB:13.2f} {worst[1] / GIB:13.2f} {errors[-1]:+7.2f} %")
    return errors


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


def show_lora(rows: list[dict[str, Any]]) -> None:
    """Print predictions of each LoRA run, whose settings are known in part."""
    print("\nLoRA, not judged. Assumed: adapters on all default targets, dim 32, micro-batches of one row of")
    print("the tokens shown, 8 GPUs, distributed optimizer; measured GB taken for 10^9 bytes.")
    print("Adapters of Megatron-Bridge, where it is installed, gather inputs that clora's do not.")
    implementations = ["clora", *(["megatron-bridge"] if find() else [])]
    for row, implementation in product(rows, implementations):
        layout = Layout(tp=row["tp"], ep=row.get("ep", 1), etp=1, sp=row.get("sp"), world_size=8)
        model, fields = NOT_BUILT_IN.get(row["model"], (row["model"], {}))
        for tokens in [row["seq"]] if "seq" in row else [4096, 8192]:
            workload = Workload(seq_length=tokens, num_microbatches=row.get("micro_batches"))
            job = Job(model=model, model_overrides=fields, layout=layout, planned_by=implementation)
            case = f"{row['model']}, {implementation}, {tokens:,} tokens"
            try:
                plan = plan_job(job, workload)
            except Exception as error:  # noqa: BLE001 - the other rows are shown
                print(f"{case:62} not predicted: {error}")
                continue
            peak = max(ranks.memory.peak_bytes for ranks in plan.rank_classes if ranks.memory) / 1e9
            print(f"{case:62} {peak:10.2f} GB {row['peak_gb']:10.2f} GB")


def main() -> None:
    data = json.loads(Path(sys.argv[1]).read_text())
    errors = compare(data["full_training"])
    if data.get("lora", {}).get("rows"):
        show_lora(data["lora"]["rows"])
    absolute = [abs(error) for error in errors]
    print(f"\nmedian error {statistics.median(absolute):.2f} %, worst {max(absolute):.2f} %")


if __name__ == "__main__":
    main()
