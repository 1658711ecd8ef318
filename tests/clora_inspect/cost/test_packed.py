"""Rows of packed sequences cost as many bytes as others, and attention within each sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clora import CanonicalLoRA
from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.microbatch import MicroBatch, forward
from clora_inspect.cost.settings import CostError
from clora_inspect.job.flops import Flops
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import RankClass
from clora_inspect.job.rank_memory import RankMemory
from clora_inspect.job.workload import Workload
from clora_inspect.machine.quiet import quiet
from clora_inspect.pipeline import plan_job
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.small.shrink import shrink
from clora_inspect.virtual import virtual_cluster, virtual_megatron

SMALL = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 4}
SEQUENCES, LENGTH = 4, 32
TOKENS = SEQUENCES * LENGTH


def _ranks(model: str = "llama3-8b", layout: Layout | None = None, **fields: Any) -> RankClass:
    small = {"llama3-8b": SMALL, "nemotron-h-8b": {}}.get(model, {"num_layers": 4})
    overrides = {**small, **fields.pop("overrides", {})}
    job = Job(model=model, model_overrides=overrides, layout=layout or Layout(), lora=CanonicalLoRA(dim=4))
    return plan_job(job, Workload(**{"seq_length": TOKENS, **fields})).rank_classes[0]


@pytest.mark.parametrize("name", ["llama3-8b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b"])
def test_what_is_kept_on_meta_is_what_a_real_forward_keeps(name: str) -> None:
    job = Job(model=name, model_overrides={"num_layers": 2}, lora=CanonicalLoRA(dim=4))
    definition = load_definition(name).override(job.model_overrides)
    definition = shrink(definition, plan_job(job), Layout(), Layout()).definition
    kept = {}
    for device in ("cpu", "meta"):
        with quiet(), virtual_megatron(device), virtual_cluster(Layout()):
            from megatron.core.packed_seq_params import PackedSeqParams

            from clora_inspect.sources.build import build_chunks

            [model] = job.lora(build_chunks(definition, Layout()))
            with kept_bytes([model]) as found:
                if device == "meta":
                    passed = forward(model, MicroBatch(TOKENS, packed=SEQUENCES))
                    output = passed.output
                else:
                    tokens, positions = torch.zeros(1, TOKENS, dtype=torch.long), torch.arange(TOKENS)[None]
                    starts = torch.arange(SEQUENCES + 1, dtype=torch.int32) * LENGTH
                    names = ("cu_seqlens_q", "cu_seqlens_kv", "cu_seqlens_q_padded", "cu_seqlens_kv_padded")
                    packing = PackedSeqParams(
                        qkv_format="thd", max_seqlen_q=LENGTH, max_seqlen_kv=LENGTH, **dict.fromkeys(names, starts)
                    )
                    output = model.train()(tokens, positions, None, labels=tokens, packed_seq_params=packing)
            kept[device] = dict(found.by_module)
            assert output.requires_grad
    assert kept["meta"] == kept["cpu"]


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(cp=2)], ids=lambda layout: layout.label)
def test_packed_sequences_cost_what_as_many_rows_cost(layout: Layout) -> None:
    packed = _ranks(layout=layout, packed=SEQUENCES)
    rows = _ranks(layout=layout, seq_length=LENGTH, micro_batch_size=SEQUENCES)
    whole = _ranks(layout=layout)
    assert packed.flops == rows.flops
    assert packed.traffic == rows.traffic == whole.traffic
    assert isinstance(packed.memory, RankMemory)
    assert isinstance(rows.memory, RankMemory)
    # The starts of the sequences are kept besides, in one block.
    assert packed.memory.activations_bytes == rows.memory.activations_bytes + 512
    # Attention alone gets cheaper: scores of a quarter of the pairs of tokens.
    kv_channels = 128
    pairs = TOKENS * (TOKENS - LENGTH) * SMALL["num_attention_heads"] // (layout.tp * layout.cp)
    saved = SMALL["num_layers"] * 2 * 2 * pairs * kv_channels
    assert isinstance(whole.flops, Flops)
    assert isinstance(packed.flops, Flops)
    assert whole.flops.base_forward - packed.flops.base_forward == saved


@pytest.mark.parametrize(
    ("model", "layout", "fields", "message"),
    [
        ("llama3-8b", Layout(), {"micro_batch_size": 2}, r"micro_batch_size = 2, and packed = 4: .* in one row\. Use"),
        ("llama3-8b", Layout(), {"seq_length": 130}, r"seq_length = 130, and packed = 4: .* a multiple of 4\."),
        ("llama3-8b", Layout(cp=2), {"seq_length": 132}, r"the 2 ranks of cp take two equal parts .* multiple of 16\."),
        (
            "llama3-8b",
            Layout(cp=2),
            {"overrides": {"cp_comm_type": "all_gather"}},
            r"cp_comm_type = all_gather, .* p2p",
        ),
        ("nemotron-h-8b", Layout(), {}, r"its Mamba layers read a row as one sequence"),
        ("qwen3-next-80b-a3b", Layout(), {"seq_length": 512}, r"GDN does not support packed sequence"),
        ("gemma2-9b", Layout(), {}, r"caps the scores of its attention, .* reads no packed rows\. Leave"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_words(
    model: str, layout: Layout, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CostError, match=message):
        _ranks(model, layout, **{"packed": SEQUENCES, **fields})
