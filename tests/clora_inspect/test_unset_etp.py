"""An etp that is not set is tp, as in megatron-core, wherever a job comes from. It is shown with
its source, and a model without experts knows nothing of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from clora import CanonicalLoRA
from clora.errors import LayoutError
from clora_inspect.cli import main
from clora_inspect.config.jobs import ad_hoc_job, configured_jobs, layout_of
from clora_inspect.config.load import load
from clora_inspect.config.provenance import values
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.pipeline import plan_job
from clora_inspect.rules import reference
from clora_inspect.snapshot import record
from clora_inspect.tui.job.plan_request import request_of, request_of_plan
from clora_inspect.tui.job.what_if_form import draft_of, request_from

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan

EXPERTS = ["linear_q", "linear_fc1_gate", "linear_fc1_up", "linear_fc2"]
SMALL = {"num_layers": 1, "vocab_size": 1024}
UNSET = "unset: megatron-core takes tp"

FUNCTION = """
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
from megatron.core.transformer import TransformerConfig

def model(layout, experts):
    config = TransformerConfig(
        num_layers=1, hidden_size=64, num_attention_heads=4, num_moe_experts=experts, moe_grouped_gemm=bool(experts),
        add_bias_linear=False, tensor_model_parallel_size=layout.tp, expert_tensor_parallel_size=layout.etp,
        expert_model_parallel_size=layout.ep, sequence_parallel=layout.sequence_parallel,
    )
    spec = get_gpt_layer_with_transformer_engine_spec(experts, bool(experts))
    return GPTModel(config, spec, vocab_size=128, max_sequence_length=64)

def dense(layout):
    return model(layout, None)

def mixture(layout):
    return model(layout, 4)
