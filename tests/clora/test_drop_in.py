"""What code written for Megatron-Bridge's canonical LoRA asks of it, on real layers.

`CASES` has every case of its own test file, releases 0.3.1 to main: the test here that asks the
same, or the row of docs/differences.md that says why the answer is another one.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lora_models
import pytest
import torch
from torch import nn

import clora
from clora import AlreadyAdaptedError, CanonicalLoRA, LoRALinear, SurgeryError, revert
from clora.errors import GeometryError, TargetError, UnmatchedTargetError
from clora.wrappers import adapted_modules
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

PAGE = Path(__file__).parents[2] / "docs" / "differences.md"
ATTENTION = "decoder.layers.0.self_attention"


pytestmark = pytest.mark.usefixtures("one_rank")


def build(kind: str = "gqa", **fields: Any) -> Any:
    (model,) = lora_models.build(kind, Layout(), **{"dtype": torch.float32, **fields})
    return model


def adapted(model: Any, *, training: bool = True, **fields: Any) -> CanonicalLoRA:
    lora = CanonicalLoRA(**{"dim": 4, **fields})
    with quiet():
        lora(model, training=training)
    return lora


class Plain(nn.Module):
    """A model of torch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.linear_fc2 = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear_fc2(self.drop(self.norm(self.linear_proj(x))))
        return y


# The settings.


def test_fields_and_their_defaults() -> None:
    fields = asdict(CanonicalLoRA())
    expected = {"exclude_modules": [], "dim": 32, "alpha": 32, "dropout": 0.0, "dropout_position": "pre"}
    expected |= {"lora_A_init_method": "xavier", "lora_B_init_method": "zero"}
    expected |= {"normalize_moe_lora": False, "share_expert_adapters": True}
    assert {name: fields[name] for name in expected} == expected
    changed = CanonicalLoRA(target_modules=["linear_q"], dim=16, alpha=64, dropout=0.1, dropout_position="post")
    assert (changed.dim, changed.alpha, changed.dropout, changed.dropout_position) == (16, 64, 0.1, "post")


def test_the_mapping_of_names_and_of_wildcards() -> None:
    lora = CanonicalLoRA(target_modules=["linear_q", "linear_k", "linear_proj", "linear_fc1_up"])
    assert lora.canonical_mapping == {
        "linear_qkv": {"linear_q", "linear_k"},
        "linear_proj": {"linear_proj"},
        "linear_fc1": {"linear_fc1_up"},
    }
    lora = CanonicalLoRA(target_modules=["*.layers.0.*.linear_q", "*.layers.1.*.linear_fc1_gate"])
    assert lora.canonical_mapping == {
        "*.layers.0.*.linear_qkv": {"linear_q"},
        "*.layers.1.*.linear_fc1": {"linear_fc1_gate"},
    }


@pytest.mark.parametrize("target", ["linear_qkv", "linear_fc1", "*.layers.0.*.linear_qkv"])
def test_a_fused_name_is_refused(target: str) -> None:
    with pytest.raises(TargetError, match=r"linear_q|linear_fc1_up"):
        CanonicalLoRA(target_modules=[target])


def test_arguments_behind_the_exclusions_are_named() -> None:
    # The third one of Megatron-Bridge's class is another field.
    with pytest.raises(TypeError, match="positional arguments"):
        CanonicalLoRA(["linear_q"], [], 16)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("targets", "name", "prefix", "found"),
    [
        (["linear_q"], "linear_qkv", ATTENTION, ("linear_qkv", f"{ATTENTION}.linear_qkv")),
        (["*.layers.0.*.linear_q"], "linear_qkv", ATTENTION, ("*.layers.0.*.linear_qkv", f"{ATTENTION}.linear_qkv")),
        (["linear_proj"], "linear_proj", ATTENTION, ("linear_proj", f"{ATTENTION}.linear_proj")),
        (["*.layers.1.*.linear_q"], "linear_qkv", ATTENTION, None),
        (["linear_fc2"], "linear_proj", ATTENTION, None),
    ],
)
def test_match_tells_the_pattern_and_the_path(
    targets: list[str], name: str, prefix: str, found: tuple[str, str] | None
) -> None:
    model = build()
    module = model.get_submodule(f"{prefix}.{name}")
    assert CanonicalLoRA(target_modules=targets).match(module, name, prefix) == found
    assert type(module).__name__.startswith("TE")
    everything = CanonicalLoRA(target_modules=[], exclude_modules=["linear_k"])
    assert everything.match(module, name, prefix) == (name, f"{prefix}.{name}")


