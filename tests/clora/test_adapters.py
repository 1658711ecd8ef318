"""Factors: their first values, the marks by which megatron-core reduces them, and dropout."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import lora_models
import pytest
import torch

from clora import CanonicalLoRA
from clora.adapters import Dropout, Factor
from clora.errors import LoRAConfigError
from clora.initialisation import draw_matrix
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron

LAYOUTS = [
    Layout(tp=2),
    Layout(tp=4),
    Layout(ep=2),
    Layout(etp=2),
    Layout(ep=2, etp=2),
    Layout(tp=2, ep=2, etp=2),
    Layout(tp=2, ep=2, etp=1),
]


@cache
def factors(kind: str, layout: Layout, rank: int, share: bool = True, **_: Any) -> dict[str, tuple[Any, Factor]]:
    """Return name in the whole model -> (place, factor) on one rank, with random A and B."""
    with virtual_megatron("cpu"), virtual_cluster(layout, rank), quiet():
        (model,) = lora_models.build(kind, layout, num_layers=1)
        lora = CanonicalLoRA(
            target_modules=lora_models.TARGETS, dim=8, lora_B_init_method="xavier", share_expert_adapters=share
        )
        lora(model)
        found = {}
        for name, module in model.named_modules():
            if isinstance(module, Factor):
                place = lora_models.Place(model, f"{name}.weight", module.weight)
                found[place.name] = (place, module)
        return found


def assembled(kind: str, layout: Layout, share: bool) -> dict[str, torch.Tensor]:
    return lora_models.assembled(
        (name, place.shape, place.positions, factor.weight.detach())
        for rank in range(layout.model_world)
        for name, (place, factor) in factors(kind, layout, rank, share).items()
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.label)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "per expert"])
def test_the_matrix_that_training_starts_from_does_not_depend_on_the_layout(layout: Layout, share: bool) -> None:
    # The full matrices are equal, so shards differ, copies agree (`assembled` compares them), and
    # the scale does not grow with tp.
    serial = assembled("shared-experts", Layout(), share)
    parallel = assembled("shared-experts", layout, share)
    assert serial.keys() == parallel.keys()
    for name, matrix in serial.items():
        assert torch.equal(matrix, parallel[name]), name
        assert matrix.std() > 0


def test_sequential_experts_start_from_matrices_of_their_own_on_every_rank() -> None:
    matrices = assembled("sequential-experts", Layout(ep=2), True)
    ups = [
        matrix
        for name, matrix in matrices.items()
        if "local_experts" in name and name.endswith("adapter_up.linear_in.weight")
    ]
    assert len(ups) == 4
    assert not any(torch.equal(first, second) for i, first in enumerate(ups) for second in ups[:i])


@pytest.mark.parametrize(
    ("method", "std"),
    [("xavier", math.sqrt(2 / (400 + 600))), ("kaiming", 1 / math.sqrt(3 * 600)), ("normal", 0.2), ("zero", 0.0)],
)
def test_an_initialisation_has_the_scale_of_its_name(method: str, std: float) -> None:
    torch.manual_seed(1)
    assert draw_matrix(method, 400, 600, torch.device("cpu")).std().item() == pytest.approx(std, rel=0.02)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(LoRAConfigError, match="no initialisation 'uniform'"):
        draw_matrix("uniform", 2, 2, torch.device("cpu"))


def marks(kind: str, layout: Layout, rank: int, name: str, share: bool = True) -> tuple[Any, ...]:
    weight: Any = factors(kind, layout, rank, share)[name][1].weight
    return (
        weight.tensor_model_parallel,
        weight.partition_dim,
        weight.allreduce,
        weight.sequence_parallel,
        getattr(weight, "shared", False),
    )


ATTENTION = "decoder.layers.0.self_attention."
EXPERTS = "decoder.layers.0.mlp.experts."


@pytest.mark.parametrize(
    ("layout", "rank", "share", "name", "expected"),
    [
        (
            Layout(tp=2),
            1,
            True,
            ATTENTION + "linear_qkv.adapter.adapter_k.linear_in.weight",
            (True, 0, True, False, False),
        ),
        (Layout(tp=2), 1, True, ATTENTION + "linear_proj.adapter.linear_in.weight", (True, 1, True, False, False)),
        (Layout(tp=2), 1, True, ATTENTION + "linear_proj.adapter.linear_out.weight", (True, 0, True, False, False)),
        (Layout(tp=2), 1, True, "decoder.layers.0.mlp.router.adapter.linear_in.weight", (True, 0, True, False, False)),
        # A pair that all experts share is reduced as a dense parameter when etp = tp.
        (Layout(ep=2), 1, True, EXPERTS + "linear_fc1.adapter.linear_in.weight", (True, 0, True, False, False)),
        (
            Layout(tp=2, ep=2, etp=2),
            3,
            True,
            EXPERTS + "linear_fc2.adapter.linear_in.weight",
            (True, 1, True, False, False),
        ),
        # Otherwise it is reduced as an expert's parameter, and its copies count once in the norm.
        (
            Layout(tp=2, ep=2, etp=1),
            0,
            True,
            EXPERTS + "linear_fc1.adapter.linear_in.weight",
            (True, 0, False, False, False),
        ),
        (
            Layout(tp=2, ep=2, etp=1),
            1,
            True,
            EXPERTS + "linear_fc1.adapter.linear_in.weight",
            (True, 0, False, False, True),
        ),
        (Layout(etp=2), 1, True, EXPERTS + "linear_fc1.adapter.linear_in.weight", (True, 0, False, False, False)),
        # A pair for each expert is an expert's parameter.
        (Layout(ep=2), 1, False, EXPERTS + "linear_fc1.adapter.linear_in.weight", (True, 1, False, False, False)),
        (
            Layout(tp=2, ep=2, etp=1),
            1,
            False,
            EXPERTS + "linear_fc2.adapter.linear_in.weight",
            (True, 2, False, False, False),
        ),
    ],
)
def test_megatron_core_is_told_how_to_reduce_a_factor(
    layout: Layout, rank: int, share: bool, name: str, expected: tuple[Any, ...]
) -> None:
    assert marks("grouped-experts", layout, rank, name, share) == expected


@pytest.mark.parametrize("position", ["pre", "post"])
def test_dropout_changes_training_and_not_evaluation(position: Any) -> None:
    with virtual_megatron("cpu"), virtual_cluster(Layout()):
        (model,) = lora_models.build("shared-experts", Layout())
        with quiet():
            lora = CanonicalLoRA(
                target_modules=lora_models.TARGETS,
                dim=4,
                dropout=0.5,
                dropout_position=position,
                share_expert_adapters=False,
            )
            lora(model)
        tokens, positions, labels = lora_models.batch(8)

        def loss() -> torch.Tensor:
            with torch.no_grad(), quiet():
                out: torch.Tensor = model(tokens, positions, None, labels=labels).mean()
            return out

        zero_b = loss()
        lora_models.fill(model, only=".adapter.", std=0.2)
        assert loss() != loss()
        model.eval()
        moved = loss()
        assert moved == loss()
        assert moved != zero_b
        with lora.disable_adapter(model):
            assert loss() == zero_b


def test_dropout_keeps_the_expectation() -> None:
    with virtual_megatron("cpu"), virtual_cluster(Layout()):
        (model,) = lora_models.build("gqa", Layout())
        with quiet():
            CanonicalLoRA(target_modules=["linear_proj"], dim=4)(model)
        wiring = model.decoder.layers[0].self_attention.linear_proj.wiring
        ones = torch.ones(100_000)
        for dropout in (Dropout(0.25, "pre"), Dropout(0.25, "post")):
            dropped = dropout.apply_to_output(
                dropout.apply_to_input(ones, wiring, training=True), wiring, training=True
            )
            assert dropped.mean().item() == pytest.approx(1, rel=0.02)
            assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
