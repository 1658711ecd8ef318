"""The text of plans that are written by hand: numbers, tables, stages and control characters."""

from __future__ import annotations

import msgspec
import pytest

from clora.canonical_lora import CanonicalLoRA
from clora.plan import Fate, Placement, Skip
from clora_inspect.formats.glyphs import ASCII, UNICODE, harmless
from clora_inspect.formats.look import Look, Style
from clora_inspect.formats.plan.memory import WITHOUT_PEAK
from clora_inspect.formats.plan.rows import sections
from clora_inspect.formats.plan.stages import stage_lines
from clora_inspect.formats.plan.summary import summary, trainable
from clora_inspect.formats.plan.text import render
from clora_inspect.formats.plan.unadapted import unadapted_rows
from clora_inspect.formats.plan.view import View
from clora_inspect.formats.quantities import short_count, size, spread
from clora_inspect.formats.table import Column, Line, table
from clora_inspect.job import memory
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layout import Layout
from clora_inspect.job.place import Place
from clora_inspect.job.plan import JobPlan, ModelRecord, RankClass, Totals, lora_record

VERSIONS = {"megatron-core": "0.16.1"}


def placement(
    layer: int, module: str = "self_attention.linear_proj", *, rank: int = 8, target: str | None = None
) -> Placement:
    return Placement(
        module=f"decoder.layers.{layer}.{module}",
        global_layer=layer,
        part=None,
        base_class="TERowParallelLinear",
        wrapper="LoRALinear",
        adapter_class="ParallelLinearAdapter",
        dim=rank,
        alpha=16.0,
        a_shape=(rank, 64),
        b_shape=(64, rank),
        a_global_shape=(rank, 64),
        b_global_shape=(64, rank),
        a_axes=(None, None),
        b_axes=(None, None),
        target=target or module.rsplit(".", 1)[-1],
        params=128 * rank,
    )


def skip(module: str, layer: int | None, reason: Fate, **fields: object) -> Skip:
    return msgspec.convert(
        {"module": module, "global_layer": layer, "class": "Linear", "reason": str(reason), "params": 10} | fields, Skip
    )


def job_plan(
    *stages: tuple[Placement, ...], skipped: tuple[Skip, ...] = (), findings: tuple[Finding, ...] = (), job: str = "toy"
) -> JobPlan:
    classes = tuple(
        RankClass(
            members=((number * 2, number * 2 + 1),),
            count=2,
            pp=number,
            vpp=(0, 0),
            ep=(0, 0),
            etp=(0, 0),
            base_params=1000 * (number + 1),
            trainable_params=sum(one.params for one in placements),
            wrapped_modules=len(placements),
            placements=placements,
            skipped=skipped if number == 0 else (),
        )
        for number, placements in enumerate(stages)
    )
    every = [one for placements in stages for one in placements]
    return JobPlan(
        versions=VERSIONS,
        model_source=job,
        model=ModelRecord(name=job, dtype="bfloat16", device="meta", notes=("half of it is missing",)),
        lora=lora_record(CanonicalLoRA(dim=8, alpha=16.0)),
        layout=Layout(tp=2, pp=len(stages), vpp=1, cp=1, ep=1, etp=1, sp=True, world_size=2 * len(stages)),
        totals=Totals(
            base_params=9000,
            trainable_params=sum(one.model_params for one in every),
            placements=len(every),
            wrapped_modules=len(every),
            linears=len(every) + 1,
            adapted_linears=len(every),
        ),
        rank_classes=classes,
        matches={"linear_fc2": 1, "linear_proj": 1},
        unmatched_targets=(),
        findings=findings,
    )


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (10 * 1024**2, "10.0 MiB"),
        (3 * 1024**4, "3.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_sizes(num_bytes: int, shown: str) -> None:
    assert size(num_bytes) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(999, "999"), (1000, "1.0 K"), (999_950, "1.0 M"), (41_943_040, "41.9 M"), (671_026_419_200, "671.0 B")],
)
def test_short_counts(number: int, shown: str) -> None:
    assert short_count(number) == shown