def test_targets_that_match_nothing_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="clora"):
        CanonicalLoRA(target_modules=["linear_proj", "linear_pro"], dim=4)(build())
    assert "'linear_pro'" in caplog.text
    with pytest.raises(UnmatchedTargetError, match="linear_pro"):
        adapted(build(), target_modules=["linear_pro"])


def test_targets_changed_after_construction_count() -> None:
    model, lora = build(), CanonicalLoRA(dim=4)
    lora.target_modules = ["linear_q"]
    with quiet():
        lora(model)
    assert {name.rpartition(".")[2] for name, _ in adapted_modules(model)} == {"linear_qkv"}
    assert lora.canonical_mapping == {"linear_qkv": {"linear_q"}}


# What is wrapped.


def test_linears_of_torch_are_wrapped_and_the_rest_is_left_alone() -> None:
    model = Plain()
    lora = adapted(model, target_modules=["linear_proj"], dim=2)
    assert isinstance(model.linear_proj, LoRALinear)
    assert isinstance(model.linear_proj.adapter, clora.LinearAdapter)
    assert not isinstance(model.linear_fc2, LoRALinear)
    assert model(torch.randn(3, 6)).shape == (3, 2)
    assert lora.params_to_save >= {"linear_proj.adapter.linear_in.weight", "norm.running_mean", "norm.running_var"}
    assert "linear_fc2.weight" not in lora.params_to_save


def test_linears_of_torch_below_experts_are_wrapped_like_any() -> None:
    model = nn.Module()
    model.mlp = nn.Module()
    model.mlp.experts = nn.ModuleDict({"linear_fc2": nn.Linear(6, 4)})
    adapted(model, target_modules=["linear_fc2"], normalize_moe_lora=True)
    assert model.mlp.experts["linear_fc2"].adapter.linear_in.weight.shape == (4, 6)


def test_megatron_linears_below_experts_need_the_number_of_experts() -> None:
    from megatron.core.model_parallel_config import ModelParallelConfig
    from megatron.core.tensor_parallel import ColumnParallelLinear

    config = ModelParallelConfig(use_cpu_initialization=True, gradient_accumulation_fusion=False)
    model = nn.Module()
    model.experts = nn.ModuleDict()
    model.experts["linear_fc2"] = ColumnParallelLinear(6, 4, config=config, init_method=nn.init.zeros_, bias=False)
    with pytest.raises(GeometryError, match=r"experts\.linear_fc2 is a ColumnParallelLinear.*num_moe_experts"):
        adapted(model, target_modules=["linear_fc2"])


def test_fused_linears_get_an_adapter_for_each_part() -> None:
    model = build()
    adapted(model)
    layer = model.decoder.layers[0]
    qkv, fc1 = layer.self_attention.linear_qkv, layer.mlp.linear_fc1
    assert isinstance(qkv, clora.LoRALinearSplitQKV)
    assert isinstance(fc1, clora.LoRALinearSplitFC1UpGate)
    shapes = {name: (*each.linear_in.weight.shape, *each.linear_out.weight.shape) for name, each in qkv.adapter.items()}
    assert shapes == {"adapter_q": (4, 32, 32, 4), "adapter_k": (4, 32, 16, 4), "adapter_v": (4, 32, 16, 4)}
    assert {name: each.linear_out.weight.shape for name, each in fc1.adapter.items()} == {
        "adapter_gate": (48, 4),
        "adapter_up": (48, 4),
    }


