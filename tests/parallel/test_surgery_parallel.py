"""Adapters give equal outputs, gradients and training on every layout."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import lora_models
import msgspec
import pytest
import torch
from gloo import on_ranks

from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

SERIAL = Layout()
TP2, TP2_NO_SP, TP4 = Layout(tp=2), Layout(tp=2, sp=False), Layout(tp=4)
EP2, ETP2, EP2_ETP2 = Layout(ep=2), Layout(etp=2), Layout(ep=2, etp=2)
TP2_EP2, TP2_EP2_ETP2 = Layout(tp=2, ep=2, etp=1), Layout(tp=2, ep=2, etp=2)
PER_EXPERT = {"share_expert_adapters": False}

STEPS: list[tuple[str, Layout, int, Mapping[str, Any], Mapping[str, Any]]] = [
    ("gqa", TP2, 8, {}, {}),
    ("gqa", TP2_NO_SP, 7, {}, {}),
    ("gqa", TP4, 8, {}, {}),
    ("mqa", TP2, 8, {}, {}),
    ("mqa", TP2_NO_SP, 7, {}, {}),
    ("mqa", TP4, 8, {}, {}),
    ("mqa", Layout(tp=4, sp=False), 7, {"target_modules": ["linear_k"]}, {}),
    ("qk-layernorm", TP2, 8, {"target_modules": ["linear_q", "linear_v", "linear_fc1_up"]}, {}),
    ("qkv-bias", TP2, 8, {}, {}),
    ("no-gate", TP2, 8, {}, {}),
    ("output-gate", TP2, 8, {}, {}),
    ("mla", TP2, 8, {}, {}),
    ("grouped-experts", EP2, 8, {}, {}),
    ("grouped-experts", EP2, 8, PER_EXPERT, {}),
    ("grouped-experts", ETP2, 8, {}, {}),
    ("grouped-experts", ETP2, 8, PER_EXPERT, {}),
    ("grouped-experts", EP2_ETP2, 8, {}, {}),
    ("grouped-experts", TP2_EP2, 8, {}, {}),
    ("grouped-experts", TP2_EP2, 8, {**PER_EXPERT, "normalize_moe_lora": True}, {}),
    ("grouped-experts", TP2_EP2_ETP2, 8, {}, {}),
    ("grouped-experts", TP2_EP2_ETP2, 8, PER_EXPERT, {}),
    ("sequential-experts", EP2, 8, {}, {}),
    ("sequential-experts", EP2_ETP2, 8, {}, {}),
    ("shared-experts", Layout(tp=2, ep=2, etp=1, pp=2), 8, {}, {}),
    ("shared-experts-overlap", Layout(tp=2, etp=1), 8, {}, {}),
    ("gqa", Layout(pp=2), 7, {}, {}),
    ("gqa", Layout(pp=2, vpp=2), 7, {}, {"num_layers": 4}),
    ("mla-moe-mtp", TP2_EP2, 8, {}, {}),
    ("local", TP2, 8, {}, {}),
    ("local", TP2_NO_SP, 7, {}, {}),
    ("local-experts", TP2_EP2_ETP2, 8, {}, {}),
    ("local-experts", EP2_ETP2, 8, {}, {}),
]


def _name(case: tuple[str, Layout, int, Mapping[str, Any], Mapping[str, Any]]) -> str:
    kind, layout, length, lora_fields, _ = case
    return f"{kind} {layout.label} {length} {' '.join(map(str, lora_fields.values()))}".strip()


@pytest.mark.parametrize("case", STEPS, ids=_name)
def test_outputs_and_gradients_of_whole_factors_do_not_depend_on_the_layout(case: Any) -> None:
    kind, layout, length, lora_fields, model_fields = case
    fields = (_frozen(lora_fields), _frozen(model_fields))
    losses, gradients = _step(kind, layout, length, *fields)
    serial_losses, serial_gradients = _step(kind, SERIAL, length, *fields)
    # With multi-token prediction the loss is the cross-entropy in fp32; everything else is fp64.
    bound = 1e-6 if "mtp" in kind else 1e-10
    torch.testing.assert_close(losses, serial_losses, rtol=bound, atol=bound)
    assert gradients.keys() == serial_gradients.keys()
    for name, gradient in serial_gradients.items():
        largest = gradient.abs().max()
        assert largest > 0, name
        assert (gradients[name] - gradient).abs().max() <= bound * largest, name


# megatron-core 0.16.1 cannot run an output gate with more ranks than key-value groups: it gates all
# heads of the group.
@pytest.mark.parametrize(
    ("kind", "layout"),
    [(kind, layout) for kind in ("gqa", "mqa") for layout in (SERIAL, TP2, TP2_NO_SP, TP4)]
    + [("output-gate", TP2), ("mla", TP2)],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_a_later_token_never_moves_an_earlier_output(kind: str, layout: Layout) -> None:
    for moved in on_ranks(layout, "surgery_tasks:later_token_moves_earlier", kind, msgspec.structs.asdict(layout), 8):
        assert moved < 1e-12


@pytest.mark.parametrize("distributed_optimizer", [False, True], ids=["optimizer", "distributed optimizer"])
@pytest.mark.parametrize(
    ("kind", "layout"),
    [
        ("gqa", TP2),
        pytest.param("shared-experts", EP2, marks=pytest.mark.nightly),
        ("shared-experts", TP2_EP2_ETP2),
        pytest.param("shared-experts", EP2_ETP2, marks=pytest.mark.nightly),
    ],
    ids=lambda value: value if isinstance(value, str) else value.label,
)
def test_five_steps_train_the_same_adapters(kind: str, layout: Layout, distributed_optimizer: bool) -> None:
    losses, norms, adapters = _trained(kind, layout, distributed_optimizer)
    serial_losses, serial_norms, serial_adapters = _trained(kind, SERIAL, False)
    assert all(later < earlier for earlier, later in pairwise(losses))
    # The bound is wide because Adam divides small gradients by their own size, in fp32.
    assert losses == pytest.approx(serial_losses, rel=1e-5)
    assert norms == pytest.approx(serial_norms, rel=1e-5)
    for name, factor in serial_adapters.items():
        assert (adapters[name] - factor).abs().max() <= 1e-3 * factor.abs().max(), name


def test_an_output_layer_hands_out_all_logits_when_it_is_asked() -> None:
    ranks = on_ranks(TP2, "surgery_tasks:all_logits", msgspec.structs.asdict(TP2))
    (serial,) = on_ranks(SERIAL, "surgery_tasks:all_logits", msgspec.structs.asdict(SERIAL))
    for logits in ranks:
        torch.testing.assert_close(logits, serial, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", ["pre", "post"])
def test_what_all_ranks_have_is_the_same_on_all_of_them_with_dropout(position: str) -> None:
    first, second = on_ranks(
        TP2_NO_SP, "surgery_tasks:hidden_states_with_dropout", msgspec.structs.asdict(TP2_NO_SP), position
    )
    assert torch.equal(first, second)
    (serial,) = on_ranks(SERIAL, "surgery_tasks:hidden_states_with_dropout", msgspec.structs.asdict(SERIAL), position)
    assert not torch.allclose(first, serial)


@cache
def _step(
    kind: str,
    layout: Layout,
    length: int,
    lora_fields: tuple[tuple[str, Any], ...],
    model_fields: tuple[tuple[str, Any], ...],
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the losses of the global batch and the full gradients."""
    lora = {name: list(value) if isinstance(value, tuple) else value for name, value in lora_fields}
    ranks = on_ranks(
        layout, "surgery_tasks:step", kind, msgspec.structs.asdict(layout), length, lora, dict(model_fields)
    )
    assert not any(rank["frozen_with_gradient"] for rank in ranks)
    by_dp_rank = {rank["dp_rank"]: rank["losses"] for rank in ranks if rank["losses"] is not None}
    losses = torch.cat([by_dp_rank[dp_rank] for dp_rank in sorted(by_dp_rank)])
    return losses, lora_models.assembled(shard for rank in ranks for shard in rank["gradients"])