def test_ranks_that_differ_are_a_range_and_never_a_mean() -> None:
    assert spread([3, 1, 2], str, UNICODE.dash) == "1 \u2013 3"
    assert spread([2, 2], str, UNICODE.dash) == "2"
    # Numbers that differ and are shown as the same text count as equal.
    assert spread([1024, 1025], size, ASCII.dash) == "1.0 KiB"


@pytest.mark.parametrize("text", ["\x1b[2J", "\r", "\x9b31m", "\u202egnp.exe", "\u2028", "\x7f", "\x00"])
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    clean = harmless(f"a{text}b")
    assert len(clean) == len(text) + 2
    assert clean.replace("\ufffd", "").isprintable()


def test_a_name_cannot_add_lines_or_colours() -> None:
    evil = "linear\n_proj\x1b[31m"
    plan = job_plan(
        (placement(0, f"mlp.{evil}"),), job=evil, skipped=(skip(f"decoder.{evil}", None, Fate.NOT_ADAPTABLE),)
    )
    harmless_lines = render(
        job_plan((placement(0, "mlp.x"),), skipped=(skip("decoder.x", None, Fate.NOT_ADAPTABLE),))
    ).count("\n")
    for view in (View(), View(expand=True)):
        out = render(plan, view=view)
        assert "\x1b" not in out
        assert out.count("\n") == harmless_lines


def test_colour_is_only_ever_beside_a_word() -> None:
    finding = Finding(code="CL107", name="empty-plan", severity=Severity.ERROR, message="nothing", help="do something")
    plan = job_plan((placement(0),), findings=(finding,))
    coloured = render(plan, Look(color=True))
    assert "\x1b[31mCL107 error empty-plan: nothing\x1b[0m" in coloured
    for style in Style:
        coloured = coloured.replace(f"\x1b[{style}m", "")
    assert coloured.replace("\x1b[0m", "") == render(plan)


def test_ascii_is_ascii() -> None:
    assert render(job_plan((placement(0),), (placement(1), placement(2))), Look(glyphs=ASCII)).isascii()


def test_findings_alone() -> None:
    alike = [
        Finding(code="CL101", name="unmatched-target", severity=Severity.INFO, message=f'"{name}" no', help="try x")
        for name in "ab"
    ]
    assert render(job_plan((placement(0),), findings=tuple(alike)), view=View(findings_only=True)) == (
        'CL101 info unmatched-target: "a" no · "b" no\n   = try x\n'
    )
    assert render(job_plan((placement(0),)), view=View(findings_only=True)) == ""


def test_tables_align_and_leave_out_what_matters_least() -> None:
    columns = [Column("name"), Column("extra", spare=1), Column("n", right=True)]
    lines = [Line(("a title over the whole width",)), Line(("x", "something long", "7")), Line(("longer", "", "12"))]
    assert table(columns, lines, Look()) == [
        "  name     extra             n",
        "  a title over the whole width",
        "  x        something long    7",
        "  longer                    12",
    ]
    assert table(columns, lines, Look(width=20))[2:] == ["  x         7", "  longer   12"]
    # A column with `spare=0` stays on the narrowest terminal.
    assert table(columns, lines, Look(width=3))[3] == "  longer   12"


def test_text_is_wrapped_for_a_terminal_and_never_for_a_pipe() -> None:
    plan = job_plan((placement(0),))
    narrow = render(plan, Look(width=80))
    paragraphs = [line for line in narrow.splitlines() if not line.startswith("  trainable params")]
    assert max(map(len, paragraphs)) <= 80
    assert max(map(len, render(plan).splitlines())) > 120


def test_the_trainable_line_counts_adapters_among_all() -> None:
    plan = job_plan((placement(0),))
    assert trainable(plan) == "trainable params: 1,024 || all params: 10,024 || trainable%: 10.2155"