def test_fc1_of_a_vision_tower_and_of_grouped_experts_is_adapted_as_a_whole() -> None:
    tower = nn.Module()
    tower.vision_model = build()
    adapted(tower)
    assert isinstance(tower.vision_model.decoder.layers[0].mlp.linear_fc1.adapter, clora.ParallelLinearAdapter)
    experts = build("grouped-experts")
    adapted(experts)
    fc1 = experts.decoder.layers[0].mlp.experts.linear_fc1
    assert (fc1.adapter.linear_in.weight.shape, fc1.adapter.linear_out.weight.shape) == ((4, 32), (32, 4))


def test_each_expert_has_a_pair_when_they_share_none() -> None:
    model = build("grouped-experts")
    adapted(model, target_modules=["linear_fc2"], share_expert_adapters=False)
    adapter = model.decoder.layers[0].mlp.experts.linear_fc2.adapter
    assert isinstance(adapter, clora.GroupedExpertLinearAdapter)
    assert (adapter.linear_in.weight.shape, adapter.linear_out.weight.shape) == ((4, 4, 16), (4, 32, 4))


def test_normalised_experts_have_a_smaller_rank() -> None:
    model = build("grouped-experts")
    adapted(model, normalize_moe_lora=True, dim=8)
    layer = model.decoder.layers[0]
    # Two experts see each token.
    assert layer.mlp.experts.linear_fc2.adapter.dim == 4
    assert layer.self_attention.linear_proj.adapter.dim == 8
    with pytest.raises(GeometryError, match=r"dim = 7 is not divisible by moe_router_topk = 2"):
        adapted(build("grouped-experts"), normalize_moe_lora=True, dim=7)


def test_wildcards_choose_layers() -> None:
    model = build()
    adapted(model, target_modules=["decoder.layers.0.self_attention.*"])
    assert {name for name, _ in adapted_modules(model)} == {f"{ATTENTION}.linear_qkv", f"{ATTENTION}.linear_proj"}


def test_chunks_are_adapted_and_the_list_comes_back() -> None:
    chunks = [build(), build()]
    lora = CanonicalLoRA(target_modules=["linear_proj"], dim=4)
    with quiet():
        assert lora(chunks) is chunks
    assert all(isinstance(chunk.decoder.layers[0].self_attention.linear_proj, LoRALinear) for chunk in chunks)


# An adapted linear, as other code reads it.


def test_an_adapter_has_the_attributes_that_others_read() -> None:
    model = build()
    adapted(
        model, target_modules=["linear_q", "linear_v", "linear_proj"], alpha=8, dropout=0.25, dropout_position="post"
    )
    attention = model.decoder.layers[0].self_attention
    q, proj = attention.linear_qkv.adapter.adapter_q, attention.linear_proj.adapter
    for adapter in (q, proj):
        assert (adapter.dim, adapter.alpha, adapter.scale) == (4, 8, 2)
        assert (adapter.dropout.p, adapter.dropout_position) == (0.25, "post")
    assert (q.input_is_parallel, q.base_linear_is_parallel) == (False, True)
    assert (proj.input_is_parallel, proj.base_linear_is_parallel) == (True, True)
    assert proj.base_linear_name == f"{ATTENTION}.linear_proj"
    assert attention.linear_qkv.adapter.adapter_k is None
    assert list(attention.linear_qkv.adapter) == ["adapter_q", "adapter_v"]
    with pytest.raises(AttributeError, match="adapter_up"):
        _ = attention.linear_qkv.adapter.adapter_up
    twin = copy.deepcopy(attention.linear_qkv.adapter)
    assert twin.adapter_k is None


def test_a_router_s_adapter_is_not_parallel() -> None:
    model = build("grouped-experts")
    adapted(model, target_modules=["router"])
    adapter = model.decoder.layers[0].mlp.router.adapter
    assert (adapter.input_is_parallel, adapter.base_linear_is_parallel) == (False, False)


def test_a_factor_multiplies_like_a_linear() -> None:
    model, plain = build(), Plain()
    adapted(model, target_modules=["linear_proj"])
    factor = model.decoder.layers[0].self_attention.linear_proj.adapter.linear_in
    x = torch.randn(3, 32)
    product, bias = factor(x)
    assert torch.equal(product, nn.functional.linear(x, factor.weight))
    assert bias is None
    assert factor() is factor.weight
    adapted(plain, target_modules=["linear_proj"])
    assert plain.linear_proj.adapter.linear_in(torch.randn(3, 6)).shape == (3, 4)


