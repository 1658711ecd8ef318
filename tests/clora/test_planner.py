"""Plans of real megatron-core models: what each target adapts, why the rest is skipped, and shapes.

A number in the name of a test or case marks those about one requirement, such as 6: adapting only
some parts of a fused linear.
"""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
from planner_models import NO_GATE, ONE, SEQUENTIAL, at, ats, built, chunks, plan_of, targeting

from clora import CanonicalLoRA
from clora.errors import GeometryError, NotAdaptableError, TargetError
from clora.plan import Fate
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

ATTENTION, MLP = "decoder.layers.{}.self_attention", "decoder.layers.{}.mlp"
MOE, MLA = tiny_models.MOE, tiny_models.MLA
GATE = {"attention_output_gate": True}


def layers(template: str, count: int = 2) -> list[str]:
    return [template.format(layer) for layer in range(count)]


QKV = [f"{ATTENTION}.linear_qkv[{part}]" for part in "qkv"]
CHOICES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("1 bare", {}, ["linear_proj"], layers(f"{ATTENTION}.linear_proj")),
    ("1 bare part", {}, ["linear_v"], layers(f"{ATTENTION}.linear_qkv[v]")),
    ("1 path", {}, ["decoder.layers.1.mlp.linear_fc2"], ["decoder.layers.1.mlp.linear_fc2"]),
    ("1 path of a part", {}, ["decoder.layers.1.mlp.linear_fc1_up"], ["decoder.layers.1.mlp.linear_fc1[up]"]),
    ("1 a bare name is no suffix", {}, ["proj", "linear_proj"], layers(f"{ATTENTION}.linear_proj")),
    ("1 the output layer", {}, ["output_layer"], ["output_layer"]),
    ("2 a dot is a dot", {"num_layers": 12}, ["*.layers.1.*.linear_proj"], ["decoder.layers.1.self_attention.linear_proj"]),
    ("2 a star crosses dots", {}, ["decoder.*linear_fc2"], layers(f"{MLP}.linear_fc2")),
    ("2 anchored", {}, ["layers.*.linear_fc2", "output*"], ["output_layer"]),
    ("2 a range", {"num_layers": 12}, ["*.layers.{9..10}.*.linear_fc2"], [f"{MLP}.linear_fc2".format(n) for n in (9, 10)]),
    (
        "3 union",
        {},
        ["*.layers.0.*.linear_q", "linear_v"],
        ["decoder.layers.0.self_attention.linear_qkv[q]", *layers(f"{ATTENTION}.linear_qkv[v]")],
    ),
    ("3 the same twice", {}, ["linear_fc2", "*.linear_fc2"], layers(f"{MLP}.linear_fc2")),
    ("6 q and v", {}, ["linear_q", "linear_v"], [part.format(n) for n in range(2) for part in (QKV[0], QKV[2])]),
    ("6 up alone", {}, ["linear_fc1_up"], layers(f"{MLP}.linear_fc1[up]")),
    ("7 grouped experts", {**MOE, "moe_shared_expert_intermediate_size": None}, ["linear_fc1_up"], layers(f"{MLP}.experts.linear_fc1")),
    ("7 grouped experts by gate", {**MOE, "moe_shared_expert_intermediate_size": None}, ["linear_fc1_gate"], layers(f"{MLP}.experts.linear_fc1")),
    (
        "7 sequential experts are split",
        {**SEQUENTIAL, "moe_shared_expert_intermediate_size": None, "num_moe_experts": 2, "num_layers": 1},
        ["linear_fc1_gate"],
        [f"decoder.layers.0.mlp.experts.local_experts.{n}.linear_fc1[gate]" for n in (0, 1)],
    ),
    ("7 shared experts are split", MOE, ["*.shared_experts.linear_fc1_gate"], layers(f"{MLP}.shared_experts.linear_fc1[gate]")),
    ("8 no gate", NO_GATE, ["linear_fc1_up"], layers(f"{MLP}.linear_fc1")),
    ("8 no gate by gate", NO_GATE, ["linear_fc1_gate"], []),
    ("9 output gate", GATE, ["linear_q"], layers(f"{ATTENTION}.linear_qkv[q]")),
    ("10 MLA has no q, k, v", MLA, ["linear_q", "linear_k", "linear_v"], []),
    (
        "10 MLA's own",
        {**MLA, "num_layers": 1},
        ["linear_q_down_proj", "linear_q_up_proj", "linear_kv_down_proj", "linear_kv_up_proj"],
        [
            f"decoder.layers.0.self_attention.linear_{name}_proj"
            for name in ("q_down", "q_up", "kv_down", "kv_up")
        ],
    ),
    ("11 router", MOE, ["router"], layers(f"{MLP}.router")),
    ("MTP", {"mtp_num_layers": 1}, ["eh_proj"], ["mtp.layers.0.eh_proj"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "targets", "chosen"), [case[1:] for case in CHOICES], ids=[case[0] for case in CHOICES]
)
def test_targets_choose(fields: dict[str, Any], targets: list[str], chosen: list[str]) -> None:
    plan = plan_of(targeting(*targets), **fields)
    assert sorted(ats(plan)) == sorted(chosen)
    assert sum(plan.matches.values()) >= len(chosen)
    assert {placement.target for placement in plan.placements} <= set(targets)


