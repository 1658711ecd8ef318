"""A job from end to end: the numbers of the built-in models, totals that no layout changes, and the
JSON contract.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from clora import CanonicalLoRA
from clora.errors import LayoutError, ModelError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.job.plan import JobPlan, decode, encode
from clora_inspect.pipeline import plan_job, slow_notice
from clora_inspect.sources import architectures
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from pathlib import Path


def mlp(hidden: int, width: int, matrices: int = 3) -> int:
    return matrices * hidden * width


def nemotron_4() -> int:
    """No gate, LayerNorms with a bias, two embeddings."""
    hidden, layers, kv = 6144, 32, 8 * 128
    attention = 2 * hidden * hidden + 2 * hidden * kv
    return layers * (attention + mlp(hidden, 24576, 2) + 4 * hidden) + 2 * hidden + 2 * 256_000 * hidden


def nemotron_h() -> int:
    """24 Mamba-2 layers, 4 of attention and 24 MLPs, each with one norm."""
    hidden, heads, head, groups, state, kernel = 4096, 128, 64, 8, 128, 4
    inner, conv = heads * head, heads * head + 2 * groups * state
    mamba = hidden * (inner + conv + heads) + conv * (kernel + 1) + 3 * heads + inner + inner * hidden
    attention = 2 * hidden * hidden + 2 * hidden * 8 * 128
    return 24 * mamba + 4 * attention + 24 * mlp(hidden, 21504, 2) + 53 * hidden + 2 * 131_072 * hidden


# Base parameters as the safetensors files of the released models count them (tied copies once,
# without prediction layers).
PUBLISHED = {
    "deepseek-v2-lite": 15_706_484_224,
    # Hugging Face counts the experts' 58 x 256 correction biases, which are buffers in
    # megatron-core.
    "deepseek-v3": 671_026_419_200 - 58 * 256,
    "gemma2-9b": 9_241_705_984,
    "gpt-oss-120b": 116_829_156_672,
    "gpt-oss-20b": 20_914_757_184,
    "kimi-k2": 1_026_408_232_448 - 60 * 384,
    "llama3-70b": 70_553_706_496,
    "llama3-8b": 8_030_261_248,
    "llama3.1-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "nemotron-4-15b": nemotron_4(),
    "nemotron-h-8b": nemotron_h(),
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-next-80b-a3b": 79_674_391_296,
}


def test_every_built_in_model_is_counted() -> None:
    assert set(architectures.names()) == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_built_in_model_has_the_published_number_of_parameters(name: str) -> None:
    assert plan_job(Job(model=name)).totals.base_params == PUBLISHED[name]


SMALL = {"num_layers": 4, "vocab_size": 1024}
SEQUENTIAL = {"moe_grouped_gemm": False, "num_moe_experts": 8}
UNSHARED = CanonicalLoRA(share_expert_adapters=False)
ALL = CanonicalLoRA(target_modules=[])
DENSE = [
    Layout(),
    Layout(tp=4),
    Layout(pp=4),
    Layout(tp=2, pp=2, vpp=2),
    Layout(cp=2, pp=2),
    Layout(tp=2, world_size=64),
]
EXPERTS = [
    Layout(),
    Layout(tp=2, ep=4, etp=1),
    Layout(pp=2, ep=2),
    Layout(ep=2, etp=2),
    Layout(tp=4, pp=2, vpp=2, ep=4, etp=2),
    Layout(tp=2, etp=1, ep=8),
]
# A model, fields to set, the LoRA, and the layouts that must agree.
SAME: list[tuple[str, dict[str, Any], CanonicalLoRA, list[Layout]]] = [
    ("llama3-8b", SMALL, CanonicalLoRA(), DENSE),
    ("qwen2.5-0.5b", {**SMALL, "num_attention_heads": 16, "num_query_groups": 4}, ALL, DENSE),
    ("nemotron-4-15b", SMALL, ALL, DENSE[:4]),
    ("gemma2-9b", SMALL, CanonicalLoRA(), DENSE[:3]),
    ("qwen3-30b-a3b", {**SMALL, "num_moe_experts": 16}, CanonicalLoRA(), EXPERTS),
    ("qwen3-30b-a3b", {**SMALL, "num_moe_experts": 16}, UNSHARED, EXPERTS),
    ("qwen3-30b-a3b", {**SMALL, **SEQUENTIAL}, CanonicalLoRA(), EXPERTS),
    ("deepseek-v3", {**SMALL, "num_moe_experts": 16, "moe_router_num_groups": None, "moe_router_group_topk": None, "mtp_num_layers": 1}, ALL, EXPERTS),
    ("deepseek-v3", {**SMALL, "num_moe_experts": 16, "moe_router_num_groups": None, "moe_router_group_topk": None}, UNSHARED, EXPERTS),
    ("gpt-oss-20b", {**SMALL, "num_moe_experts": 8}, ALL, [layout for layout in EXPERTS if layout.expert_tp == 1]),
    ("qwen3-next-80b-a3b", {**SMALL, "num_moe_experts": 16}, ALL, [Layout(), Layout(tp=2, ep=2, etp=1), Layout(pp=2)]),
    ("mixtral-8x7b", SMALL, CanonicalLoRA(normalize_moe_lora=True, target_modules=["linear_fc1_up", "linear_fc2", "router"]), EXPERTS[:4]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "fields", "lora", "layouts"),
    SAME,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(SAME)],
)
def test_no_layout_changes_what_the_whole_model_has(
    model: str, fields: dict[str, Any], lora: CanonicalLoRA, layouts: list[Layout]
) -> None:
    totals = {}
    for layout in layouts:
        plan = plan_job(Job(model=model, layout=layout, lora=lora, model_overrides=fields))
        totals[layout.label] = plan.totals
        assert sum(rank_class.count for rank_class in plan.rank_classes) == layout.world
    assert len(set(map(str, totals.values()))) == 1, totals


TIED = {**SMALL, "num_attention_heads": 16, "num_query_groups": 4, "mtp_num_layers": 1}
LAYERS = "pipeline_model_parallel_layout"


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("qwen2.5-0.5b", TIED),
        # Every stage that predicts tokens has the positions of the embedding as well.
        ("qwen2.5-0.5b", {**TIED, "position_embedding_type": "learned_absolute"}),
        ("llama3-8b", {**SMALL, "mtp_num_layers": 1}),
    ],
)
def test_copies_of_an_embedding_count_once(model: str, fields: dict[str, Any]) -> None:
    cases: list[tuple[Layout, dict[str, Any]]] = [
        (Layout(), {}),
        (Layout(pp=2), {}),
        (Layout(pp=2, vpp=2, tp=2), {}),
        # The prediction layer on a stage of its own with the loss.
        (Layout(pp=4), {LAYERS: "Et|tt|t|mL"}),
    ]
    plans = [
        plan_job(Job(model=model, layout=layout, lora=ALL, model_overrides=fields | split)) for layout, split in cases
    ]
    assert len({plan.totals.base_params for plan in plans}) == 1, [plan.totals for plan in plans]
    assert len({plan.model.fingerprint for plan in plans}) == 1
    # The memory of a rank counts what is there, copies included.
    assert sum(ranks.base_params for ranks in plans[1].rank_classes) > plans[1].totals.base_params


def test_a_tied_embedding_counts_once_beside_the_prediction_layer() -> None:
    job = Job(model="qwen2.5-0.5b", layout=Layout(pp=2), model_overrides={"mtp_num_layers": 1})
    totals = plan_job(job).totals
    assert totals.base_params + totals.trainable_params == 528_883_072


def test_a_note_advises_nothing_that_is_done() -> None:
    assert any("mtp_num_layers" in note for note in load_definition("deepseek-v3").notes)
    assert load_definition("deepseek-v3").override({"mtp_num_layers": 1}).notes == ()


@pytest.mark.parametrize(
    ("model", "layout", "fields"),
    [
        ("qwen2.5-0.5b", Layout(tp=14), {}),
        ("llama3-8b", Layout(tp=64, sp=True), {}),
        ("llama3-8b", Layout(tp=3, world_size=12), {}),
        ("mixtral-8x7b", Layout(tp=64), {}),
        ("mixtral-8x7b", Layout(ep=3), {}),
        ("qwen3-30b-a3b", Layout(tp=2, ep=2, etp=5), {}),
        ("qwen3-30b-a3b", Layout(tp=64, ep=8), {}),
        ("gpt-oss-20b", Layout(tp=3), {}),
        ("qwen3-next-80b-a3b", Layout(tp=6), {}),
        ("nemotron-h-8b", Layout(tp=6), {}),
    ],
)
def test_every_size_that_is_advised_is_accepted(model: str, layout: Layout, fields: dict[str, Any]) -> None:
    definition = load_definition(model).override(fields)
    with pytest.raises(LayoutError) as raised:
        definition.check(layout)
    said = str(raised.value)
    axis = next(axis for axis in ("etp", "tp", "ep") if said.startswith(f"{axis} = "))
    sizes = re.search(r"It can (?:only )?be ([\d, ]+)\.", said)
    assert sizes, said
    for size in sizes[1].split(", "):
        definition.check(msgspec.structs.replace(layout, **{axis: int(size)}))


def test_an_unpadded_vocabulary_names_the_padded_one(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"multiple of 128 \* tp, 152064 rows here: --set model.vocab_size=152064"):
        load_definition("qwen3-0.6b").override({"vocab_size": 151_669}).check(Layout(tp=4))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(UNPADDED))
    plan = plan_job(Job(model=str(path), layout=Layout(tp=4), model_overrides={"vocab_size": 152_064}))
    assert plan.rank_classes[0].base_params == 1_005_846_016
    assert plan.totals.trainable_params == 66_060_288


UNPADDED = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_669,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
}


def test_a_world_sixteen_times_as_wide_has_the_same_plan() -> None:
    narrow, wide = (
        plan_job(
            Job(model="qwen2.5-0.5b", layout=Layout(tp=2, pp=2, world_size=size), model_overrides={"num_layers": 4})
        )
        for size in (4, 64)
    )
    assert narrow.totals == wide.totals
    assert [c.placements for c in narrow.rank_classes] == [c.placements for c in wide.rank_classes]
    assert [c.members for c in wide.rank_classes] == [((0, 31),), ((32, 63),)]


def small_plan(**options: Any) -> JobPlan:
    job = Job(
        model="qwen3-30b-a3b",
        layout=Layout(tp=2, pp=2, ep=2, etp=1),
        model_overrides={"num_layers": 4, "num_moe_experts": 16},
        **options,
    )
    return plan_job(job)


KEYS = {
    "": {"schema", "versions", "job", "lora", "layout", "totals", "rank_classes", "unmatched_targets", "findings"},
    "totals": {"base_params", "trainable_params", "placements", "wrapped_modules"},
    "rank_classes": {"members", "count", "pp", "vpp", "ep", "etp", "base_params", "trainable_params", "wrapped_modules", "placements", "skipped"},
    "placements": {"module", "global_layer", "part", "base_class", "wrapper", "adapter_class", "dim", "alpha", "a_shape", "b_shape", "params", "target"},
    "skipped": {"module", "class", "reason", "by"},
}  # fmt: skip


def test_the_json_has_the_contracts_keys() -> None:
    plan = small_plan(
        lora=CanonicalLoRA(target_modules=["linear_q", "linear_fc1_up", "nothing"], share_expert_adapters=False)
    )
    document = json.loads(encode(plan))
    assert KEYS[""] <= document.keys()
    assert document["schema"] == 1
    assert KEYS["totals"] <= document["totals"].keys()
    assert document["unmatched_targets"] == ["nothing"]
    assert len(document["rank_classes"]) == 2
    for rank_class in document["rank_classes"]:
        assert KEYS["rank_classes"] <= rank_class.keys()
        assert all(KEYS["placements"] <= placement.keys() for placement in rank_class["placements"])
        assert all(KEYS["skipped"] <= skip.keys() for skip in rank_class["skipped"])
        assert {skip["reason"] for skip in rank_class["skipped"]} <= {
            "excluded",
            "not targeted",
            "not adaptable",
            "no parameters",
        }
    assert [c["members"] for c in document["rank_classes"]] == [[[0, 1]], [[2, 3]]]
    experts = [p for p in document["rank_classes"][0]["placements"] if ".experts." in p["module"]]
    assert {(p["part"], tuple(p["a_shape"]), tuple(p["b_shape"])) for p in experts} == {
        (None, (8, 32, 2048), (8, 1536, 32))
    }
    assert {p["part"] for p in document["rank_classes"][0]["placements"]} == {"q", None}


def test_a_saved_plan_is_read_back_as_it_was_and_a_newer_one_is_refused() -> None:
    plan = small_plan()
    data = encode(plan)
    assert decode(data, "plan.json") == plan
    assert encode(decode(data, "plan.json")) == data
    for broken, word in (
        (data.replace(b'"schema": 1', b'"schema": 99', 1), "schema 99"),
        (b"{", "no saved plan"),
        (b"[]", "no saved plan"),
    ):
        with pytest.raises(ModelError, match=word):
            decode(broken, "plan.json")


def test_planning_the_same_job_again_gives_the_same_bytes_whatever_was_planned_between() -> None:
    first = encode(small_plan())
    plan_job(Job(model="qwen2.5-0.5b", layout=Layout(tp=2), model_overrides={"num_layers": 2}))
    assert encode(small_plan()) == first


@pytest.mark.parametrize(
    ("model", "overrides", "seconds"),
    [
        ("llama3-8b", {}, None),
        ("llama3.1-405b", {}, None),
        ("deepseek-v3", {}, None),
        ("llama3-8b", {"num_layers": 2048}, "about 7 seconds"),
        ("deepseek-v3", {"moe_grouped_gemm": False}, "about 1[0-9] seconds"),
        ("llama3-8b", {"num_layers": 0}, None),
    ],
)
def test_a_plan_that_takes_long_is_announced(model: str, overrides: dict[str, object], seconds: str | None) -> None:
    notice = slow_notice(Job(model=model, model_overrides=overrides))
    assert (notice is None) is (seconds is None)
    if notice is not None and seconds is not None:
        assert re.search(f"{model} is large: planning it takes {seconds}. Ctrl-C ends it", notice)
