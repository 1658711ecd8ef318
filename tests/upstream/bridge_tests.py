"""The tests that run Megatron-Bridge's own code, and which of them answer which question of a user
whose jobs use `clora.bridge`. Pure: it runs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from listed_differences import stands_for

if TYPE_CHECKING:
    from collections.abc import Iterable

FILES = ("tests/parallel/test_bridge_jobs.py", "tests/parallel/test_bridge_checkpoints.py")

QUESTIONS = {
    "setup, recipes and overrides": ("test_the_configs_of_megatron_bridge_take_the_class",),
    "the gate": ("test_the_gate_is_called_*",),
    "export, Llama": ("test_exports_*[some parts]", "test_a_merged_export_without_*"),
    "export, Llama and DeepSeek-V3 at tp 2": ("test_exports_*[tp2]",),
    "export, Qwen3-MoE and DeepSeek-V3 at ep 2": ("test_exports_*[ep2]",),
    "resuming, Llama": ("test_checkpoints_of_both_*",),
    "checkpoints, latent attention": ("*[latent attention]", "*[deepseek]", "*[mla]"),
    "checkpoints, experts": ("*experts]", "*[qwen3-moe]", "test_experts_with_*", "test_the_split_experts_*"),
    "checkpoints, Llama": ("test_what_*", "test_who_reads_*"),
}
"""A question -> names of its tests; `*` stands for anything. The first that fits a test has it."""


def question_of(test: str) -> str | None:
    """Return what the test of this name answers; None for a test that nothing above names."""
    return next((asked for asked, names in QUESTIONS.items() if _is_one_of(test, names)), None)


def _is_one_of(test: str, names: Iterable[str]) -> bool:
    return any(stands_for(name, test) for name in names)