LINEARS = {
    "dense": ({}, {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "output_layer"}),
    "MLA": (
        MLA,
        {
            "linear_q_down_proj",
            "linear_q_up_proj",
            "linear_kv_down_proj",
            "linear_kv_up_proj",
            "linear_proj",
            "linear_fc1",
            "linear_fc2",
            "output_layer",
        },
    ),
    "experts and MTP": (
        {**MOE, "mtp_num_layers": 1},
        {"linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "output_layer", "eh_proj"},
    ),
}


@pytest.mark.parametrize(("fields", "names"), LINEARS.values(), ids=LINEARS)
def test_row_5_no_targets_is_every_linear_and_all_its_parts(fields: dict[str, Any], names: set[str]) -> None:
    plan = plan_of(targeting(), **fields)
    assert {placement.module.rsplit(".", 1)[-1] for placement in plan.placements} == names
    left = [skip for skip in plan.skipped if skip.reason in (Fate.UNMATCHED, Fate.EXCLUDED)]
    assert {skip.class_name for skip in left} <= {"TopKRouter"}
    assert {placement.target for placement in plan.placements} == {None}


EXCLUSIONS = [
    (["linear_fc2"], {f"{MLP}.linear_fc2"}, set()),
    (["linear_k"], set(), {f"{ATTENTION}.linear_qkv[k]"}),
    (["linear_qkv"], {f"{ATTENTION}.linear_qkv"}, set()),
    (["*.self_attention.*"], {f"{ATTENTION}.linear_qkv", f"{ATTENTION}.linear_proj"}, set()),
    (["linear_fc1_up", "linear_fc1_gate"], set(), {f"{MLP}.linear_fc1[up]", f"{MLP}.linear_fc1[gate]"}),
]


@pytest.mark.parametrize(("excluded", "modules", "parts"), EXCLUSIONS, ids=[str(case[0]) for case in EXCLUSIONS])
def test_row_5_what_is_excluded_says_by_what(excluded: list[str], modules: set[str], parts: set[str]) -> None:
    everything = set(ats(plan_of(targeting())))
    plan = plan_of(CanonicalLoRA(target_modules=[], exclude_modules=excluded))
    gone = {
        place
        for place in everything
        if any(place.partition("[")[0] == name.format(layer) for name in modules for layer in range(2))
        or any(place == name.format(layer) for name in parts for layer in range(2))
    }
    assert gone
    assert set(ats(plan)) == everything - gone
    reasons = {(skip.module, skip.part): skip.by for skip in plan.skipped if skip.reason is Fate.EXCLUDED}
    assert {f"{module}[{part}]" if part else module for module, part in reasons} <= gone | {
        place.partition("[")[0] for place in gone
    }
    assert set(reasons.values()) <= set(excluded)
    assert sum(skip.linears for skip in plan.skipped if skip.reason is Fate.EXCLUDED) == len(gone)


ERRORS: list[tuple[str, dict[str, Any], CanonicalLoRA, type[Exception], tuple[str, ...]]] = [
    ("4 a wildcard on the fused name", {}, targeting("*.self_attention.linear_qk*"), TargetError, ("linear_qkv", "linear_q, linear_k, linear_v")),
    ("4 any fused name", {}, targeting("*linear_fc1"), TargetError, ("linear_fc1", "linear_fc1_gate", "linear_fc1_up")),
    ("12 embedding", {}, targeting("word_embeddings"), NotAdaptableError, ("embedding.word_embeddings", "VocabParallelEmbedding")),
    ("12 embedding container", {}, targeting("embedding"), NotAdaptableError, ("embedding",)),
    ("12 norm", {}, targeting("final_layernorm"), NotAdaptableError, ("decoder.final_layernorm", "RMSNorm")),
    ("12 by wildcard", {}, targeting("*"), NotAdaptableError, ("embedding", "LanguageModelEmbedding")),
    ("13 topk does not divide", MOE, CanonicalLoRA(dim=7, normalize_moe_lora=True), GeometryError, ("dim = 7", "moe_router_topk = 2", "6 or 8")),
    ("13 dim below topk", MOE, CanonicalLoRA(dim=1, normalize_moe_lora=True), GeometryError, ("dim = 1", "moe_router_topk = 2", "Use dim = 2")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "lora", "error", "words"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS]
)
def test_a_mistake_names_the_module_and_the_fix(
    fields: dict[str, Any], lora: CanonicalLoRA, error: type[Exception], words: tuple[str, ...]
) -> None:
    with chunks(**fields) as model, pytest.raises(error) as raised:
        lora.plan(model)
    assert [word for word in words if word not in str(raised.value)] == []


TP2, EP2, ETP2, TP4 = Layout(tp=2), Layout(ep=2), Layout(ep=2, etp=2), Layout(tp=4)
UNSHARED = {"share_expert_adapters": False}
NORM = {"normalize_moe_lora": True}
# The model: hidden 64, 4 heads and 2 groups of 16 channels, MLP 128, 8 experts of 64, topk 2. The
# rank is 32.
SHAPES: list[tuple[str, Layout, dict[str, Any], dict[str, Any], str, tuple[int, ...], tuple[int, ...]]] = [
    ("15 column", TP2, {}, {}, "linear_qkv[q]", (16, 64), (32, 32)),
    ("15 column k", TP2, {}, {}, "linear_qkv[k]", (16, 64), (16, 32)),
    ("15 column gate", TP2, {}, {}, "linear_fc1[gate]", (16, 64), (64, 32)),
    ("15 row", TP2, {}, {}, "linear_proj", (32, 32), (32, 32)),
    ("15 row fc2", TP2, {}, {}, "linear_fc2", (32, 64), (32, 32)),
    ("16 more ranks than groups: q", TP4, {}, {}, "linear_qkv[q]", (8, 64), (16, 32)),
    ("16 more ranks than groups: k", TP4, {}, {}, "linear_qkv[k]", (8, 64), (8, 32)),
    ("16 more ranks than groups: v", TP4, {}, {}, "linear_qkv[v]", (8, 64), (8, 32)),
    ("8 no gate", TP2, NO_GATE, {}, "linear_fc1", (16, 64), (64, 32)),
    ("9 output gate: query and gate", TP2, GATE, {}, "linear_qkv[q]", (16, 64), (64, 32)),
    ("9 output gate: k", TP2, GATE, {}, "linear_qkv[k]", (16, 64), (16, 32)),
    ("10 duplicated", TP2, MLA, {"target_modules": ["linear_kv_down_proj"]}, "linear_kv_down_proj", (16, 64), (12, 32)),
    ("11 router", TP2, MOE, {"target_modules": ["router"]}, "router", (16, 64), (4, 32)),
    ("7 grouped", EP2, MOE, {}, "experts.linear_fc1", (32, 64), (128, 32)),
    ("7 grouped over etp", ETP2, MOE, {}, "experts.linear_fc1", (16, 64), (64, 32)),
    ("7 grouped fc2 over etp", ETP2, MOE, {}, "experts.linear_fc2", (32, 32), (32, 32)),
    ("13 normalised", EP2, MOE, NORM, "experts.linear_fc1", (16, 64), (128, 16)),
    ("13 normalised, rounded up where A is split along the rank", ETP2, MOE, {**NORM, "dim": 10}, "experts.linear_fc1", (3, 64), (64, 6)),
    ("13 normalised, not rounded where it is not", ETP2, MOE, {**NORM, "dim": 10}, "experts.linear_fc2", (5, 32), (32, 5)),
    ("13 nothing outside the experts", ETP2, MOE, {**NORM, "dim": 10}, "linear_proj", (10, 64), (64, 10)),
    ("14 per expert", EP2, MOE, UNSHARED, "experts.linear_fc1", (4, 32, 64), (4, 128, 32)),
    ("14 per expert over etp", ETP2, MOE, UNSHARED, "experts.linear_fc1", (4, 16, 64), (4, 64, 32)),
    ("14 shared experts are one", EP2, MOE, UNSHARED, "shared_experts.linear_fc1[up]", (32, 64), (64, 32)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "fields", "arguments", "place", "a_shape", "b_shape"),
    [case[1:] for case in SHAPES],
    ids=[case[0] for case in SHAPES],
)
def test_one_ranks_shapes(
    layout: Layout,
    fields: dict[str, Any],
    arguments: dict[str, Any],
    place: str,
    a_shape: tuple[int, ...],
    b_shape: tuple[int, ...],
) -> None:
    placement = at(plan_of(CanonicalLoRA(**arguments), layout, **fields), place)
    assert (placement.a_shape, placement.b_shape) == (a_shape, b_shape)
    axes = {**layout.sizes(), None: 1}
    for local, whole, split in (
        (placement.a_shape, placement.a_global_shape, placement.a_axes),
        (placement.b_shape, placement.b_global_shape, placement.b_axes),
    ):
        assert tuple(size * axes[axis] for size, axis in zip(local, split, strict=True)) == whole
    assert placement.params == sum_of_products(a_shape, b_shape)


def sum_of_products(*shapes: tuple[int, ...]) -> int:
    import math

    return sum(math.prod(shape) for shape in shapes)


TP_ERRORS = [
    (TP2, {}, {"dim": 7}, ("dim = 7", "tp = 2", "6 or 8")),
    (TP4, {}, {"dim": 2}, ("dim = 2", "tp = 4", "Use dim = 4")),
    (ETP2, MOE, {"dim": 5, "target_modules": ["*.experts.linear_fc1_up"]}, ("dim = 5", "etp = 2", "4 or 6")),
    (TP4, {"num_query_groups": 1, "kv_channels": 6}, {"target_modules": ["linear_k"]}, ("linear_qkv", "6", "tp = 4")),
]


@pytest.mark.parametrize(
    ("layout", "fields", "arguments", "words"), TP_ERRORS, ids=[str(case[3]) for case in TP_ERRORS]
)
def test_row_15_what_does_not_divide_is_told_with_the_numbers(
    layout: Layout, fields: dict[str, Any], arguments: dict[str, Any], words: tuple[str, ...]
) -> None:
    with chunks(layout, **fields) as model, pytest.raises(GeometryError) as raised:
        CanonicalLoRA(**arguments).plan(model)
    assert [word for word in words if word not in str(raised.value)] == []


def test_expert_facts_are_there_for_routed_experts_only() -> None:
    layout = Layout(tp=2, ep=2, etp=2)
    for unshared in (False, True):
        plan = plan_of(CanonicalLoRA(share_expert_adapters=not unshared), layout, **MOE)
        facts = at(plan, "mlp.experts.linear_fc1").experts
        assert facts is not None
        assert (facts.num_experts, facts.num_local_experts, facts.per_expert) == (8, 4, unshared)
        assert (facts.ep, facts.etp) == (2, 2)
        assert at(plan, "shared_experts.linear_fc2").experts is None
        assert at(plan, "linear_proj").experts is None
        classes = {p.adapter_class for p in plan.placements if p.experts}
        assert classes == {"GroupedExpertLinearAdapter" if unshared else "ParallelLinearAdapter"}


def test_a_sequential_expert_stands_for_one_on_every_expert_rank() -> None:
    plan = plan_of(targeting("linear_fc2"), Layout(ep=4), **SEQUENTIAL)
    experts = [p for p in plan.placements if ".local_experts." in p.module]
    assert len(experts) == 2 * 2  # layers x local experts
    assert {p.copies for p in experts} == {4}
    assert {p.experts.per_expert for p in experts if p.experts} == {True}
    whole = plan_of(targeting("linear_fc2"), ONE, **SEQUENTIAL)
    assert sum(p.model_params for p in plan.placements) == whole.trainable_params


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_duplicated_linear_counts_once_on_every_device(device: str) -> None:
    """On other devices than meta, its weight is marked as a shard in megatron-core 0.16."""
    whole = plan_of(layout=ONE, **MLA).model_params
    with quiet(), virtual_megatron(device), virtual_cluster(Layout(tp=2)):
        (model,) = built(Layout(tp=2), device, **MLA)
        weight: Any = model.get_parameter("decoder.layers.0.self_attention.linear_q_down_proj.weight")
        # Newer releases mark it nowhere.
        weight.tensor_model_parallel = device == "cpu"
        assert CanonicalLoRA().plan(model).model_params == whole


def test_every_module_is_placed_or_has_a_reason() -> None:
    for fields in ({}, {**MLA, **MOE, "mtp_num_layers": 1}, SEQUENTIAL):
        with chunks(**fields) as model:
            plan = CanonicalLoRA().plan(model)
            names = [name for name, _ in model[0].named_modules() if name]
            weights = {
                name: sum(p.numel() for p in m.parameters(recurse=False)) for name, m in model[0].named_modules()
            }
        placed = {placement.module for placement in plan.placements}
        skipped = {skip.module: skip for skip in plan.skipped if skip.part is None}
        assert placed | skipped.keys() == set(names)
        assert placed & skipped.keys() == set()
        assert all((skip.reason is Fate.NO_PARAMETERS) <= (weights[name] == 0) for name, skip in skipped.items())
        assert all(weights[name] == 0 or skip.reason is not Fate.NO_PARAMETERS for name, skip in skipped.items())
        assert all(skip.params == weights[name] for name, skip in skipped.items())
        assert plan.base_params == sum(weights.values())


def test_a_part_left_out_has_a_reason_of_its_own() -> None:
    plan = plan_of(targeting("linear_q", "linear_v"))
    parts = [skip for skip in plan.skipped if skip.part is not None]
    assert [(skip.module, skip.part, skip.linears, skip.params) for skip in parts] == [
        (f"decoder.layers.{layer}.self_attention.linear_qkv", "k", 1, 0) for layer in range(2)
    ]
    whole = [skip for skip in plan.skipped if skip.module.endswith("linear_fc1")]
    assert [(skip.part, skip.linears) for skip in whole] == [(None, 2), (None, 2)]


def test_a_vision_tower_gets_one_adapter_for_a_fused_weight() -> None:
    from torch import nn

    class TwoTowers(nn.Module):
        def __init__(self, tower: nn.Module, text: nn.Module) -> None:
            super().__init__()
            self.config = text.config
            self.vision_model = tower
            self.language_model = text

    with chunks() as (text,):
        plan = targeting("linear_q", "linear_fc1_up").plan(TwoTowers(text.decoder, text))
    tower = [p for p in plan.placements if p.module.startswith("vision_model.")]
    # The decoder is a child of both towers. It is planned at the first path.
    assert {(p.module.split(".", 3)[-1], p.part, p.wrapper) for p in tower} == {
        ("self_attention.linear_qkv", None, "LoRALinear"),
        ("mlp.linear_fc1", None, "LoRALinear"),
    }
    assert {p.b_shape for p in tower} == {(128, 32), (256, 32)}


def test_layer_numbers_are_local_in_names_and_global_beside_them() -> None:
    layout = Layout(pp=2, vpp=2)
    seen = []
    for rank in range(2):
        with chunks(layout, rank) as model:
            plan = targeting("linear_proj").plan(model)
            for placement in plan.placements:
                layer = model[placement.chunk].get_submodule(placement.module.rsplit(".", 2)[0])
                assert placement.global_layer == layer.layer_number - 1
                seen.append((rank, placement.chunk, placement.module.split(".")[2], placement.global_layer))
    assert seen == [
        (0, 0, "0", 0), (0, 0, "1", 1), (0, 1, "0", 4), (0, 1, "1", 5),
        (1, 0, "0", 2), (1, 0, "1", 3), (1, 1, "0", 6), (1, 1, "1", 7),
    ]  # fmt: skip


def test_prediction_layers_are_numbered_behind_the_decoder() -> None:
    plan = plan_of(CanonicalLoRA(), Layout(pp=2), rank=1, mtp_num_layers=1)
    numbers = {p.global_layer for p in plan.placements if p.module.startswith("mtp.")}
    assert numbers == {4}
    assert {p.global_layer for p in plan.placements if p.module.startswith("decoder.")} == {2, 3}
    assert {s.global_layer for s in plan.skipped if s.module == "decoder"} == {None}


@pytest.mark.parametrize(
    "fields", [{}, {**MLA, **MOE, "mtp_num_layers": 1}, SEQUENTIAL, GATE], ids=["dense", "mla", "sequential", "gate"]
)
def test_row_18_looking_changes_nothing(fields: dict[str, Any]) -> None:
    with chunks(TP2, **fields) as model:
        before = state_of(model[0])
        plans = [lora.plan(model) for lora in (CanonicalLoRA(), targeting(), CanonicalLoRA())]
        assert state_of(model[0]) == before
    assert plans[0] == plans[2] != plans[1]


def state_of(model: Any) -> dict[str, Any]:
    """Return all attributes of all modules and configs, by identity or value."""
    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            inner = dict(value) if isinstance(value, dict) else value
            state[f"{name}:{attribute}"] = (
                {key: id(item) for key, item in inner.items()} if isinstance(inner, dict) else repr_of(inner)
            )
        config = getattr(module, "config", None)
        if config is not None:
            state[f"{name}:config:{id(config)}"] = {field: repr_of(value) for field, value in vars(config).items()}
    for name, param in model.named_parameters():
        state[f"param:{name}"] = (id(param), param.requires_grad, dict(vars(param)))
    return state


def repr_of(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None), tuple)) else id(value)


ORDERS = [({}, MOE), (MOE, {}), (MLA, {**GATE})]


@pytest.mark.parametrize(("first", "second"), ORDERS)
def test_plans_do_not_depend_on_what_was_planned_before(first: dict[str, Any], second: dict[str, Any]) -> None:
    one = (plan_of(**first), plan_of(**second))
    other = (plan_of(**second), plan_of(**first))
    assert one == other[::-1]
    assert one[0] != one[1]


def test_one_module_is_planned_as_in_its_model() -> None:
    from clora.planner import plan_module

    with chunks(TP2, **MOE) as (model,):
        lora = targeting("linear_q", "linear_fc1_up", "router", "output_layer")
        plan = lora.plan(model)
        for name, module in model.named_modules():
            if name:
                alone = plan_module(module, name, lora)
                together = tuple(p for p in plan.placements if p.module == name)
                fields = ("module", "part", "a_shape", "b_shape", "dim", "wrapper", "adapter_class", "target")
                assert [[getattr(p, f) for f in fields] for p in alone] == [
                    [getattr(p, f) for f in fields] for p in together
                ]
