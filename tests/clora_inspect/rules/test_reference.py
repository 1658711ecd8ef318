"""Probes of an installed Megatron-Bridge's source for its faults. The sources here are ours,
with the shapes of the original's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from rule_cases import MLA, MLP, MOE, Setup, bridge, targets

from clora_inspect.bridge.installed import find
from clora_inspect.rules import run_rules
from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.reference import ANY_RELEASE, HISTORIES, RUN, Fault, faults_of, installed, probed, released
from clora_inspect.rules.selection import Selection

if TYPE_CHECKING:
    from pathlib import Path

FAULTY = {
    "utils": '''
def wildcard_match(pattern, key):
    """Does not escape the dots of the pattern."""
    regex = re.compile("^" + pattern.replace("*", "(.*)") + "$")
    return regex.match(key)
''',
    "canonical_lora": '''
class LoRALinearSplitQKV(AdapterWrapper):
    """For attention with gated_linear_unit or attention_output_gate there is nothing here."""

    def _interleave_qkv(self, query, key, value):
        return query.view(self.config.num_attention_heads, -1)

    def forward(self, x):
        return self.adapter.adapter_q(x) + self.adapter.adapter_k(x)
''',
}
FIXED = {
    "utils": """
def wildcard_match(pattern, key):
    return re.match("^" + re.escape(pattern).replace(r"\\*", ".*") + "$", key)
""",
    "canonical_lora": """
class LoRALinearSplitQKV(AdapterWrapper):
    def _interleave_qkv(self, query, key, value):
        heads = self.config.num_attention_heads // self.config.tensor_model_parallel_size
        return query.view(heads, -1)

    def forward(self, x):
        adapters = [self.adapter.adapter_q, self.adapter.adapter_k]
        return sum(adapter(x) for adapter in adapters if adapter is not None)


def transform(module):
    gate = getattr(module.config, "attention_output_gate", False)
    return gate and module.config.gated_linear_unit