@pytest.mark.parametrize("name", ["linear_qkv", "linear_proj"])
def test_a_wrapper_has_the_attributes_that_others_read(name: str) -> None:
    model = build()
    linear = model.decoder.layers[0].self_attention.get_submodule(name)
    base = type(linear)
    x = torch.randn(5, 2, 32)
    expected = linear(x)[0]
    adapted(model)
    lora_models.fill(model, only=".adapter.", std=0.2)
    assert linear.to_wrap is linear
    assert linear.to_wrap.weight is linear.weight
    assert (type(linear).__name__, type(linear).__module__) == (base.__name__, base.__module__)
    out, bias, normed = linear.base_linear_forward(x)
    assert torch.equal(out, expected)
    assert bias is None
    assert normed.shape == x.shape
    assert torch.equal(normed, x) is (name == "linear_proj")
    assert not torch.equal(linear(x)[0], expected)
    assert linear._adapter_enabled is True
    linear._adapter_enabled = False
    assert torch.equal(linear(x)[0], expected)
    assert not linear.adapter_enabled


def test_the_splits_of_experts_may_be_named() -> None:
    model = build("grouped-experts")
    adapted(model, share_expert_adapters=False)
    lora_models.fill(model, only=".adapter.", std=0.2)
    fc2 = model.decoder.layers[0].mlp.experts.linear_fc2
    x = torch.randn(6, 16)
    by_place, by_name = fc2(x, [3, 0, 1, 2])[0], fc2(x, m_splits=[3, 0, 1, 2])[0]
    assert torch.equal(by_place, by_name)
    assert not torch.equal(by_place, fc2.base_linear_forward(x, [3, 0, 1, 2])[0])


def test_a_wrapper_is_not_constructed() -> None:
    with pytest.raises(TypeError, match=r"LoRALinear is not constructed.*\.transform\(linear, name, prefix\)"):
        LoRALinear(nn.Linear(4, 2), nn.Linear(4, 2))


def test_the_adapters_of_a_linear_describe_their_shards_together() -> None:
    model = build()
    adapted(model)
    adapters = model.decoder.layers[0].self_attention.linear_qkv.adapter
    with quiet():
        state = adapters.sharded_state_dict(prefix="x.")
    assert set(state) == {f"x.adapter_{part}.linear_{side}.weight" for part in "qkv" for side in ("in", "out")}
    assert {tuple(shard.global_shape) for shard in state.values()} == {(4, 32), (32, 4), (16, 4)}


def test_a_child_of_another_kind_describes_its_own_shards() -> None:
    class Other(nn.Module):
        def sharded_state_dict(self, prefix: str, *_options: Any) -> dict[str, str]:
            return {f"{prefix}weight": "mine"}

    assert clora.ModuleDict({"adapter_x": Other()}).sharded_state_dict("a.") == {"a.adapter_x.weight": "mine"}


def test_a_filter_knows_the_names_of_adapters() -> None:
    model = build()
    lora = adapted(model)
    keys = {"x.adapter.linear_in.weight": True, "x.adapters": True, "x.weight": False, "adapter": False}
    assert {key: lora.adapter_key_filter(key) for key in keys} == keys
    assert lora.adapter_key_filter(("any", nn.Parameter(torch.zeros(1))))
    assert not lora.adapter_key_filter(("any", torch.zeros(1)))


# Training.


def test_the_base_is_frozen_and_the_adapters_train() -> None:
    model = build()
    adapted(model)
    assert all(parameter.requires_grad == (".adapter." in name) for name, parameter in model.named_parameters())
    share = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert 0 < share < sum(each.numel() for each in model.parameters()) / 4


