"""Adapters of a GPTModel come back in a HybridModel on another layout, bit for bit, and those of a
HybridModel in the GPTModel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lora_models
import pytest
from test_checkpoints import on_ranks

from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

DENSE, EXPERTS, LATENT_EXPERTS = "gqa as *-*-*-*-", "grouped-experts as *E*E*E*E", "mla-moe-mtp as +E+E+E+E/+E"
HYBRID_MODEL = pytest.mark.skipif(
    not lora_models.has_hybrid_model(), reason="the hybrid models of this megatron-core have no latent attention"
)


@pytest.mark.parametrize(
    ("saved", "saved_at", "loaded", "loaded_at"),
    [
        ("gqa", Layout(tp=2, pp=2), DENSE, [Layout(), Layout(tp=4), Layout(pp=2)]),
        (DENSE, Layout(tp=2, pp=2), "gqa", [Layout(tp=2), Layout(pp=2, vpp=2)]),
        ("grouped-experts", Layout(tp=2, ep=2, etp=1, pp=2), EXPERTS, [Layout(tp=2), Layout(pp=2, ep=2)]),
        pytest.param("mla", Layout(tp=2), "mla as +-+-+-+-", [Layout(pp=2), Layout(tp=2)], marks=HYBRID_MODEL),
        pytest.param(
            "mla-moe-mtp", Layout(pp=2), LATENT_EXPERTS, [Layout(tp=2, etp=1), Layout(pp=2)], marks=HYBRID_MODEL
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label if isinstance(value, Layout) else "",
)
def test_every_adapter_comes_back_in_the_other_class(
    tmp_path: Path, saved: str, saved_at: Layout, loaded: str, loaded_at: list[Layout]
) -> None:
    folder = str(tmp_path / "checkpoint")
    on_ranks(saved_at, "checkpoint_tasks:save", saved, folder, False, {})
    for layout in loaded_at:
        for counted in on_ranks(layout, "checkpoint_tasks:load", loaded, folder, False, {}):
            assert not counted["names"]
            assert counted["equal"] > 0
