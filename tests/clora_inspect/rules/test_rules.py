"""Every rule fires where it should and keeps silent where it should; and which ones fire on the
built-in models as they are.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import msgspec
import pytest
from rule_cases import (
    ATTENTION,
    BRIDGE,
    CASES,
    DENSE,
    FIXED,
    HYBRID,
    MLA,
    MOE,
    NEXT,
    SEQUENTIAL,
    UNTIED,
    Case,
    Setup,
    planned,
    targets,
)

from clora import CanonicalLoRA
from clora.errors import LoRAConfigError
from clora_inspect.job.finding import Location, Severity
from clora_inspect.job.place import Place
from clora_inspect.rules import all_rules, run_rules
from clora_inspect.rules.base import FAMILIES, Needs, Rule, RuleSettingsError
from clora_inspect.rules.environment import TransformerEngineMissing, UntestedVersion
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.selection import Selection, UnknownRuleError
from clora_inspect.rules.target_reading import by_target
from clora_inspect.sources import architectures

if TYPE_CHECKING:
    from pathlib import Path

HEAD = {"target_modules": ["output_layer"]}
UNTIED_MOE = (MOE[0], {**MOE[1], "share_embeddings_and_output_weights": False})
RULES = {rule.code: rule for rule in all_rules()}
OWN_TEST = {"CL801", "CL802"}
"""Rules about the environment, which no model can show."""


def found(code: str, job: PlannedJob) -> list[str]:
    return [finding.message for finding in RULES[code]().check(job)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_fires(case: Case) -> None:
    messages = found(case.code, case.fires.job())
    assert any(case.says in message for message in messages), messages


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_keeps_silent(case: Case) -> None:
    assert found(case.code, case.silent.job()) == []


@pytest.mark.parametrize(
    "case", [case for case in CASES if RULES[case.code].reference_only], ids=lambda case: case.code
)
def test_rules_of_the_reference_do_not_run_for_our_own_jobs(case: Case) -> None:
    job = case.fires.job(implementation="clora")
    assert case.code not in {finding.code for finding in run_rules(job)}


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if RULES[case.code].reference_only and case.code not in ("CL118", "CL314")],
    ids=lambda case: case.code,
)
def test_rules_of_the_reference_keep_silent_where_it_is_fixed(case: Case) -> None:
    assert found(case.code, case.fires.job(**FIXED)) == []


def test_every_rule_that_looks_at_a_plan_has_a_case() -> None:
    looking = {
        code for code, rule in RULES.items() if rule.needs is Needs.PLAN and not code.startswith(("CL5", "CL7", "CL9"))
    }
    assert looking - OWN_TEST == {case.code for case in CASES}


def test_there_are_forty_rules_that_can_fire() -> None:
    assert sum(rule.needs is Needs.PLAN for rule in RULES.values()) >= 40


# Findings about the built-in models with the default list, and why each is right.
DEFAULTS = {
    # No linear_qkv in multi-latent attention: three targets match nothing, and its own projections
    # stay out.
    "deepseek-v2-lite": {"CL101", "CL108", "CL111"},
    # The same, and the expert bias goes on moving.
    "deepseek-v3": {"CL101", "CL108", "CL111", "CL410"},
    "kimi-k2": {"CL101", "CL108", "CL111", "CL410"},
    # No gate.
    "nemotron-4-15b": {"CL101", "CL108"},
    # No gate, and 24 Mamba layers that the list has no name for.
    "nemotron-h-8b": {"CL101", "CL108", "CL112"},
    # 36 of 48 layers are gated delta nets.
    "qwen3-next-80b-a3b": {"CL108", "CL112"},
}


@pytest.mark.parametrize("name", architectures.names())
def test_built_in_models_as_they_are(name: str) -> None:
    findings = run_rules(PlannedJob(planned(name, (), (), ())))
    assert {finding.code for finding in findings} == DEFAULTS.get(name, {"CL108"})
    assert Severity.ERROR not in {finding.severity for finding in findings}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_has_a_page(rule: type[Rule]) -> None:
    page = rule.page()
    assert rule.code[:3] in FAMILIES
    assert rule.family == FAMILIES[rule.code[:3]]
    assert re.fullmatch(r"CL\d{3}", rule.code)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
    assert "Bad:" in page
    assert "Good:" in page
    assert len(page) > 120
    assert inspect.getdoc(rule) == page


def test_codes_and_names_are_used_once() -> None:
    rules = all_rules()
    assert len({rule.code for rule in rules}) == len({rule.name for rule in rules}) == len(rules)


def test_te_is_told_missing_to_who_trains_with_the_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = Setup().job(**BRIDGE)
    installed = tmp_path / "transformer_engine-2.12.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: transformer-engine\nVersion: 2.12.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(TransformerEngineMissing().check(job)) == []
    monkeypatch.undo()
    if not _is_installed("transformer-engine"):
        assert "not installed" in found("CL801", job)[0]


def test_an_untested_release_is_told() -> None:
    plan = Setup().job().plan
    assert list(UntestedVersion().check(PlannedJob(plan))) == []
    newer = msgspec.structs.replace(plan, versions={**plan.versions, "megatron-core": "0.21.0", "torch": "3.0.1"})
    assert [finding.message for finding in UntestedVersion().check(PlannedJob(newer))] == [
        "the plan was made with megatron-core 0.21.0, and this release was tested with 0.16.* to 0.20.*",
        "the plan was made with torch 3.0.1, and this release was tested with 2.*",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, True, "0.5", 1e30])
def test_a_number_of_a_rule_is_one(value: object) -> None:
    numbers = [
        (rule, name)
        for rule in all_rules()
        for name in rule.settings.__struct_encode_fields__
        if float in get_args(get_type_hints(rule.settings)[name.replace("-", "_")])
        or get_type_hints(rule.settings)[name.replace("-", "_")] is float
    ]
    assert len(numbers) >= 8
    for rule, name in numbers:
        with pytest.raises(RuleSettingsError, match=name):
            rule.read_settings({name: value}, rule.settings)


@pytest.mark.parametrize(
    ("release", "fields", "fires"),
    [
        ("0.18.2", {"recompute_method": "uniform", "recompute_num_layers": 1}, True),
        ("0.18.2", {"recompute_method": "block", "recompute_num_layers": 1}, True),
        ("0.18.2", {"recompute_granularity": "selective"}, False),
        ("0.18.2", {"mtp_num_layers": None}, False),
        ("0.17.1", {"recompute_method": "uniform", "recompute_num_layers": 1}, False),
        ("0.19.0", {"recompute_method": "block", "recompute_num_layers": 1}, False),
    ],
)
def test_prediction_layers_are_not_recomputed_in_full_in_one_series(
    release: str, fields: dict[str, Any], fires: bool
) -> None:
    plan = Setup((UNTIED[0], {**UNTIED[1], "mtp_num_layers": 1})).job().plan
    config = {**plan.model.config, "recompute_granularity": "full", **fields}
    plan = msgspec.structs.replace(
        plan,
        versions={**plan.versions, "megatron-core": release},
        model=msgspec.structs.replace(plan.model, config=config),
    )
    assert [release in message for message in found("CL327", PlannedJob(plan))] == [True] * fires


def test_the_reference_loses_parts_at_overlaps() -> None:
    case = Setup(lora={"target_modules": ["*.layers.0.*.linear_q", "linear_v"]})
    [finding] = [one for one in run_rules(case.job(**BRIDGE)) if one.code == "CL103"]
    assert finding.severity is Severity.ERROR
    assert finding.details == ("decoder.layers.0.self_attention.linear_qkv[v]",)
    assert [one for one in run_rules(case.job(**FIXED)) if one.code == "CL103"] == []


def test_partial_targets_are_an_error_only_where_the_reference_crashes() -> None:
    setup = Setup(lora={"target_modules": ["linear_q", "linear_v"]})
    severities = [
        [one.severity for one in run_rules(setup.job(**options)) if one.code == "CL104"]
        for options in ({}, BRIDGE, FIXED)
    ]
    assert severities == [[Severity.INFO], [Severity.ERROR], [Severity.INFO]]


@pytest.mark.parametrize(
    ("names", "lacks"),
    [
        (["linear_fc1_gate", "linear_fc2"], ["linear_fc1_up"]),
        (["linear_fc2"], ["linear_fc1_gate, linear_fc1_up"]),
        (["linear_fc1_gate", "linear_fc1_up", "linear_fc2"], []),
        (
            ["*.layers.0.*.linear_fc2", "*.layers.1.*.linear_fc1_up"],
            ["linear_fc1_gate, linear_fc1_up", "linear_fc1_gate, linear_fc2"],
        ),
    ],
)
def test_an_engine_wants_every_projection_of_the_experts(names: list[str], lacks: list[str]) -> None:
    job = Setup(SEQUENTIAL, {"target_modules": names}).job(serve="sglang")
    assert [re.findall(r"none at (.+): SGLang", message)[0] for message in found("CL606", job)] == lacks


def test_an_adapter_of_the_head_is_an_error_only_where_the_engine_is_known_to_refuse_it() -> None:
    severities = {
        model[0]: [one.severity for one in run_rules(Setup(model, HEAD).job(serve="vllm")) if one.code == "CL613"]
        for model in (UNTIED, UNTIED_MOE, MLA)
    }
    assert list(severities.values()) == [[Severity.ERROR], [], [Severity.WARNING]]


@pytest.mark.parametrize(
    ("model", "options", "fix"),
    [
        (HYBRID, {}, "to adapt them add: in_proj, out_proj"),
        (
            HYBRID,
            {"export": True},
            "to adapt them add: in_proj (adapters of out_proj cannot be exported unmerged)",
        ),
        (HYBRID, {"serve": "sglang"}, "none: adapters of in_proj, out_proj cannot be served unmerged"),
        (NEXT, {"export": True}, "to adapt them add: out_proj (adapters of in_proj cannot be exported unmerged)"),
        (MLA, {"serve": "vllm"}, "write: linear_q_proj, linear_kv_down_proj"),
        (MLA, {"export": True}, "write: linear_q_proj, linear_kv_down_proj, linear_kv_up_proj"),
    ],
)
def test_no_rule_proposes_a_target_that_another_one_refuses(
    model: tuple[str, dict[str, Any]], options: dict[str, Any], fix: str
) -> None:
    """CL603 and CL609 accept the targets that CL111 and CL112 tell to add."""
    job = Setup(model).job(**options)
    helps = {one.help for one in run_rules(job) if one.code in ("CL111", "CL112")}
    assert helps == {fix}
    proposed = [name for name in re.split(r"[:,(] ?", fix.partition(":")[2].partition(" (")[0].strip()) if name]
    if fix.startswith("none"):
        return
    after = Setup(model, {"target_modules": [name.strip() for name in proposed]}).job(**options)
    assert not [one for one in run_rules(after) if one.code in ("CL603", "CL609")]


@pytest.mark.parametrize(
    ("code", "model", "excluded", "fix"),
    [
        ("CL104", DENSE, ["linear_k", "*.linear_v"], "for all of it remove from exclude_modules: linear_k, *.linear_v"),
        ("CL105", DENSE, ["*.mlp.*"], "to adapt them remove from exclude_modules: *.mlp.*"),
        ("CL112", HYBRID, ["in_proj", "out_proj"], "to adapt them remove from exclude_modules: in_proj, out_proj"),
    ],
)
def test_a_job_with_exclusions_is_not_told_to_add_targets(code: str, model: Any, excluded: list[str], fix: str) -> None:
    job = Setup(model, {"target_modules": [], "exclude_modules": excluded}).job()
    assert [finding.help for finding in run_rules(job) if finding.code == code] == [fix]


@pytest.mark.parametrize(
    ("code", "model", "lora", "fixes"),
    [
        ("CL210", DENSE, {"dim": 512, "target_modules": ["linear_q"]}, {"use dim <= 448, or leave the linear out"}),
        ("CL210", MOE, {"dim": 512, "target_modules": ["linear_k"]}, {"use dim <= 409, or leave the linear out"}),
        (
            "CL210",
            MOE,
            {"dim": 1024, "target_modules": ["linear_fc2"], "share_expert_adapters": False},
            {"use dim <= 558, or share_expert_adapters = true, or leave the linear out"},
        ),
        (
            "CL210",
            SEQUENTIAL,
            {"dim": 1024, "target_modules": ["linear_fc2"], "share_expert_adapters": False},
            {"use dim <= 558, or leave the linear out"},
        ),
        (
            "CL201",
            MOE,
            {"dim": 8192, "target_modules": ["linear_fc2"], "normalize_moe_lora": True},
            {"use dim <= 6144, or leave the linear out"},
        ),
    ],
)
def test_a_remedy_for_a_large_rank_fits_the_linear(
    code: str, model: Any, lora: dict[str, Any], fixes: set[str]
) -> None:
    """Every remedy is tried: the finding is gone after it."""
    helps = {one.help for one in run_rules(Setup(model, lora).job()) if one.code == code}
    assert helps == fixes
    for words in re.findall(r"use dim <= (\d+)|(share_expert_adapters = true)", "; ".join(helps)):
        dim, share = words
        changed = {"share_expert_adapters": True} if share else {"dim": int(dim)}
        after = run_rules(Setup(model, {**lora, **changed}).job())
        assert [one for one in after if one.code == code and one.help in helps] == []


def test_a_lora_that_can_never_learn_is_refused() -> None:
    """CL412 needs no check: no job can have it."""
    with pytest.raises(LoRAConfigError, match="zero"):
        CanonicalLoRA(lora_A_init_method="zero", lora_B_init_method="zero")


def test_a_stage_without_adapters() -> None:
    setup = Setup(lora={"target_modules": ["output_layer"]}, layout={"pp": 2})
    [message] = found("CL301", setup.job())
    assert message == "pipeline stage 0 of 2 has no adapter: 1 rank would train nothing"


def test_settings_change_what_is_found() -> None:
    setup = Setup(lora={"target_modules": ["linear_q"]})
    low = setup.job(settings={"CL105": {"minimum-coverage": 0.5}})
    assert any("minimum-coverage is 50%" in message for message in found("CL105", low))
    assert not any("minimum-coverage" in message for message in found("CL105", setup.job()))


@pytest.mark.parametrize(
    ("model", "place", "layouts"),
    [
        (DENSE, "dense MLP", [{}, {"pp": 2}, {"tp": 2, "pp": 2}]),
        (MOE, "routed experts", [{}, {"tp": 2, "ep": 4}, {"tp": 2, "ep": 4, "etp": 1}, {"pp": 2}]),
        (SEQUENTIAL, "routed experts", [{}, {"ep": 4}, {"tp": 2, "etp": 1, "ep": 4}]),
    ],
)
def test_the_share_of_a_place_is_one_whatever_is_adapted_and_on_whatever_layout(
    model: tuple[str, dict[str, Any]], place: str, layouts: list[dict[str, Any]]
) -> None:
    shares = {
        message.rpartition("adapter, ")[2]
        for names in (["linear_q"], ["linear_k", "linear_v"], ATTENTION, ["linear_proj", "output_layer"])
        for layout in layouts
        for message in found("CL105", Setup(model, targets(*names), layout).job())
        if message.startswith(place)
    }
    assert len(shares) == 1, shares


def test_the_share_is_that_of_the_decoders_weights() -> None:
    # A layer of qwen2.5-0.5b has 896 x (2 x 896 + 2 x 128) weights in attention, 3 x 896 x 4864 in
    # the MLP.
    share = 3 * 4864 / (3 * 4864 + 2 * 896 + 2 * 128)
    assert f", {share:.0%} of" in found("CL105", Setup(DENSE, targets("linear_q")).job())[0]


@pytest.mark.parametrize(
    ("written", "says"), [({"minimum-coverag": 0.5}, "minimum-coverag"), ({"minimum-share": "x"}, "float")]
)
def test_wrong_settings_are_refused(written: dict[str, object], says: str) -> None:
    with pytest.raises(RuleSettingsError, match=says) as error:
        found("CL105", Setup().job(settings={"CL105": written}))
    assert "Settings of low-coverage: minimum-share, minimum-coverage" in str(error.value)


def test_a_finding_points_at_its_target() -> None:
    place = Location(file="pyproject.toml", line=8)
    asked = []

    def location_of(key: str) -> Location:
        asked.append(key)
        return place

    [finding] = RULES["CL101"]().check(
        Setup(lora={"target_modules": ["linear_q", "linear_fc1x"]}).job(location_of=location_of)
    )
    assert finding.location == place
    assert asked == ["lora.target_modules[1]"]


def test_sizes_of_linears_are_those_of_the_model() -> None:
    """Base parameters computed from the adapters' shapes equal those in another plan's skips, for
    each place of a layer.
    """
    model = ("deepseek-v3", (("num_layers", 4), ("num_moe_experts", 16)))
    layout = (("tp", 2), ("ep", 4))
    everything = planned(*model, (("target_modules", ()),), layout)
    nothing = planned(*model, (("target_modules", ("output_layer",)),), layout)

    def sizes(plan: object) -> dict[Place, int]:
        linears = PlannedJob(plan).linears  # type: ignore[arg-type]
        places = (Place.EXPERTS, Place.SHARED_EXPERTS, Place.MLP)
        return {place: sum(one.params for one in linears if one.place is place) for place in places}

    adapted, left = sizes(everything), sizes(nothing)
    assert all(left.values())
    # The dense MLP's fc1 holds its norm's weight as well, which is no linear.
    for place in adapted:
        assert adapted[place] == pytest.approx(left[place], rel=1e-3)


@pytest.mark.parametrize(
    ("select", "ignore", "extend", "runs", "rests"),
    [
        (("CL1",), (), (), {"CL101", "CL107"}, {"CL201", "CL701"}),
        (("CL",), ("CL1",), (), {"CL201"}, {"CL101"}),
        (("CL",), ("CL1",), ("CL101",), {"CL101", "CL201"}, {"CL102"}),
        (("CL1",), ("unmatched-target",), (), {"CL102"}, {"CL101"}),
        (("CL101",), ("CL1",), (), {"CL101"}, {"CL102"}),
        (("cl101",), ("CL101",), (), set(), {"CL101"}),
    ],
)
def test_the_more_exact_selector_wins(
    select: tuple[str, ...], ignore: tuple[str, ...], extend: tuple[str, ...], runs: set[str], rests: set[str]
) -> None:
    codes = Selection(select, ignore, extend).codes(all_rules())
    assert runs <= codes
    assert not rests & codes


@pytest.mark.parametrize(
    ("word", "near"), [("CL10l", "CL10"), ("unmatched-targt", "unmatched-target"), ("", "Codes are like")]
)
def test_a_selector_that_names_no_rule(word: str, near: str) -> None:
    with pytest.raises(UnknownRuleError, match=near):
        Selection(select=(word,)).codes(all_rules())


def test_rules_run_without_torch_and_megatron(tmp_path: object) -> None:
    """A warm check imports neither: a plan comes from a file, and rules look at it."""
    from clora_inspect.job.plan import encode

    path = f"{tmp_path}/plan.json"
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(encode(planned(*Setup().model[:1], (("num_layers", 4),), (), ())))
    script = (
        "import sys; from pathlib import Path; from clora_inspect.job.plan import load; from clora_inspect.rules import run_rules; "
        "from clora_inspect.rules.planned_job import PlannedJob; "
        f"print(len(run_rules(PlannedJob(load(Path({path!r})), implementation='megatron-bridge', serve='vllm')))); "
        "print(sorted({'torch', 'megatron', 'networkx', 'rich'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    count, imported = ran.stdout.splitlines()
    assert int(count) > 0
    assert imported == "[]"


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def test_pairs_of_overlapping_targets_are_counted_up_to_a_bound() -> None:
    linears = [SimpleNamespace(names=(f"decoder.layers.{number}.mlp.linear_fc2",)) for number in range(8)]
    targets = [f"*.{{0..{number}}}.*" for number in range(300)]
    selections = by_target(targets, linears)  # type: ignore[arg-type]
    assert len(selections.overlaps(most=50)) == 50
    # 300 targets have 44,850 pairs, and all of them select layer 0.
    assert len(selections.overlaps(most=1_000_000)) == 44_850


@pytest.mark.parametrize(
    ("model", "config", "bypassing", "place", "option"),
    [
        # Trainers fuse the dense MLPs of a config that asks for it. The field exists from 0.18.
        (DENSE, {"use_transformer_engine_op_fuser": True}, None, "mlp.linear_fc2", "use_transformer_engine_op_fuser"),
        (
            MOE,
            {},
            {"TEGroupedMLP": "use_transformer_engine_op_fuser"},
            "mlp.experts.linear_fc2",
            "use_transformer_engine_op_fuser",
        ),
        (MOE, {"use_transformer_engine_op_fuser": True}, None, None, None),
    ],
    ids=["dense by a trainer", "experts", "experts of an older release"],
)
def test_fused_linears_are_found_by_what_the_release_fuses(
    model: Any, config: dict[str, Any], bypassing: dict[str, str] | None, place: str | None, option: str | None
) -> None:
    job = Setup(model, targets("linear_fc2", "linear_proj")).job()
    record = msgspec.structs.replace(
        job.plan.model, config={**(job.plan.model.config or {}), **config}, bypassing=bypassing
    )
    job = dataclasses.replace(job, plan=msgspec.structs.replace(job.plan, model=record))
    found = [finding for finding in run_rules(job) if finding.code == "CL416"]
    assert len(found) == bool(option)
    for finding in found:
        assert f"{place} is in a " in finding.message
        assert "linear_proj" not in finding.message
        assert finding.help == f"build the model with {option} = false"