def test_the_first_forward_is_the_base_s_and_gradients_reach_every_b() -> None:
    model = build()
    base = lora_models.loss_of(model)
    adapted(model)
    loss = lora_models.loss_of(model)
    assert torch.equal(loss, base)
    loss.backward()
    named = dict(model.named_parameters())
    assert all(each.grad.abs().max() > 0 for name, each in named.items() if name.endswith("linear_out.weight"))
    assert all(each.grad is None for name, each in named.items() if ".adapter." not in name)


@pytest.mark.parametrize("kind", ["gqa", "grouped-experts", "mla"])
def test_parts_compute_what_the_formula_of_each_head_does(kind: str) -> None:
    # `test_wrappers` holds every kind against dense weights; here one linear against its deltas.
    model = build(kind)
    targets = ["linear_q_down_proj"] if kind == "mla" else ["linear_q", "linear_k", "linear_v"]
    adapted(model, target_modules=targets)
    lora_models.fill(model, only=".adapter.", std=0.2)
    linear = model.get_submodule(f"{ATTENTION}.{'linear_q_down_proj' if kind == 'mla' else 'linear_qkv'}")
    x = torch.randn(3, 2, 32)
    base, _, normed = linear.base_linear_forward(x)
    delta = linear(x)[0] - base
    if kind == "mla":
        torch.testing.assert_close(delta, linear.adapter(normed))
        return
    # Two groups of two query heads, a key and a value, 8 channels each.
    q, k, v = (linear.adapter[f"adapter_{part}"](normed).unflatten(-1, (2, -1)) for part in "qkv")
    torch.testing.assert_close(delta, torch.cat([q, k, v], dim=-1).flatten(-2))


def test_gate_and_up_compute_their_halves() -> None:
    model = build()
    adapted(model, target_modules=["linear_fc1_up", "linear_fc1_gate"])
    lora_models.fill(model, only=".adapter.", std=0.2)
    fc1, x = model.decoder.layers[0].mlp.linear_fc1, torch.randn(3, 2, 32)
    base, _, normed = fc1.base_linear_forward(x)
    gate, up = fc1.adapter.adapter_gate(normed), fc1.adapter.adapter_up(normed)
    torch.testing.assert_close(fc1(x)[0], base + torch.cat([gate, up], dim=-1))


def test_one_seed_gives_one_start() -> None:
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    def start() -> dict[str, torch.Tensor]:
        model = build()
        model_parallel_cuda_manual_seed(3, force_reset_rng=True)
        adapted(model)
        return {name: each for name, each in model.named_parameters() if ".adapter." in name}

    first, second = start(), start()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_training_sets_the_mode_of_the_whole_model_and_revert_undoes_it(before: bool, training: bool) -> None:
    model = Plain().train(before)
    model.norm.eval()
    adapted(model, training=training, target_modules=["linear_proj"], dropout=0.5)
    assert {module.training for module in model.modules()} == {training}
    x = torch.randn(64, 6)
    assert torch.equal(model(x), model(x)) is not training
    revert(model)
    assert [module.training for module in model.modules()] == [before, before, False, before, before]


def test_the_mode_of_a_wrapper_around_the_model_is_set_and_undone() -> None:
    from megatron.core.transformer.module import Float16Module

    model = build(dtype=torch.bfloat16)
    whole = Float16Module(model.config, model)
    adapted(whole, training=False)
    assert {module.training for module in whole.modules()} == {False}
    revert(whole)
    assert {module.training for module in whole.modules()} == {True}


def test_a_second_surgery_is_refused_and_a_second_transform_leaves_the_module() -> None:
    model = build()
    lora = adapted(model)
    before = {name: id(module) for name, module in model.named_modules()}
    with pytest.raises(AlreadyAdaptedError):
        lora(model)
    qkv = model.get_submodule(f"{ATTENTION}.linear_qkv")
    assert lora.transform(qkv, "linear_qkv", ATTENTION) is qkv
    assert {name: id(module) for name, module in model.named_modules()} == before


# Hooks of a subclass.


class KeepsNorms(CanonicalLoRA):
    """Trains the last norm beside the adapters."""

    def freeze_model(self, model: Any, training: bool = True) -> None:
        super().freeze_model(model, training=training)
        assert not any(".adapter." in name for name, _ in model.named_parameters())
        model.decoder.final_layernorm.requires_grad_(True)


