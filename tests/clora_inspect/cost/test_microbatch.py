"""A micro-batch of one rank on the meta device: routing that is decided, shapes that follow it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clora_inspect.cost.kept import kept_bytes
from clora_inspect.cost.microbatch import MicroBatch, backward, forward
from clora_inspect.cost.routing import routing_map, tokens_per_expert
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron

SMALL = {"num_layers": 2, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
EXPERTS = {**SMALL, "num_moe_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 32, "kv_channels": 16}


@pytest.mark.parametrize(
    ("imbalance", "most", "expected"),
    [(1.0, None, [4] * 8), (2.0, None, [8, 3, 3, 4, 3, 4, 3, 4]), (2.0, 5, [5, 3, 3, 4, 3, 4, 3, 4])],
    ids=["even", "fullest", "capacity"],
)
def test_tokens_are_dealt_out_to_experts(imbalance: float, most: int | None, expected: list[int]) -> None:
    counts = tokens_per_expert(16, 8, 2, imbalance, most)
    assert sorted(counts) == sorted(expected)
    assert counts[0] == expected[0]
    chosen = routing_map(16, counts)
    assert chosen.sum(0).tolist() == counts
    if most is None:
        assert chosen.sum(1).unique().tolist() == [2]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("imbalance", "rows"), [(1.0, 4 * 32 * 2 // 4), (2.0, 4 * (16 + 6))], ids=["even", "fullest"])
def test_experts_get_the_tokens_of_all_ranks(imbalance: float, rows: int, fused: bool) -> None:
    definition = load_definition("qwen3-30b-a3b").override({**EXPERTS, "moe_permute_fusion": fused})
    layout = Layout(tp=1, ep=4, etp=1)
    seen: list[tuple[int, ...]] = []

    def look(_module: Any, args: Any) -> None:
        seen.append(tuple(args[0].shape))

    with quiet(), virtual_megatron("meta"), virtual_cluster(layout, 0):
        from clora_inspect.sources.build import build_chunks

        (chunk,) = build_chunks(definition, layout)
        for name, module in chunk.named_modules():
            if name.endswith("experts.linear_fc1"):
                module.register_forward_pre_hook(look)
        backward(forward(chunk, MicroBatch(32, imbalance=imbalance)))
    # Each of the 4 ranks sends its tokens for the 2 experts of this one.
    assert seen == [(rows, 64)] * 2


def test_context_parallel_attention_keeps_what_each_way_to_exchange_keeps() -> None:
    """Bytes of each layer by hand: queries, keys and values, the output, statistics in fp32."""
    tokens, heads, groups, channels = 64, 4, 2, 16
    own = tokens // 2
    attention = 2 * own * channels * (heads + 2 * groups) + 4 * own * heads
    output = 2 * own * heads * channels
    kept = {}
    for way in ("p2p", "a2a", "all_gather"):
        definition = load_definition("llama3-8b").override({**SMALL, "kv_channels": channels, "cp_comm_type": way})
        layout = Layout(cp=2)
        with quiet(), virtual_megatron("meta"), virtual_cluster(layout, 0):
            from clora_inspect.sources.build import build_chunks

            (chunk,) = build_chunks(definition, layout)
            with kept_bytes([chunk]) as found:
                passed = forward(chunk, MicroBatch(tokens))
            assert passed.output.requires_grad
        kept[way] = [size for path, size in found.by_module.items() if "core_attention" in path]
        projection = [size for path, size in found.by_module.items() if path.endswith("linear_proj")]
        # The others attend to something else than what they return, which the projection keeps.
        assert projection == ([] if way == "p2p" else [output] * 2)
    assert kept == dict.fromkeys(kept, [attention + output] * 2)


def test_each_stage_gets_the_states_of_the_one_before() -> None:
    definition = load_definition("llama3-8b").override(SMALL)
    layout = Layout(tp=2, pp=2)
    shapes = []
    with quiet(), virtual_megatron("meta"):
        from clora_inspect.sources.build import build_chunks

        for rank in (0, 2):
            with virtual_cluster(layout, rank):
                (chunk,) = build_chunks(definition, layout)
                passed = forward(chunk, MicroBatch(16, rows=2))
                backward(passed)
                shapes.append((passed.states is not None and tuple(passed.states.shape), tuple(passed.output.shape)))
                assert all(parameter.grad is not None for parameter in chunk.parameters())
                assert isinstance(passed.output, torch.Tensor)
    # Sequence parallelism leaves each of 2 ranks half of the 16 tokens.
    assert shapes == [(False, (8, 2, 64)), ((8, 2, 64), (2, 16))]