def test_overlapped_parameter_gathers_are_waited_for() -> None:
    # The wait is in a forward pre-hook of the module that owns a parameter, so the adapters must
    # call that module.
    losses, norms, adapters = _trained("shared-experts", EP2, True)
    overlapped = on_ranks(EP2, "surgery_tasks:train", "shared-experts", msgspec.structs.asdict(EP2), True, True)
    assert overlapped[0]["losses"] == pytest.approx(losses, rel=1e-6)
    assert overlapped[0]["norms"] == pytest.approx(norms, rel=1e-5)
    found = lora_models.assembled(shard for rank in overlapped for shard in rank["adapters"])
    for name, factor in adapters.items():
        assert (found[name] - factor).abs().max() <= 1e-3 * factor.abs().max(), name


@cache
def _trained(
    kind: str, layout: Layout, distributed_optimizer: bool
) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    ranks = on_ranks(layout, "surgery_tasks:train", kind, msgspec.structs.asdict(layout), distributed_optimizer)
    assert all(rank["losses"] == ranks[0]["losses"] for rank in ranks)
    return (
        ranks[0]["losses"],
        ranks[0]["norms"],
        lora_models.assembled(shard for rank in ranks for shard in rank["adapters"]),
    )


def _frozen(fields: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in fields.items())
