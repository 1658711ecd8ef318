"""A layer of many wide experts in the memory of few: proofs pass on all of them, and find the same
faults as when every expert has memory of its own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import torch
from broken_surgeries import broken
from verify_models import proved, task_of

from clora_inspect.verify.implementation.clora import Clora
from clora_inspect.verify.model import expert_pool
from clora_inspect.verify.model.expert_pool import add_when_used, is_window, stretch_of
from clora_inspect.verify.model.sites import weights_of
from clora_inspect.verify.proof_table import PROOFS, Need
from clora_inspect.verify.ranks.engine import model_under_test

if TYPE_CHECKING:
    from clora_inspect.verify.task import ProofTask

EXPERTS = "decoder.layers.0.mlp.experts"


@pytest.fixture(autouse=True)
def _all_experts_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expert_pool, "EXPERT_PARAMETERS", 0)
    monkeypatch.setattr(expert_pool, "STRETCH", 64)


pytestmark = pytest.mark.usefixtures("one_cpu_rank")


def _layer(**lora: Any) -> ProofTask:
    """Return one layer by itself, as in `--size layer`."""
    what = task_of("experts", **lora)
    fields = {"num_layers": 1, "num_moe_experts": 16}
    return msgspec.structs.replace(what, definition=what.definition.override(fields), layers=(0,), one_layer=True)


def _linear(name: str = "linear_fc1") -> tuple[torch.nn.Module, list[torch.nn.Parameter]]:
    (chunk,) = model_under_test(_layer(), Clora()).base()
    return chunk.get_submodule(f"{EXPERTS}.{name}"), weights_of(chunk, f"{EXPERTS}.{name}")


def test_windows_take_little_memory_and_have_no_row_in_common() -> None:
    _, weights = _linear()
    rows = torch.cat([weight.detach() for weight in weights])
    assert all(is_window(weight) for weight in weights)
    assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    assert weights[0].untyped_storage().nbytes() < 0.5 * rows.numel() * rows.element_size()
    assert len(torch.unique(rows, dim=0)) == len(rows)
    assert float(rows.std()) == pytest.approx(rows.shape[-1] ** -0.5, rel=0.05)


@pytest.mark.parametrize(("row", "count"), [(2048, 256), (7168, 256), (768, 96), (64, 16), (96, 60)])
def test_no_two_windows_are_whole_rows_apart(row: int, count: int) -> None:
    apart = stretch_of(row, count)
    assert all(number * apart % row for number in range(1, count))
    assert apart % 8 == 0 or row // 8 < count


def test_what_is_added_when_a_weight_is_used_is_not_in_its_neighbours() -> None:
    linear, weights = _linear()
    before = [weight.detach().clone() for weight in weights]
    add_when_used(linear, 1, lambda: torch.ones_like(before[1]))
    foreign: Any = linear
    assert torch.equal(foreign.weight1, before[1] + 1)
    assert torch.equal(foreign.weight1, before[1] + 1)
    assert torch.equal(foreign.weight0, before[0])
    assert torch.equal(foreign.weight2, before[2])
    assert all(not torch.equal(one, other) for one, other in pairwise(before))


@pytest.mark.parametrize("share", [True, False], ids=["shared adapters", "adapters of every expert"])
def test_a_sound_surgery_is_proved_on_all_experts(share: bool) -> None:
    for proof in PROOFS:
        if Need.WHOLE_MODEL not in proof.needs:
            answer = proved(proof.name, _layer(share_expert_adapters=share))
            assert answer.status == "passed", (proof.name, answer)


@pytest.mark.parametrize(
    ("fault", "proof", "lora"),
    [
        ("the next expert's B", "merge", {"share_expert_adapters": False}),
        ("scale is left out", "merge", {"target_modules": ["*.experts.linear_fc1_up", "*.experts.linear_fc2"]}),
        ("delta is thrown away", "liveness", {"target_modules": ["*.experts.linear_fc2"]}),
        ("output goes through bf16", "zero-b", {"target_modules": ["*.experts.linear_fc1_up"]}),
    ],
)
def test_a_fault_is_found(fault: str, proof: str, lora: dict[str, Any]) -> None:
    with broken(fault) as implementation:
        assert proved(proof, _layer(**lora), implementation).status == "failed"


def test_a_changed_expert_is_seen() -> None:
    class Spoils(Clora):
        def apply(self, chunks: list[Any], lora: Any) -> list[Any]:
            with torch.no_grad():
                chunks[0].get_submodule(f"{EXPERTS}.linear_fc2").weight5[0].add_(1e-3)
            return super().apply(chunks, lora)

    answer = proved("surgery", _layer(), Spoils())
    assert answer.status == "failed"
    assert (answer.where or "").startswith(f"{EXPERTS}.linear_fc2")
