"""Distributed checkpoints: what is saved on one layout comes back on another, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gloo import on_ranks as on_ranks_of

from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path


def on_ranks(layout: Layout, task: str, kind: str, *args: Any) -> list[Any]:
    """Run the task on every rank of `layout`, and tell it the axes of the layout."""
    axes = {name: value for name, value in msgspec.structs.asdict(layout).items() if value is not None}
    return on_ranks_of(layout, task, kind, axes, *args)


PER_EXPERT: dict[str, Any] = {"share_expert_adapters": False}
ONE_LAYER: dict[str, Any] = {"target_modules": ["*.layers.1.*.linear_q", "linear_v", "*.layers.{0..1}.*.linear_fc1_up"]}


@pytest.mark.parametrize("whole_model", [True, False], ids=["whole model", "adapters alone"])
@pytest.mark.parametrize(
    ("kind", "saved_at", "loaded_at", "lora_fields"),
    [
        ("gqa", Layout(tp=2, pp=2), [Layout(), Layout(tp=4)], {}),
        ("gqa", Layout(tp=4), [Layout(tp=2, pp=2), Layout()], {}),
        ("gqa", Layout(pp=2, vpp=2), [Layout(tp=2)], {}),
        ("gqa", Layout(), [Layout(tp=2)], {"target_modules": ["linear_q", "linear_v", "linear_fc1_up"]}),
        ("gqa", Layout(tp=2), [Layout()], ONE_LAYER),
        ("mqa", Layout(tp=4), [Layout(), Layout(tp=2)], {}),
        ("no-gate", Layout(tp=2), [Layout()], {}),
        ("mla-moe-mtp", Layout(tp=2), [Layout()], {}),
        ("mtp", Layout(pp=2), [Layout(), Layout(tp=2)], {}),
        pytest.param(
            "grouped-experts", Layout(tp=2, ep=2, etp=1, pp=2), [Layout(), Layout(tp=4)], {}, marks=pytest.mark.nightly
        ),
        ("grouped-experts", Layout(tp=2, ep=2, etp=1, pp=2), [Layout(), Layout(tp=4), Layout(ep=2, etp=2)], PER_EXPERT),
        pytest.param("grouped-experts", Layout(ep=4), [Layout(ep=2)], PER_EXPERT, marks=pytest.mark.nightly),
        ("grouped-experts", Layout(ep=2, etp=2), [Layout()], {}),
        ("grouped-experts", Layout(ep=2), [Layout()], {**PER_EXPERT, "target_modules": ["*.layers.1.*.linear_fc2"]}),
        ("sequential-experts", Layout(ep=2), [Layout(), Layout(tp=2, ep=2, etp=2)], {}),
        ("shared-experts", Layout(tp=2, ep=2, etp=1), [Layout()], {}),
        ("mamba", Layout(tp=2), [Layout()], {}),
        ("delta-net", Layout(), [Layout(tp=2)], {}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label if isinstance(value, Layout) else "",
)
def test_every_parameter_comes_back_on_another_layout(
    tmp_path: Path,
    kind: str,
    saved_at: Layout,
    loaded_at: list[Layout],
    lora_fields: dict[str, Any],
    whole_model: bool,
) -> None:
    folder = str(tmp_path / "checkpoint")
    on_ranks(saved_at, "checkpoint_tasks:save", kind, folder, whole_model, lora_fields)
    for layout in loaded_at:
        for counted in on_ranks(layout, "checkpoint_tasks:load", kind, folder, whole_model, lora_fields):
            assert not counted["names"]
            assert counted["equal"] > 0


def test_adapters_are_saved_where_megatron_core_cannot_save_the_base(tmp_path: Path) -> None:
    # It asserts on the stage of multi-token prediction when the embeddings are tied.
    folder = str(tmp_path / "checkpoint")
    fields = {"target_modules": ["linear_q", "linear_proj", "linear_fc2"]}
    on_ranks(Layout(pp=2), "checkpoint_tasks:save", "tied-mtp", folder, False, fields)
    (counted,) = on_ranks(Layout(), "checkpoint_tasks:load", "tied-mtp", folder, False, fields)
    assert not counted["names"]
    assert counted["equal"] > 0


@pytest.mark.parametrize("kind", ["gqa", "grouped-experts"])
def test_a_base_checkpoint_saved_before_surgery_loads_after_it(tmp_path: Path, kind: str) -> None:
    folder = str(tmp_path / "base")
    on_ranks(Layout(tp=2), "checkpoint_tasks:save_base", kind, folder)
    (counted,) = on_ranks(Layout(), "checkpoint_tasks:load_base", kind, folder)
    assert counted["wrong"] == 0
    assert counted["equal"] > 0


def test_an_adapter_has_the_key_that_megatron_core_gives_its_base(tmp_path: Path) -> None:
    (keys,) = on_ranks(Layout(), "checkpoint_tasks:save", "gqa", str(tmp_path / "a"), True, {})
    assert "decoder.layers.self_attention.linear_qkv.adapter.adapter_q.linear_in.weight" in keys
    assert "decoder.layers.mlp.linear_fc1.adapter.adapter_gate.linear_out.weight" in keys
    assert "decoder.layers.self_attention.linear_proj.adapter.linear_in.weight" in keys
    assert "decoder.layers.self_attention.linear_qkv.weight" in keys


def test_a_checkpoint_of_other_adapters_is_refused_with_the_names_and_shapes(tmp_path: Path) -> None:
    folder = str(tmp_path / "adapters")
    on_ranks(Layout(), "checkpoint_tasks:save", "gqa", folder, False, {})
    for fields, words in [
        (
            {"target_modules": ["linear_q"]},
            ["is of other adapters", "has 14 that the model lacks", "linear_fc1.adapter"],
        ),
        ({"dim": 8}, ["with the shape [4, 4, 32]", "has [4, 8, 32]", "dim"]),
    ]:
        for answer in on_ranks(Layout(tp=2), "checkpoint_tasks:refused", "gqa", folder, fields):
            assert answer["wrong"] == 0
            for word in words:
                assert word in answer["message"]


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("no index", "no complete distributed checkpoint"),
        ("truncated index", "damaged"),
        ("truncated data", "cannot be read"),
        ("code in the index", "names posix.system"),
        ("nothing", "no complete distributed checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_leaves_the_model_as_it_was(tmp_path: Path, damage: str, word: str) -> None:
    folder = tmp_path / "adapters"
    if damage != "nothing":
        on_ranks(Layout(), "checkpoint_tasks:save", "gqa", str(folder), False, {})
        index = folder / ".metadata"
        if damage == "no index":
            index.unlink()
        elif damage == "truncated index":
            index.write_bytes(index.read_bytes()[:100])
        elif damage == "code in the index":
            index.write_bytes(b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
        else:
            for data in folder.glob("*.distcp"):
                data.write_bytes(data.read_bytes()[:64])
    for answer in on_ranks(Layout(tp=2), "checkpoint_tasks:refused", "gqa", str(folder), {}):
        assert word in answer["message"]
        assert answer["wrong"] == 0
    assert not (tmp_path / "ran").exists()


def test_nothing_is_overwritten_and_a_model_without_adapters_is_not_saved(tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    (message,) = on_ranks(Layout(), "checkpoint_tasks:save_refused", "gqa", str(folder), False)
    assert "no adapters to save" in message
    assert not folder.exists()
    folder.mkdir()
    (message,) = on_ranks(Layout(), "checkpoint_tasks:save_refused", "gqa", str(folder), True)
    assert "exists already" in message


def test_a_folder_that_only_looks_like_ours_is_never_removed(tmp_path: Path) -> None:
    unfinished = tmp_path / "adapters.unfinished"
    unfinished.mkdir()
    (unfinished / "thesis").write_text("x")
    on_ranks(Layout(), "checkpoint_tasks:save", "gqa", str(tmp_path / "adapters"), False, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters", "adapters.unfinished"]
    assert [path.name for path in unfinished.iterdir()] == ["thesis"]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_fail_at_once_when_one_cannot_describe_its_shards(tmp_path: Path, rank: int) -> None:
    # In less time than it takes to notice that a rank is gone.
    answers = on_ranks(Layout(tp=2), "checkpoint_tasks:refused_with_a_broken_rank", "gqa", str(tmp_path / "a"), rank)
    assert [f"no shards today (rank {rank} of 2)" in message for message in answers] == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_adapters_of_another_scale_are_refused_on_another_layout(tmp_path: Path) -> None:
    folder = str(tmp_path / "adapters")
    on_ranks(Layout(tp=2), "checkpoint_tasks:save", "grouped-experts", folder, False, {"alpha": 8})
    for answer in on_ranks(Layout(pp=2), "checkpoint_tasks:refused", "grouped-experts", folder, {"alpha": 16}):
        assert "was saved with alpha 8 and dim 4" in answer["message"]
        assert "this model has alpha 16 and dim 4" in answer["message"]
        assert "Adapt the model with alpha=8." in answer["message"]
        assert answer["wrong"] == 0
