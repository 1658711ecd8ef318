"""Pipeline splits: the stages that we report are those that megatron-core builds, and every split
that we show works.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clora import CanonicalLoRA
from clora.errors import LayoutError
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.sources import pipeline_split
from clora_inspect.sources.pipeline_split import letters, split_pipeline, unrolled

FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
EMBEDDING, LOSS = "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"
LETTERS = "pipeline_model_parallel_layout"
WORDS = [["embedding", *["decoder"] * 4], ["decoder"] * 8, ["decoder"] * 8, [*["decoder"] * 4, "loss"]]

# 24 layers; (layout, what the user set, layers of the chunks of every stage).
BUILT: list[tuple[Layout, dict[str, Any], list[tuple[int, ...]]]] = [
    (Layout(pp=4), {}, [(6,), (6,), (6,), (6,)]),
    (Layout(pp=2, vpp=3), {}, [(4, 4, 4), (4, 4, 4)]),
    (Layout(pp=4), {FIRST: 3}, [(3,), (7,), (7,), (7,)]),
    (Layout(pp=4), {LAST: 3}, [(7,), (7,), (7,), (3,)]),
    (Layout(pp=4), {FIRST: 5, LAST: 3}, [(5,), (8,), (8,), (3,)]),
    (Layout(pp=2, vpp=2), {FIRST: 10}, [(5, 5), (7, 7)]),
    (Layout(pp=5), {EMBEDDING: True}, [(4,), (5,), (5,), (5,), (5,)]),
    (Layout(pp=5), {LOSS: True}, [(5,), (5,), (5,), (5,), (4,)]),
    (Layout(pp=2, vpp=13), {EMBEDDING: True, LOSS: True}, [(0, *[1] * 12), (*[1] * 12, 0)]),
    (Layout(pp=4), {LETTERS: "Et*5|t*7|t|t*11,L"}, [(5,), (7,), (1,), (11,)]),
    (Layout(pp=2, vpp=2), {LETTERS: "Ettt|(t*9|)*2t*3L"}, [(3, 9), (9, 3)]),
    (Layout(pp=4), {LETTERS: WORDS}, [(4,), (8,), (8,), (4,)]),
]


@pytest.mark.parametrize(
    ("layout", "fields", "chunks"),
    BUILT,
    ids=[f"{case[0].label} {', '.join(map(str, case[1].values()))[:40]}" for case in BUILT],
)
def test_megatron_builds_the_split(layout: Layout, fields: dict[str, Any], chunks: list[tuple[int, ...]]) -> None:
    plan = plan_job(Job(model="qwen2.5-0.5b", layout=layout, model_overrides=fields))
    # Layers fill the virtual stages chunk by chunk: all first chunks, then all second ones.
    expected, number = {}, 0
    for chunk in range(layout.vpp):
        for stage, counts in enumerate(chunks):
            expected[stage, chunk] = list(range(number, number + counts[chunk]))
            number += counts[chunk]
    found: dict[tuple[int, int], list[int | None]] = {key: [] for key in expected}
    for rank_class in plan.rank_classes:
        for placement in rank_class.placements:
            if placement.module.endswith("linear_proj"):
                layers = found[rank_class.pp, placement.chunk]
                assert placement.module.split(".")[2] == str(len(layers))
                layers.append(placement.global_layer)
    assert found == expected
    assert (plan.totals.base_params, plan.totals.trainable_params) == (494_032_768, 17_596_416)


SPLITS = {4: "3 x 16, 13", 8: "7 x 8, 5", 16: "15 x 4, 1"}


@pytest.mark.parametrize(
    "layout",
    [Layout(pp=4), Layout(pp=8), Layout(pp=16), Layout(pp=4, vpp=4), Layout(pp=2, vpp=4)],
    ids=lambda layout: layout.label,
)
@pytest.mark.parametrize("model", ["deepseek-v3", "kimi-k2"])
def test_61_layers_have_a_usual_split_and_say_so(model: str, layout: Layout) -> None:
    from clora_inspect.sources.definition import load_definition

    how = load_definition(model).split(layout).how
    assert how == f"usual uneven split of 61 layers: {SPLITS[layout.pp * layout.vpp]}"


@pytest.mark.parametrize("layout", [Layout(pp=16, vpp=1), Layout(pp=4, vpp=4)], ids=lambda layout: layout.label)
def test_the_usual_split_is_built_with_prediction_layers_last(layout: Layout) -> None:
    plan = plan_job(Job(model="deepseek-v3", layout=layout, model_overrides={"mtp_num_layers": 1}))
    layers = [p.global_layer for c in plan.rank_classes for p in c.placements if p.module.endswith("linear_proj")]
    assert sorted(layers) == list(range(62))
    holders = {c.pp for c in plan.rank_classes for p in c.placements if p.module.startswith("mtp.")}
    assert holders == {layout.pp - 1}
    assert {p.global_layer for c in plan.rank_classes for p in c.placements if p.module.startswith("mtp.")} == {61}


@given(layers=st.integers(1, 130), pp=st.integers(2, 16), vpp=st.integers(1, 6), mtp=st.integers(0, 2))
def test_every_split_that_is_shown_works(layers: int, pp: int, vpp: int, mtp: int) -> None:
    layout, config = Layout(pp=pp, vpp=vpp), {"num_layers": layers, "mtp_num_layers": mtp}
    if layers % (pp * vpp) == 0:
        assert split_pipeline("m", config, {}, layout).how == "even"
        return
    with pytest.raises(LayoutError) as raised:
        split_pipeline("m", config, {}, layout)
    if layers < pp * vpp:
        assert f"at most pp x vpp = {layers}" in str(raised.value)
        return
    shown = re.search(r"--set '?model\.(\w+)=(.*?)'?$", str(raised.value))
    assert shown
    config |= {shown[1]: msgspec.json.decode(shown[2])}
    assert split_pipeline("m", config, {}, layout).how == f"set by {shown[1]}"


@pytest.mark.parametrize(
    ("layers", "layout"),
    [(61, Layout(pp=5)), (30, Layout(pp=4, vpp=2)), (7, Layout(pp=2, vpp=3)), (25, Layout(pp=2))],
    ids=str,
)
def test_megatron_takes_the_split_that_is_shown(layers: int, layout: Layout) -> None:
    fields: dict[str, Any] = {"num_layers": layers}
    with pytest.raises(LayoutError) as raised:
        plan_job(Job(model="qwen2.5-0.5b", layout=layout, model_overrides=fields))
    shown = re.search(r"--set '?model\.(\w+)=(.*?)'?$", str(raised.value))
    assert shown
    plan = plan_job(
        Job(model="qwen2.5-0.5b", layout=layout, model_overrides=fields | {shown[1]: msgspec.json.decode(shown[2])})
    )
    numbers = [p.global_layer for c in plan.rank_classes for p in c.placements if p.module.endswith("linear_proj")]
    assert sorted(numbers) == list(range(layers))


@pytest.mark.parametrize(("layers", "pp", "vpp"), [(32, 4, 3), (32, 12, 1), (61, 16, 1), (61, 4, 5), (14, 9, 1)])
def test_the_split_that_is_shown_is_balanced(layers: int, pp: int, vpp: int) -> None:
    with pytest.raises(LayoutError) as raised:
        split_pipeline("m", {"num_layers": layers}, {}, Layout(pp=pp, vpp=vpp))
    groups = [group.count("t") for group in str(raised.value).rpartition('="')[2].split("|")]
    assert sum(groups) == layers
    assert len(groups) == pp * vpp
    assert max(groups) - min(groups) <= 1


MAMBA = {"hybrid_override_pattern": "M" * 7, "num_layers": 7, "vocab_size": 1024}
LOST: list[tuple[int, dict[str, Any]]] = [
    (2, {}),
    (2, {LOSS: True}),
    (4, {EMBEDDING: True}),
    (2, {EMBEDDING: True, LOSS: True, "num_layers": 6, "hybrid_override_pattern": "M" * 6}),
    (2, {LETTERS: "Et*4|t*3L"}),
]


@pytest.mark.parametrize(("pp", "fields"), LOST)
def test_a_mamba_model_loses_no_layer(pp: int, fields: dict[str, Any]) -> None:
    """It reads only the two fields for its ends. What is refused shows a split that is built."""
    fields, lora = MAMBA | fields, CanonicalLoRA(target_modules=["in_proj"])
    with pytest.raises(LayoutError) as raised:
        plan_job(Job(model="nemotron-h-8b", lora=lora, layout=Layout(pp=pp), model_overrides=fields))
    shown = dict(re.findall(r"--set model\.(\w+)=(\d+)", str(raised.value)))
    kept = {name: value for name, value in fields.items() if name not in (EMBEDDING, LOSS, LETTERS)}
    ends = {name: int(value) for name, value in shown.items()}
    plan = plan_job(Job(model="nemotron-h-8b", lora=lora, layout=Layout(pp=pp), model_overrides=kept | ends))
    held = [layer for rank_class in plan.rank_classes for layer in plan.layers_of(rank_class)]
    assert held == list(range(fields["num_layers"]))


def test_one_layer_on_two_stages_is_refused() -> None:
    fields = {"hybrid_override_pattern": "M", "num_layers": 1, LOSS: True}
    with pytest.raises(LayoutError, match="build 0 of the 1 layer of"):
        plan_job(Job(model="nemotron-h-8b", layout=Layout(pp=2), model_overrides=fields))


def test_stages_that_do_not_hold_every_layer_are_refused_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: megatron-core built other layers than the split says."""
    monkeypatch.setattr(pipeline_split, "_check_known", lambda *_: None)
    lora = CanonicalLoRA(target_modules=["in_proj"])
    with pytest.raises(LayoutError, match=r"7 layers, 0 to 6, .*stage 0: \{0\.\.2\}; stage 1: \{3\.\.5\}"):
        plan_job(Job(model="nemotron-h-8b", lora=lora, layout=Layout(pp=2), model_overrides=MAMBA | {LOSS: True}))