def test_a_subclass_decides_what_else_trains(caplog: pytest.LogCaptureFixture) -> None:
    model = build()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    lora = KeepsNorms(target_modules=["linear_proj"], dim=4)
    with quiet(), caplog.at_level("WARNING", logger="clora"):
        lora(model)
    kept = {name for name, each in model.named_parameters() if each.requires_grad and ".adapter." not in name}
    assert kept == {"decoder.final_layernorm.weight"}
    assert kept < lora.params_to_save
    assert "1 parameters of the base stay trainable" in caplog.text
    lora_models.loss_of(model).backward()
    assert model.decoder.final_layernorm.weight.grad.abs().max() > 0
    revert(model)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_a_hook_that_fails_leaves_the_model_as_it_was() -> None:
    class Fails(CanonicalLoRA):
        def freeze_model(self, model: Any, training: bool = True) -> None:
            super().freeze_model(model, training=training)
            raise RuntimeError("no")

    model = Plain().eval()
    with pytest.raises(RuntimeError, match="no"):
        Fails(target_modules=["linear_proj"])(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("hook", ["transform", "match"])
def test_a_hook_that_nothing_calls_is_refused_where_it_is_written(hook: str) -> None:
    def mine(_self: CanonicalLoRA, m: nn.Module, **_where: str) -> nn.Module:
        return m

    with pytest.raises(TypeError, match=rf"Mine overrides {hook}, which clora never calls.*freeze_model"):
        type("Mine", (CanonicalLoRA,), {hook: mine})

    mixin = type("Mixin", (), {hook: mine})
    with pytest.raises(TypeError, match=hook):
        type("Mine", (mixin, CanonicalLoRA), {})

    @dataclass
    class WithAField(CanonicalLoRA):
        note: str = ""

    assert WithAField(target_modules=["linear_q"], note="x").canonical_mapping == {"linear_qkv": {"linear_q"}}


# Switches that reach past an adapter.


@pytest.mark.parametrize("training", [True, False])
def test_cached_latents_and_an_adapter_of_the_up_projection_are_refused(training: bool) -> None:
    model = build("mla")
    model.config.cache_mla_latents = True
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(SurgeryError, match=r"linear_kv_up_proj.*cache_mla_latents=False, or leave"):
        adapted(model, training=training, target_modules=["linear_proj", "linear_kv_up_proj"])
    assert {name: type(module) for name, module in model.named_modules()} == before
    adapted(model, training=training, target_modules=["linear_proj", "linear_kv_down_proj"])


@pytest.mark.parametrize(("kind", "targets"), [("gqa", ["linear_q"]), ("mla", ["linear_proj"])])
def test_clipped_queries_and_keys_are_refused_in_training(kind: str, targets: list[str]) -> None:
    model = build(kind)
    model.config.qk_clip = True
    with pytest.raises(SurgeryError, match="qk_clip=False"):
        adapted(model, target_modules=targets)
    adapted(model, training=False, target_modules=targets)


# The optimizer.


def test_learning_rates_by_the_names_of_the_factors() -> None:
    """LoRA+ of Megatron-Bridge gives megatron-core's optimizer these two patterns."""
    from megatron.core.optimizer import OptimizerConfig, ParamKey, _get_param_groups, get_standard_config_overrides

    model = build("grouped-experts")
    lora = adapted(model, target_modules=lora_models.TARGETS)
    config = OptimizerConfig(lr=1e-4, min_lr=1e-5)
    overrides = get_standard_config_overrides(config)
    overrides[ParamKey(name="*.linear_in.weight")] = {"max_lr": 1e-4, "min_lr": 1e-5}
    overrides[ParamKey(name="*.linear_out.weight")] = {"max_lr": 1.6e-3, "min_lr": 1.6e-4}
    with quiet():
        groups = _get_param_groups([model], config, overrides)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_rate: dict[float, set[str]] = {}
    for group in groups:
        by_rate.setdefault(group["max_lr"], set()).update(names[id(each)] for each in group["params"])
        assert group["wd_mult"] == 1
    assert by_rate == {
        rate: {name for name in lora.params_to_save if name.endswith(f"{side}.weight")}
        for rate, side in ((1e-4, "linear_in"), (1.6e-3, "linear_out"))
    }


# The page.


CASES: dict[str, Any] = {
    # what the case asks -> the test here, the case of test_planner.py, or the row of the page
    "initialization": test_fields_and_their_defaults,
    "post_init_mapping": test_the_mapping_of_names_and_of_wildcards,
    "invalid_targets": "a fused name as a target",
    "warns_on_unmatched_target_module": "a target that matches nothing",
    "respects_target_modules_mutation_after_construction": test_targets_changed_after_construction_count,
    "wildcard_mapping": test_the_mapping_of_names_and_of_wildcards,
    "transform_simple_model": test_linears_of_torch_are_wrapped_and_the_rest_is_left_alone,
    "transform_fused_layers": test_fused_linears_get_an_adapter_for_each_part,
    "treats_visual_linear_fc1_as_unfused": test_fc1_of_a_vision_tower_and_of_grouped_experts_is_adapted_as_a_whole,
    "treats_moe_expert_linear_fc1_as_unfused": test_fc1_of_a_vision_tower_and_of_grouped_experts_is_adapted_as_a_whole,
    "normalize_moe_lora_reduces_expert_dim": test_normalised_experts_have_a_smaller_rank,
    "normalize_moe_lora_aligns_expert_dim_to_expert_tp": "13 normalised, rounded up where A is split along the rank",
    "normalize_moe_lora_indivisible_raises": test_normalised_experts_have_a_smaller_rank,
    "transform_nested_model": test_linears_of_torch_below_experts_are_wrapped_like_any,
    "grouped_expert_transform_can_use_per_expert_adapters": test_each_expert_has_a_pair_when_they_share_none,
    "wildcard_matching": test_wildcards_choose_layers,
    "adapter_properties": test_an_adapter_has_the_attributes_that_others_read,
    "parameter_freezing": test_the_base_is_frozen_and_the_adapters_train,
    "forward_pass": test_the_first_forward_is_the_base_s_and_gradients_reach_every_b,
    "training_vs_inference_mode": test_training_sets_the_mode_of_the_whole_model_and_revert_undoes_it,
    "list_model_support": test_chunks_are_adapted_and_the_list_comes_back,
    "parameter_efficiency": test_the_base_is_frozen_and_the_adapters_train,
    "reproducibility": test_one_seed_gives_one_start,
    "transform_idempotent": "applied twice",
    "transform_idempotent_fused_layers": "applied twice",
    "megatron_style_qkv_transform": test_fused_linears_get_an_adapter_for_each_part,
    "megatron_style_fc1_transform": test_fused_linears_get_an_adapter_for_each_part,
    "module_dict_sharded_state_dict": test_the_adapters_of_a_linear_describe_their_shards_together,
    "lora_linear_split_qkv_forward": test_parts_compute_what_the_formula_of_each_head_does,
    "lora_linear_split_qkv_interleaves_gqa": test_parts_compute_what_the_formula_of_each_head_does,
    "lora_linear_split_qkv_infers_head_size_from_hidden_size": "a config without `kv_channels`",
    "lora_linear_split_fc1_up_gate_forward": test_gate_and_up_compute_their_halves,
    "with_gpt_model": test_fused_linears_get_an_adapter_for_each_part,
    "forward_pass_with_megatron_model": test_the_first_forward_is_the_base_s_and_gradients_reach_every_b,
    "full_pipeline": test_the_first_forward_is_the_base_s_and_gradients_reach_every_b,
}


def test_each_case_is_asked_here_or_stands_on_the_page() -> None:
    assert len(CASES) == 35
    rows = {line.split("|")[1].strip() for line in PAGE.read_text().splitlines() if line.startswith("| ")}
    planned = Path(__file__).with_name("test_planner.py").read_text()
    named = {case for case in CASES.values() if isinstance(case, str) and f'"{case}"' not in planned}
    assert len(named) == 4
    assert named <= rows
