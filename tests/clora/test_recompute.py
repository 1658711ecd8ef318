"""With activation recomputation, every adapter gets the gradient that it gets without."""

from __future__ import annotations

from typing import Any

import lora_models
import pytest
import tiny_models
import torch

from clora import CanonicalLoRA, revert
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

SERIAL = Layout()
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
BLOCK = {"recompute_granularity": "full", "recompute_method": "block", "recompute_num_layers": 1}
MLP = ["linear_fc1_up", "linear_fc1_gate", "linear_fc2"]


def selective(*modules: str) -> dict[str, Any]:
    return {"recompute_granularity": "selective", "recompute_modules": list(modules)}


CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("gqa", FULL, lora_models.TARGETS),
    ("gqa", BLOCK, lora_models.TARGETS),
    ("gqa", FULL, ["*.layers.1.*.linear_q"]),
    ("gqa", selective("mlp"), MLP),
    ("gqa", selective("core_attn", "mlp"), ["*.layers.1.*.linear_q", *MLP]),
    ("gqa", selective("core_attn"), lora_models.TARGETS),
    ("shared-experts", selective("moe"), [*MLP, "router"]),
    ("shared-experts", selective("moe_act", "shared_experts"), MLP),
    ("mla", selective("mla_up_proj"), ["linear_q_up_proj", "linear_kv_up_proj"]),
    ("mla-moe-mtp", FULL, lora_models.TARGETS),
    ("mtp", FULL, ["mtp.*.linear_fc2", "mtp.*.linear_q"]),
]


pytestmark = pytest.mark.usefixtures("one_rank")


def gradients(model: Any, targets: list[str]) -> dict[str, torch.Tensor]:
    with quiet():
        CanonicalLoRA(target_modules=targets, dim=4)(model)
    lora_models.fill(model, only=".adapter.", std=0.2)
    tokens, positions, labels = lora_models.batch(8)
    model(tokens, positions, None, labels=labels).mean().backward()
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if ".adapter." not in name)
    return {name: parameter.grad for name, parameter in model.named_parameters() if ".adapter." in name}


@pytest.mark.parametrize(
    ("kind", "recompute", "targets"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_recomputation_trains_every_adapter(kind: str, recompute: dict[str, Any], targets: list[str]) -> None:
    (plain,), (recomputing,) = lora_models.build(kind, SERIAL), lora_models.build(kind, SERIAL, **recompute)
    expected = gradients(plain, targets)
    found = gradients(recomputing, targets)
    assert expected
    for name, gradient in expected.items():
        assert found[name] is not None, name
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("recompute", [FULL, {}], ids=["recomputing", "plain"])
def test_a_stack_of_attention_and_mlp_layers_trains_every_adapter(recompute: dict[str, Any]) -> None:
    from megatron.core.models.mamba import MambaModel

    with quiet():
        from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec

        config = tiny_models.config(SERIAL, "cpu", num_layers=4, **recompute)
        model = MambaModel(config, mamba_stack_spec, lora_models.VOCABULARY, 16, hybrid_override_pattern="*-*-")
    found = gradients(model, [*MLP, "linear_q"])
    assert len(found) == 2 * 2 * 4
    assert all(gradient is not None and bool(gradient.abs().max() > 0) for gradient in found.values())


def test_gradients_are_let_in_only_where_something_is_recomputed() -> None:
    (plain,), (recomputing,) = lora_models.build("gqa", SERIAL), lora_models.build("gqa", SERIAL, **FULL)
    for model, hooks in ((plain, 0), (recomputing, 1)):
        with quiet():
            CanonicalLoRA(dim=4)(model)
        assert len(model.decoder._forward_pre_hooks) == hooks
        revert(model)
        assert not model.decoder._forward_pre_hooks


@pytest.mark.parametrize("targets", [MLP, ["linear_fc1_up"]], ids=["adapted", "frozen"])
def test_a_recomputed_mlp_keeps_its_bias_out_of_the_graph(targets: list[str]) -> None:
    fields = {"add_bias_linear": True, **selective("mlp")}
    plain, recomputing = (lora_models.build("gqa", SERIAL, **each)[0] for each in ({"add_bias_linear": True}, fields))
    with quiet():
        CanonicalLoRA(target_modules=targets, dim=4)(recomputing)
    tokens, positions, labels = lora_models.batch(8)
    recomputing(tokens, positions, None, labels=labels)
    # A backward from here would not end if the bias were a part of the graph.
    biases = [layer.mlp.linear_fc2.bias for layer in recomputing.decoder.layers]
    assert [(bias.is_leaf, bias.requires_grad) for bias in biases] == [(True, False)] * len(biases)
    revert(recomputing)
    assert not any(layer.mlp._forward_hooks for layer in recomputing.decoder.layers)
    expected = gradients(plain, targets)
    for name, gradient in gradients(recomputing, targets).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)


def test_gradients_are_let_in_where_layers_are_captured() -> None:
    (model,) = lora_models.build("gqa", SERIAL)
    # A model that is built with it wants a GPU.
    model.config.cuda_graph_impl = "local"
    with quiet():
        CanonicalLoRA(dim=4)(model)
    needs: list[bool] = []
    model.decoder.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: needs.append((args[0] if args else kwargs["hidden_states"]).requires_grad),
        with_kwargs=True,
    )
    tokens, positions, _ = lora_models.batch(8, 0, 2)
    with quiet():
        model.train()(tokens, positions, None)
    assert needs == [True]
    revert(model)
    assert not model.decoder._forward_pre_hooks


def test_evaluation_and_callers_tensors_are_left_alone() -> None:
    (model,) = lora_models.build("gqa", SERIAL, **FULL)
    with quiet():
        CanonicalLoRA(dim=4)(model)
    embedded = torch.randn(8, 2, lora_models.HIDDEN, dtype=torch.float64)
    tokens, positions, _ = lora_models.batch(8, 0, 2)
    logits = model(tokens, positions, None, decoder_input=embedded)
    assert logits.requires_grad
    assert not embedded.requires_grad
    with torch.no_grad():
        assert not model(tokens, positions, None, decoder_input=embedded).requires_grad