"""


def planned(model: str, layout: Layout, **overrides: int) -> JobPlan:
    lora = CanonicalLoRA(dim=16, target_modules=EXPERTS)
    return plan_job(Job(model=model, lora=lora, layout=layout, model_overrides=overrides))


def test_mixtral_on_four_tensor_parallel_ranks_is_what_megatron_core_builds() -> None:
    plan = planned("mixtral-8x7b", Layout(tp=4))
    (ranks,) = plan.rank_classes
    assert ranks.base_params == 11_676_684_288
    fc1 = next(one for one in ranks.placements if one.module.endswith("experts.linear_fc1"))
    assert (fc1.a_shape, fc1.b_shape) == ((4, 4096), (7168, 16))
    assert plan.layout.etp == 4
    assert plan.model.notes is not None
    assert any(f"etp 4 ({UNSET})" in note for note in plan.model.notes)


def test_the_world_holds_the_experts_axes() -> None:
    assert planned("qwen3-30b-a3b", Layout(tp=2, ep=4), **SMALL).layout.world == 8
    with pytest.raises(LayoutError, match=rf"etp2 \({UNSET}\): it must be a multiple of .* = 8"):
        Layout(tp=2, ep=4, world_size=4)


@pytest.mark.parametrize(
    ("model", "fields", "written", "label"),
    [
        ("mixtral-8x7b", SMALL, Layout(tp=4, etp=4), "tp4 etp4 sp"),
        ("qwen3-30b-a3b", SMALL, Layout(tp=2, ep=4, etp=2), "tp2 ep4 etp2 sp"),
        # Nothing is split in a model without experts, and the label is the one it always had.
        ("llama3-8b", SMALL, Layout(tp=4, etp=1), "tp4 sp"),
        ("nemotron-h-8b", {}, Layout(tp=4, etp=1), "tp4 sp"),
    ],
)
def test_left_out_is_the_same_job_as_written(model: str, fields: dict[str, int], written: Layout, label: str) -> None:
    unset = Layout(tp=written.tp, ep=written.ep)
    plans = [planned(model, layout, **fields) for layout in (unset, written)]
    assert [plan.layout for plan in plans] == [written.resolved()] * 2
    assert [plan.layout.label for plan in plans] == [label] * 2
    assert record.encode(record.take(plans[0], "job")) == record.encode(record.take(plans[1], "job"))
    names = [ad_hoc_job(Job(model=model, layout=layout)).layout_name for layout in (unset, written)]
    assert names == [label.replace(" ", "-")] * 2


def test_etp_1_keeps_the_label_that_it_had() -> None:
    assert planned("qwen3-30b-a3b", Layout(tp=2, ep=4, etp=1), **SMALL).layout.label == "tp2 ep4 sp"


def test_a_layout_that_cannot_be_says_that_nobody_wrote_it() -> None:
    with pytest.raises(LayoutError, match=rf"etp = 2 \({UNSET}\).*--etp 1"):
        planned("gpt-oss-20b", Layout(tp=2), **SMALL)
    assert planned("gpt-oss-20b", Layout(tp=2, etp=1), **SMALL).layout.etp == 1


@pytest.mark.parametrize(("function", "etp"), [("dense", 1), ("mixture", 2)])
def test_a_functions_model_tells_whether_it_has_experts(tmp_path: Path, function: str, etp: int) -> None:
    path = tmp_path / "models.py"
    path.write_text(FUNCTION)
    plan = planned(f"{path}:{function}", Layout(tp=2))
    assert plan.layout.etp == etp
    assert bool(plan.model.notes) is (etp == 2)


def test_the_configuration_shows_it_where_there_is_something_to_split(tmp_path: Path) -> None:
    path = tmp_path / "clora-inspect.toml"
    layouts = "{ left = { tp = 4 }, one = { tp = 4, etp = 1 }, narrow = { ep = 2 } }"
    path.write_text(
        "".join(
            f"[jobs.{name}]\nmodel = '{model}'\nlayouts = {layouts}\n"
            for name, model in (("moe", "mixtral-8x7b"), ("dense", "llama3-8b"))
        )
    )
    shown = {value.key: (value.value, value.origin) for value in values(load(tmp_path)) if value.key.endswith("etp")}
    assert shown == {
        "jobs.moe.layouts.left.etp": (4, f"default ({UNSET})"),
        "jobs.moe.layouts.one.etp": (1, "clora-inspect.toml:3"),
        "jobs.dense.layouts.one.etp": (1, "clora-inspect.toml:6"),
    }
    axes = [job.axes for job in configured_jobs(load(tmp_path), ["moe"])]
    assert axes == [f"tp4 etp4 ({UNSET}) sp", "tp4 sp", "ep2"]


def test_the_form_leaves_it_unset() -> None:
    request = request_of(Job(model="mixtral-8x7b", layout=Layout(tp=2)))
    draft = draft_of(request)
    assert draft.etp == ""
    assert request_from(replace(draft, tp="4"), request).layout.expert_tp == 4
    assert request_from(replace(draft, etp="1"), request).layout.etp == 1
    # A saved plan keeps what it says; of a dense one nothing is asked.
    assert request_of_plan(planned("mixtral-8x7b", Layout(tp=2), **SMALL)).layout.etp == 2
    assert request_of_plan(planned("llama3-8b", Layout(tp=2), **SMALL)).layout.etp is None


NEWER = """
def finalize(config):
    if config.expert_tensor_parallel_size is None and config.expert_model_parallel_size > 1:
        config.expert_tensor_parallel_size = 1
"""


@pytest.mark.parametrize(
    ("source", "layout", "etp"),
    [
        (NEWER, Layout(tp=2, ep=4), 1),
        # Where ep is 1 it leaves the choice to megatron-core.
        (NEWER, Layout(tp=2), 2),
        (NEWER, Layout(tp=2, ep=4, etp=2), 2),
        ("def finalize(config):\n    config.validate()\n", Layout(tp=2, ep=4), 2),
        (None, Layout(tp=2, ep=4), 2),
    ],
)
def test_the_reference_follows_the_rule_of_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, layout: Layout, etp: int
) -> None:
    (tmp_path / "peft").mkdir()
    if source is not None:
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "transformer_config.py").write_text(source)
    monkeypatch.setattr(reference, "installed", lambda: reference.probed("0.6.0", tmp_path / "peft"))
    assert layout_of(layout, "megatron-bridge").expert_tp == etp
    assert layout_of(layout, "clora") == layout


def test_the_table_of_a_check_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["check", "mixtral-8x7b", "--isolated", "--no-snapshot", "--no-cache", "--set", "model.num_layers=1"]
    assert main([*words, "--tp", "4", "--ep", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [row] = [number for number, line in enumerate(lines) if "etp4*" in line]
    assert lines[row + 1] == f"  * {UNSET}"
    assert max(map(len, lines[row - 1 : row + 2])) <= 100
    assert main([*words, "--tp", "4", "--ep", "2", "--etp", "4"]) == 0
    assert UNSET not in capsys.readouterr().out