def test_stages_that_agree_share_a_line() -> None:
    stages = [(placement(0), placement(1)), (placement(2), placement(3)), (placement(4),), ()]
    assert stage_lines(job_plan(*stages), UNICODE) == [
        "pp0..pp1 · 2 layers each, {0..3} · 2 adapters each · 2,048 params per rank · ranks 0..3",
        "pp2 · layer 4 · 1 adapter · 1,024 params per rank · ranks 4..5",
        "pp3 · no layers · 0 adapters · 0 params per rank · ranks 6..7",
    ]


def test_cost_per_rank_says_what_was_assumed() -> None:
    said = summary(job_plan((placement(0),), (placement(1), placement(2))), UNICODE)
    assert ("", WITHOUT_PEAK) in said
    paragraphs = dict(said)
    assert paragraphs["adapters, per rank"] == (
        "1,024 \u2013 2,048 params · 2.0 KiB \u2013 4.0 KiB weights · 4.0 KiB \u2013 8.0 KiB gradients · 12.0 KiB \u2013 24.0 KiB Adam states"
    )
    assert paragraphs["base, per rank"].startswith(
        "1,000 \u2013 2,000 params · 2.0 KiB \u2013 3.9 KiB weights (bfloat16)"
    )
    assert paragraphs["note"] == "half of it is missing"
    assert memory.weight_bytes(10, "torch.float32") == 40
    assert memory.weight_bytes(10, "bfloat16") == 20


def test_coverage_is_full_only_when_it_is() -> None:
    placements = tuple(placement(layer) for layer in range(3000))
    coverage = dict(summary(job_plan(placements), UNICODE))["coverage"]
    assert coverage == "3,000 of 3,001 decoder linears (99.9 %)"


def test_what_is_left_alone_is_named_with_its_reason() -> None:
    skipped = (
        skip("embedding.word_embeddings", None, Fate.NOT_ADAPTABLE),
        skip("decoder.layers.0.self_attention.linear_qkv", 0, Fate.UNMATCHED, linears=3),
        skip("decoder.layers.1.self_attention.linear_qkv", 1, Fate.UNMATCHED, linears=3),
        skip("decoder.layers.0.mlp.linear_fc1", 0, Fate.EXCLUDED, part="up", linears=1, by="*_up"),
        skip("decoder", None, Fate.NO_PARAMETERS),
        skip("decoder.layers.0.mlp.shared_experts", 0, Fate.NOT_ADAPTABLE, own_parameters=("gate_weight",)),
        skip("decoder.layers.1.mixer", 1, Fate.NOT_ADAPTABLE, own_parameters=("dt_bias", "A_log", "D")),
    )
    rows = [
        (row.name, row.layers, row.count, row.by) for row in unadapted_rows(job_plan((placement(0),), skipped=skipped))
    ]
    assert rows == [
        ("linear_{q,k,v}", (0, 1), 2, None),
        ("linear_fc1_up", (0,), 1, "*_up"),
        ("word_embeddings", (), 1, None),
        ("shared_experts.gate_weight", (0,), 1, None),
        ("mixer.{dt_bias,A_log,D}", (1,), 1, None),
    ]


def test_rows_stand_in_the_order_of_the_targets_and_say_which_pattern_chose_them() -> None:
    plan = job_plan(
        (placement(0), placement(0, "mlp.linear_fc2"), placement(1, "mlp.linear_fc2", target="*.1.*"), placement(2))
    )
    found = [
        (section.place, [(row.name, row.layers, row.chosen_by) for row in rows]) for section, rows in sections(plan)
    ]
    assert found == [
        (Place.ATTENTION, [("linear_proj", (0, 2), None)]),
        (Place.MLP, [("linear_fc2", (0,), None), ("linear_fc2", (1,), "*.1.*")]),
    ]


def test_ranks_of_a_section_are_a_range() -> None:
    plan = job_plan(
        (
            placement(0, rank=8),
            placement(1, "mlp.shared_experts.linear_fc2", rank=4),
            placement(2, "mlp.shared_experts.linear_fc2", rank=8),
        )
    )
    out = render(plan)
    assert "shared experts · rank 4 \u2013 8" in out
    assert "attention · rank 8" in out
