"""Probes of an installed Megatron-Bridge's source for its faults. The sources here are ours,
with the shapes of the original's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect.rules.planned_job import PlannedJob
from clora_inspect.rules.reference import ANY_RELEASE, Fault, installed, probed

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
    Fault.GLOBAL_HEAD_COUNTS,
}
BY_RELEASE = {Fault.UNSYNCHRONISED_EXPERTS, Fault.EXPERT_GROUP}


def written(folder: Path, sources: dict[str, str]) -> Path:
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def test_faults_are_seen_in_the_source(tmp_path: Path) -> None:
    """A name in a docstring or a comment does not count as used."""
    assert probed("0.3.1", written(tmp_path, FAULTY)).faults == frozenset(Fault)


def test_fixed_faults_are_seen_in_the_source(tmp_path: Path) -> None:
    assert frozenset(Fault) - probed("0.3.1", written(tmp_path, FIXED)).faults == READ_FROM_SOURCE


@pytest.mark.parametrize(
    ("version", "fixed"),
    [
        ("0.5.1", set()),
        ("0.6.0", BY_RELEASE),
        ("0.6.0rc1", BY_RELEASE),
        ("1.0", BY_RELEASE),
        ("0.10.2+abc", BY_RELEASE),
    ],
)
def test_some_faults_go_by_release(tmp_path: Path, version: str, fixed: set[Fault]) -> None:
    assert frozenset(Fault) - probed(version, written(tmp_path, FAULTY)).faults == fixed


@pytest.mark.parametrize("sources", [{}, {"utils": "def (", "canonical_lora": "\x00"}], ids=["none", "broken"])
def test_a_source_that_cannot_be_read_shows_nothing_fixed(tmp_path: Path, sources: dict[str, str]) -> None:
    assert probed("0.3.1", written(tmp_path, sources)).faults == frozenset(Fault)


def test_without_an_installed_one_the_releases_that_we_know_decide() -> None:
    reference = installed()
    if reference.version is None:
        assert reference is ANY_RELEASE
        assert "none is installed here" in reference.label
    else:
        assert reference.version in reference.label


def test_our_own_jobs_have_no_reference() -> None:
    plan: object = None
    assert PlannedJob(plan).reference is None  # type: ignore[arg-type]
    assert PlannedJob(plan, implementation="megatron-bridge").reference == installed()  # type: ignore[arg-type]