""",
}
READ_FROM_SOURCE = {
    Fault.REGEX_WILDCARDS,
    Fault.PARTIAL_CRASHES,
    Fault.NO_OUTPUT_GATE,
    Fault.SPLITS_UNGATED,
    Fault.GROUPS_BELOW_TP,
    Fault.ODD_TOKENS,
}
BEFORE_4 = {Fault.SPLITS_EXPERTS, Fault.ROUTER_CRASHES, Fault.LEAKS_PATTERNS}
BEFORE_5_1 = {Fault.DRIFTING_EXPERTS}
BEFORE_6 = {Fault.UNSYNCHRONISED_EXPERTS}
FROM_6 = {Fault.QK_CLIP_LOST, Fault.META_EXPERTS}


def written(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_faults_are_seen_in_the_source(tmp_path: Path) -> None:
    """A name in a docstring or a comment does not count as used."""
    assert probed("0.3.1", written(tmp_path, FAULTY)).faults == faults_of("0.3.1")


def test_mended_faults_are_seen_in_the_source(tmp_path: Path) -> None:
    assert faults_of("0.3.1") - probed("0.3.1", written(tmp_path, FIXED)).faults == READ_FROM_SOURCE


@pytest.mark.parametrize(
    ("version", "has", "has_not"),
    [
        ("0.2.2", {Fault.SPLITS_EXPERTS}, {Fault.ROUTER_CRASHES, Fault.EXPERT_GROUP, *FROM_6}),
        ("0.3.1", {*BEFORE_4, *BEFORE_5_1, *BEFORE_6}, {Fault.EXPERT_GROUP, Fault.EXPERT_EXPORT, *FROM_6}),
        ("0.4", BEFORE_5_1, BEFORE_4),
        ("0.4.2", {*BEFORE_5_1, *BEFORE_6, Fault.UNMATCHED_IS_SILENT}, {*BEFORE_4, Fault.EXPERT_GROUP}),
        ("0.5.0", {*BEFORE_5_1, Fault.EXPERT_GROUP, Fault.EXPERT_EXPORT}, {Fault.EXPERT_AXIS}),
        ("0.5.1", {*BEFORE_6, Fault.EXPERT_GROUP, Fault.EXPERT_AXIS}, {*BEFORE_5_1, *FROM_6}),
        ("0.6.0", {*FROM_6, Fault.FUSED_GRADIENTS}, {*BEFORE_6, Fault.EXPERT_GROUP}),
        ("0.6.0rc1", FROM_6, BEFORE_6),
        ("0.10.2+abc", FROM_6, BEFORE_6),
        ("1.0", {*FROM_6, Fault.PARTIAL_CRASHES}, BEFORE_6),
    ],
)
def test_faults_go_by_release(version: str, has: set[Fault], has_not: set[Fault]) -> None:
    assert has <= faults_of(version)
    assert not has_not & faults_of(version)
    assert released(version).faults == faults_of(version)


def test_a_release_that_a_history_names_was_run_or_lies_between_two_that_were() -> None:
    """The first release with a fault, and the first without it, are not later than the first that
    ran so: what lies between was read in the source.
    """
    for history in HISTORIES.values():
        seen = [history.is_in(version) for version in history.probed]
        assert True in seen, history
        if history.mended is not None:
            assert False in seen[seen.index(True) :], history


@pytest.mark.parametrize("sources", [{}, {"utils": "def (", "canonical_lora": "\x00"}], ids=["none", "broken"])
def test_a_source_that_cannot_be_read_shows_nothing_mended(tmp_path: Path, sources: dict[str, str]) -> None:
    assert probed("0.3.1", written(tmp_path, sources)).faults == faults_of("0.3.1")


def test_without_an_installed_one_all_releases_count_and_a_message_names_those_that_have_the_fault() -> None:
    reference = installed()
    if reference.version is None:
        assert reference is ANY_RELEASE
    else:
        assert reference.version in reference.label
    job = PlannedJob(None, implementation="megatron-bridge", installed_reference=ANY_RELEASE)  # type: ignore[arg-type]
    labels = {
        fault: found.label
        for fault in (Fault.REGEX_WILDCARDS, Fault.LEAKS_PATTERNS, Fault.EXPERT_GROUP, Fault.META_EXPERTS)
        if (found := job.reference_with(fault))
    }
    which = [label.partition("here; ")[2] for label in labels.values()]
    assert which == [
        "releases from 0.2 on)",
        "releases before 0.4.0)",
        "releases from 0.5.0 to before 0.6.0)",
        "releases from 0.6.0 on)",
    ]


def test_our_own_jobs_have_no_reference() -> None:
    plan: object = None
    assert PlannedJob(plan).reference is None  # type: ignore[arg-type]
    assert PlannedJob(plan, implementation="megatron-bridge").reference == installed()  # type: ignore[arg-type]


def test_a_job_that_names_a_release_is_judged_by_it() -> None:
    job = PlannedJob(None, implementation="megatron-bridge", bridge_release="0.5.1")  # type: ignore[arg-type]
    assert job.reference == released("0.5.1")
    assert job.reference_with(Fault.ROUTER_CRASHES) is None
    found = job.reference_with(Fault.EXPERT_GROUP)
    assert found is not None
    assert found.label == "Megatron-Bridge 0.5.1"
    assert not released("0.5.1").sets_etp
    assert released("0.6.0").sets_etp


BY_RELEASE: list[tuple[str, str, Setup, dict[str, str]]] = [
    # code, part of the message, job, and release -> severity where the rule finds it
    ("CL409", "fails with a TypeError", Setup(MOE, targets("router")), {"0.3.1": "error"}),
    ("CL305", "starts 2 different pairs", Setup(MOE, targets(*MLP), {"ep": 2}), dict.fromkeys(RUN[:3], "warning")),
    ("CL305", "drift apart", Setup(MOE, targets(*MLP), {"ep": 2}), {"0.6.0": "warning", "0.7.0": "warning"}),
    (
        "CL304",
        "over the wrong ranks",
        Setup(MOE, targets(*MLP, share_expert_adapters=False), {"tp": 2, "etp": 1}),
        {"0.5.1": "error"},
    ),
    ("CL314", "meta device", Setup(MOE, targets(*MLP), {"ep": 2}), {"0.6.0": "info", "0.7.0": "info"}),
    (
        "CL417",
        "clips nothing",
        Setup((MLA[0], {**MLA[1], "qk_clip": True}), targets("linear_kv_up_proj")),
        {"0.6.0": "error", "0.7.0": "error"},
    ),
    (
        "CL417",
        "do not have",
        Setup((MLA[0], {**MLA[1], "qk_clip": True}), targets("linear_kv_up_proj")),
        {"0.3.1": "error", "0.4.2": "error", "0.5.1": "error"},
    ),
    ("CL417", "qk_clip", Setup((MLA[0], {**MLA[1], "qk_clip": True}), targets("linear_fc2")), {}),
    (
        "CL604",
        "writes none itself",
        Setup(lora=targets("*.layers.0.*.linear_proj"), options={"export": True}),
        {"0.3.1": "error"},
    ),
    (
        "CL612",
        "in the wrong order",
        Setup(MOE, targets(*MLP), {"etp": 2}, {"export": True}),
        {"0.5.1": "error", "0.6.0": "error", "0.7.0": "error"},
    ),
    ("CL118", "by its own name", Setup(lora=targets("*.mlp.linear_fc*")), dict.fromkeys(RUN, "error")),
    ("CL104", "fails in its forward", Setup(lora=targets("linear_q", "linear_v")), dict.fromkeys(RUN, "error")),
]


@pytest.mark.parametrize(("code", "told", "setup", "severities"), BY_RELEASE, ids=lambda value: str(value)[:30])
def test_a_rule_finds_what_the_release_of_the_job_has(
    code: str, told: str, setup: Setup, severities: dict[str, str]
) -> None:
    """A job names its release, which need not be installed."""
    here = {}
    for release in RUN:
        findings = run_rules(setup.job(**bridge(release)), Selection(select=(code,)))
        hit = [finding for finding in findings if told in finding.message]
        if hit:
            here[release] = hit[0].severity.value
        assert all(f"Megatron-Bridge {release}" in finding.message for finding in hit)
    assert here == severities


def test_pairs_stay_equal_without_fused_gradients() -> None:
    job = Setup((MOE[0], {**MOE[1], "gradient_accumulation_fusion": False}), targets(*MLP), {"ep": 2})
    assert not run_rules(job.job(**bridge("0.6.0")), Selection(select=("CL305",)))


def test_a_source_tree_on_the_import_path_is_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have Megatron-Bridge as source, without the metadata of a distribution."""
    folder = tmp_path / "megatron" / "bridge"
    (folder / "peft").mkdir(parents=True)
    info = 'MAJOR = 0\nMINOR = 6\nPATCH = 3\nPRE_RELEASE = "rc1"\nVERSION = (MAJOR, MINOR)\n'
    (folder / "package_info.py").write_text(info)
    written(folder / "peft", FIXED)
    before = find()
    monkeypatch.syspath_prepend(tmp_path)
    here = find()
    if before is None:
        assert (here.release, here.folder) == ("0.6.3rc1", folder)
        assert Fault.PARTIAL_CRASHES not in probed(here.release, here.folder / "peft").faults
    (folder / "package_info.py").write_text("MAJOR = 0\n")
    assert before is not None or find() is None
