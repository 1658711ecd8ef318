"""Two snapshots against each other: what is kept, added, removed, changed or only renamed; and what
else changed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from clora.layer_pattern import PREDICTION_LAYERS, hybrid_path
from clora_inspect.snapshot.diff import compare
from clora_inspect.snapshot.drift import Change, Drift
from clora_inspect.snapshot.record import Base, PlacementLine, Snapshot, SnapshotLayout, SnapshotTotals, decode, encode


def line(at: str, rank: int = 4, out: int = 32, **more: Any) -> PlacementLine:
    return PlacementLine(
        at=at, a=(rank, 16), b=(out, rank), shard=("rank/tp", "out/tp"), by=more.pop("by", "linear_q"), **more
    )


def snapshot(*lines: PlacementLine, fingerprint: str = "sha256:1", **more: Any) -> Snapshot:
    layout = {"cp": 1, "ep": 1, "etp": 1, "pp": 1, "sp": False, "stages": ("0-3",), "tp": 1, "vpp": 1} | more.pop(
        "layout", {}
    )
    base = {"class_name": "GPTModel", "modules": {"MLP": 4}, "params": 100} | more.pop("base", {})
    lora = {"alpha": 8.0, "dim": 4, "dropout": 0.0} | more.pop("lora", {})
    return Snapshot(
        job="job",
        layout=SnapshotLayout(**layout),
        base=Base(fingerprint=fingerprint, **base),
        lora=lora,
        totals=SnapshotTotals(params=sum(one.params for one in lines), placements=sum(one.copies for one in lines)),
        placements=lines,
    )


Q = [line(f"decoder.layers.{number}.self_attention.linear_qkv[q]") for number in range(12)]
V = [line(f"decoder.layers.{number}.self_attention.linear_qkv[v]") for number in range(12)]


def sums(drift: Drift) -> tuple[int, int, int, int]:
    return drift.kept, drift.added, drift.removed, drift.changed


def test_equal_snapshots_have_no_drift() -> None:
    drift = compare(snapshot(*Q), snapshot(*Q))
    assert drift.is_clean
    assert sums(drift) == (12, 0, 0, 0)


def test_parts_that_come_and_go_are_folded_over_layers() -> None:
    drift = compare(snapshot(*Q), snapshot(*Q[:6], *V))
    assert sums(drift) == (6, 12, 6, 0)
    assert [(one.change, one.where, one.count) for one in drift.lines] == [
        (Change.REMOVED, "decoder.layers.{6..11}.self_attention.linear_qkv[q]", 6),
        (Change.ADDED, "decoder.layers.{0..11}.self_attention.linear_qkv[v]", 12),
    ]
    assert drift.params_after - drift.params_before == sum(one.params for one in drift.lines)


def test_another_rank_is_a_change() -> None:
    drift = compare(snapshot(*Q), snapshot(*(line(one.at, rank=8) for one in Q)))
    assert sums(drift) == (0, 0, 0, 12)
    (changed,) = drift.lines
    assert (changed.before, changed.after) == (
        "rank 4, in 16, out 32, A rank/tp, B out/tp",
        "rank 8, in 16, out 32, A rank/tp, B out/tp",
    )


def test_another_target_that_chose_the_same_is_no_drift() -> None:
    assert compare(snapshot(*Q), snapshot(*(line(one.at, by="*.linear_q") for one in Q))).is_clean


def test_a_new_name_in_another_base_model_is_a_rename() -> None:
    renamed = [line(one.at.replace("self_attention", "attention")) for one in Q]
    drift = compare(snapshot(*Q), snapshot(*renamed, fingerprint="sha256:2"))
    assert sums(drift) == (0, 0, 0, 12)
    (changed,) = drift.lines
    assert changed.where == "decoder.layers.{0..11}.attention.linear_qkv[q]"
    assert changed.was == "decoder.layers.{0..11}.self_attention.linear_qkv[q]"
    assert drift.base == ("the same classes and sizes at other paths: the module tree was rearranged",)


@pytest.mark.parametrize(
    "now",
    [
        [line(one.at.replace("self_attention.linear_qkv", "attention.qkv")) for one in Q],
        [line(one.at.replace("self_attention", "attention"), rank=8) for one in Q],
        [line(one.at.replace("self_attention", "attention"), by="linear_x") for one in Q],
        V,
    ],
    ids=["two names", "other shape", "other target", "other part"],
)
def test_what_is_no_rename_is_removed_and_added(now: list[PlacementLine]) -> None:
    assert sums(compare(snapshot(*Q), snapshot(*now, fingerprint="sha256:2"))) == (0, 12, 12, 0)


def test_in_the_same_base_model_nothing_is_renamed() -> None:
    renamed = [line(one.at.replace("self_attention", "cross_attention")) for one in Q]
    assert sums(compare(snapshot(*Q), snapshot(*renamed))) == (0, 12, 12, 0)


def test_a_layer_number_is_no_name() -> None:
    assert sums(compare(snapshot(Q[1]), snapshot(Q[3], fingerprint="sha256:2"))) == (0, 1, 1, 0)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"lora": {"dropout": 0.1}}, "settings", "dropout 0 -> 0.1"),
        ({"layout": {"tp": 2, "sp": True}}, "layout", "tp 1 -> 2"),
        ({"layout": {"stages": ("0-4",)}}, "layout", "layers of stage 0: 0-3 -> 0-4"),
        ({"base": {"params": 120}, "fingerprint": "x"}, "base", "120 parameters, it had 100"),
        (
            {"base": {"class_name": "MambaModel"}, "fingerprint": "x"},
            "base",
            "the model is a MambaModel, it was a GPTModel",
        ),
        ({"base": {"modules": {"MoELayer": 4}}, "fingerprint": "x"}, "base", "4 MoELayer, it had none"),
    ],
)
def test_what_else_changed_is_told_apart(changes: dict[str, Any], field: str, said: str) -> None:
    drift = compare(snapshot(*Q), snapshot(*Q, **changes))
    assert sums(drift) == (12, 0, 0, 0)
    assert said in getattr(drift, field)
    assert not drift.is_clean


def test_a_sequential_expert_counts_for_its_siblings() -> None:
    before = snapshot(line("decoder.layers.0.mlp.experts.local_experts.0.linear_fc2", copies=8))
    assert sums(compare(before, snapshot())) == (0, 0, 8, 0)
    assert compare(before, snapshot()).params_before == before.placements[0].params


def test_ten_thousand_renames_take_no_time() -> None:
    old = [
        line(f"decoder.layers.{number}.mlp.experts.local_experts.{expert}.linear_fc2")
        for number in range(50)
        for expert in range(200)
    ]
    new = [line(one.at.replace("mlp", "moe")) for one in old]
    assert sums(compare(snapshot(*old), snapshot(*new, fingerprint="x"))) == (0, 0, 0, 10_000)


def test_the_file_is_one_placement_a_line_and_reads_back() -> None:
    data = encode(snapshot(*Q))
    assert data.decode().count("\n") == 7 + 1 + len(Q) + 2
    assert data.splitlines()[8].startswith(b'  {"at":"decoder.layers.0.')
    assert decode(data, "snapshots/job/train.json") == snapshot(*Q)
    assert encode(decode(data, "x")) == data
    assert msgspec.json.decode(data)["schema"] == 1


@pytest.mark.parametrize(("width", "stacked"), [(None, False), (200, False), (100, True), (60, True)])
def test_what_was_and_what_is_are_shown_at_every_width(width: int | None, stacked: bool) -> None:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.snapshot.drift_text import lines
    from clora_inspect.snapshot.drift import Change, Drift, DriftLine

    change = DriftLine(
        change=Change.CHANGED,
        where="decoder.layers.{0..31}.self_attention.linear_qkv[q]",
        count=32,
        before="rank 16, in 4096, out 4096, A rank/tp, B out/tp",
        after="rank 32, in 4096, out 4096, A rank/tp, B out/tp",
        params=4_194_304,
    )
    drift = Drift(
        kept=0, added=0, removed=0, changed=32, params_before=4_194_304, params_after=8_388_608, lines=(change,)
    )
    printed = list(lines(drift, Look(width=width), "job"))
    text = " ".join(" ".join(printed).split())
    for fact in (change.where, "rank 16,", "rank 32,", "+4,194,304"):
        assert fact in text
    assert any(line.lstrip().startswith("was  rank 16") for line in printed) == stacked
    assert any(line.lstrip().startswith("is   rank 32") for line in printed) == stacked
    if stacked:
        # The path of a module stays whole.
        assert all(len(line) <= (width or 0) or change.where in line for line in printed[1:])


MLP = [line(f"decoder.layers.{number}.mlp.linear_fc2", by="linear_fc2") for number in range(4)]
HYBRID = {"fingerprint": "sha256:2", "base": {"class_name": "HybridModel", "layer_pattern": "*-*-*-*-"}}


def in_hybrid(*lines: PlacementLine, rank: int = 4) -> list[PlacementLine]:
    return [line(hybrid_path(one.at), rank, by="other") for one in lines]


def test_a_gpt_model_that_became_a_hybrid_model_is_renamed_module_by_module() -> None:
    layout = {"pp": 2, "stages": ("0-1", "2-3")}
    now = snapshot(*in_hybrid(*Q[:4], *MLP), layout={"pp": 2, "stages": ("0-3", "4-7")}, **HYBRID)
    drift = compare(snapshot(*Q[:4], *MLP, layout=layout), decode(encode(now), "file"))
    # The attention of layer 0 keeps its name.
    assert sums(drift) == (1, 0, 0, 7)
    assert drift.layout == ()
    assert [(one.was, one.where, one.params) for one in drift.lines] == [
        (
            "decoder.layers.{1..3}.self_attention.linear_qkv[q]",
            "decoder.layers.{2..6..2}.self_attention.linear_qkv[q]",
            0,
        ),
        ("decoder.layers.{0..3}.mlp.linear_fc2", "decoder.layers.{1..7..2}.mlp.linear_fc2", 0),
    ]
    assert (
        drift.base[1] == "layer i of the GPTModel is layers 2i, the attention, and 2i + 1, the MLP, of the HybridModel"
    )
    back = compare(now, snapshot(*Q[:4], *MLP, layout=layout))
    assert sums(back) == (1, 0, 0, 7)


def test_what_really_changed_on_the_way_to_a_hybrid_model_is_told_from_the_names() -> None:
    now = snapshot(*in_hybrid(*Q[:3]), *in_hybrid(Q[3], rank=8), *in_hybrid(MLP[0]), **HYBRID)
    drift = compare(snapshot(*Q[:4], *V[:2]), now)
    assert sums(drift) == (1, 1, 2, 3)
    assert [one.after for one in drift.lines if one.change is Change.CHANGED and one.before != one.after] == [
        "rank 8, in 16, out 32, A rank/tp, B out/tp"
    ]


def test_prediction_layers_of_another_release_are_no_drift() -> None:
    old, new = (line(f"mtp.layers.0.{name}.self_attention.linear_qkv[q]") for name in PREDICTION_LAYERS)
    assert compare(snapshot(*Q, old), snapshot(*Q, new)).is_clean
    assert sums(compare(snapshot(*Q, old), snapshot(*Q, line(new.at, rank=8)))) == (12, 0, 0, 1)