MISTAKES: list[tuple[Layout, dict[str, Any], tuple[str, ...]]] = [
    (Layout(), {FIRST: 3}, (FIRST, "pp = 1", "--pp")),
    (Layout(pp=4), {FIRST: 3, EMBEDDING: True}, (FIRST, EMBEDDING, "not both")),
    (Layout(pp=4), {FIRST: -1}, (f"{FIRST} = -1", "at least 1")),
    (Layout(pp=4), {FIRST: 4}, ("num_layers = 24", "20 left for 3", "6 a stage", f"leave out {FIRST}")),
    (Layout(pp=5), {FIRST: 7}, ("17 left for 4", f"in place of {FIRST}", f"{LAST}=4")),
    (Layout(pp=4), {EMBEDDING: True, LOSS: True}, ("26 left for 4", "6 a stage", "leave out")),
    (Layout(pp=2, vpp=2), {FIRST: 1}, ("a stage of 1 layer does not divide",)),
    (Layout(pp=4), {LETTERS: "Et*24L"}, ("has 1 group, and",)),
    (Layout(pp=2, vpp=2), {FIRST: 11}, ("11 layers does not divide into vpp = 2",)),
    (Layout(pp=4), {LETTERS: "Et*5|t*19L"}, ("2 groups", "pp = 4")),
    (Layout(pp=4), {LETTERS: "Et*5|t*7|t*8|t*11L"}, ("places 31 layers", "has 24")),
    (Layout(pp=2), {LETTERS: "Et*12m|t*12L"}, ("places 1 multi-token-prediction layer, ", "has 0")),
    (Layout(pp=2), {LETTERS: "t*12|Et*12L"}, ("one embedding E, which comes first",)),
    (Layout(pp=2), {LETTERS: "Et*12|xt*12L"}, ("'x'", "t (transformer layer)")),
    (Layout(pp=2), {LETTERS: "Et*9999999999|tL"}, ("unrolls to", "no model")),
    (Layout(pp=2), {LETTERS: "E(t|)*999999999L"}, ("unrolls to", "no model")),
    (Layout(pp=2), {LETTERS: 7}, ("= 7", "Ettt|tttt|tttL")),
    (Layout(pp=2), {LETTERS: [["embedding"], "decoder"]}, ("'decoder'", "a stage is a list")),
    (Layout(pp=2), {LETTERS: [["embedding", "attention"], ["loss"]]}, ("'attention'", "embedding, decoder, mtp, loss")),
    (Layout(pp=2), {LETTERS: "Et*12|t*12L", FIRST: 12}, ("says it all", FIRST)),
    (Layout(pp=2), {LETTERS: ""}, ("has 1 group, and", "pp = 2")),
    (Layout(pp=2), {LETTERS: []}, ("has 1 group, and", "pp = 2")),
    (Layout(pp=2), {FIRST: 0}, (f"{FIRST} = 0", "at least 1")),
    (Layout(pp=2), {LOSS: "yes"}, (f"{LOSS} = 'yes'", "true or false")),
    (Layout(pp=2), {EMBEDDING: 1}, (f"{EMBEDDING} = 1", "true or false")),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "fields", "words"), MISTAKES, ids=[str(case[2][:2]) for case in MISTAKES])
def test_a_mistake_is_told_before_anything_is_built(
    layout: Layout, fields: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(LayoutError) as raised:
        split_pipeline("m", {"num_layers": 24, **fields}, {}, layout)
    assert [word for word in words if word not in str(raised.value)] == []


@pytest.mark.parametrize("said", ["Ettt|(tt|)*29,m|L", "E(t|t)*3L", "E(|t)*2,tL", "Et*3m*2L"])
def test_notation_is_unrolled_as_megatron_does(said: str) -> None:
    from clora_inspect.virtual import virtual_megatron

    with virtual_megatron("meta"):
        from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

        theirs = PipelineParallelLayerLayout.parse_str_to_list(said)
    words = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
    assert unrolled(said) == "|".join("".join(words[layer.name] for layer in stage) for stage in theirs)


def test_letters_are_what_unrolling_gives_back() -> None:
    assert letters((3, 2, 1), 1) == unrolled("Et*3|tt|tmL") == "Ettt|tt|tmL"
