"""Surgery is all or nothing, is undone without a trace, and refuses what it cannot do."""

from __future__ import annotations

import copy
from typing import Any

import lora_models
import msgspec
import pytest
import tiny_models
import torch
from torch import nn

import clora
from clora import AlreadyAdaptedError, CanonicalLoRA, LoRALinear, SurgeryError, revert
from clora.errors import UnmatchedTargetError
from clora.wrappers import adapted_modules
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

SERIAL = Layout()
LORA: dict[str, Any] = {"target_modules": lora_models.TARGETS, "dim": 4, "alpha": 6}


pytestmark = pytest.mark.usefixtures("one_rank")


def build(kind: str, **fields: Any) -> Any:
    (model,) = lora_models.build(kind, SERIAL, **{"dtype": torch.float32, **fields})
    return model


def operate(model: Any, *, training: bool = True, **fields: Any) -> CanonicalLoRA:
    lora = CanonicalLoRA(**{**LORA, **fields})
    with quiet():
        lora(model, training=training)
    return lora


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return everything about every module that surgery could leave changed."""
    return {
        name: (
            id(module),
            type(module),
            {
                key: value if isinstance(value, bool | int | float | str | None) else id(value)
                for key, value in vars(module).items()
                if key[0] != "_"
            },
            list(module._modules),
            [
                (key, id(parameter), parameter.requires_grad)
                for key, parameter in module._parameters.items()
                if parameter is not None
            ],
            len(module._forward_pre_hooks) + len(module._forward_hooks),
            module.training,
        )
        for name, module in model.named_modules()
    }


class Toy(nn.Module):
    """A model of torch's own linears."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.linear_in = nn.Linear(6, 4)
        self.linear_out = last or nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_out(self.linear_in(x))  # type: ignore[no-any-return]


class Unadaptable(nn.Linear):
    """A linear that fails when an adapter is added to it."""

    def add_module(self, name: str, module: nn.Module | None) -> None:  # noqa: ARG002 - nn.Module's signature
        raise RuntimeError(f"no room for {name}")


# The adapted model.


def test_parameters_are_called_as_in_megatron_bridge_and_the_bases_keep_their_names() -> None:
    model = build("shared-experts")
    before = set(model.state_dict())
    operate(model, share_expert_adapters=False)
    names = set(model.state_dict())
    assert before < names
    assert {name.split(".adapter.")[0] for name in names - before} == {name for name, _ in adapted_modules(model)}
    assert {
        "decoder.layers.0.self_attention.linear_qkv.adapter.adapter_q.linear_in.weight",
        "decoder.layers.1.mlp.shared_experts.linear_fc1.adapter.adapter_gate.linear_out.weight",
        "decoder.layers.0.self_attention.linear_proj.adapter.linear_in.weight",
        "decoder.layers.0.mlp.experts.linear_fc1.adapter.linear_in.weight",
        "decoder.layers.0.mlp.router.adapter.linear_out.weight",
    } < names


def test_an_adapted_linear_is_still_its_base() -> None:
    model = build("gqa")
    linears = [
        layer.get_submodule(path)
        for layer in model.decoder.layers
        for path in ("self_attention.linear_qkv", "mlp.linear_fc1", "mlp.linear_fc2")
    ]
    classes = [type(linear) for linear in linears]
    operate(model)
    for linear, base in zip(linears, classes, strict=True):
        assert isinstance(linear, base)
        assert isinstance(linear, clora.wrappers.Adapted)
        assert linear.weight.shape == (linear.out_features, linear.in_features)
        assert linear.config is model.config
        linear.backward_dw()
    first = model.decoder.layers[0]
    for linear, base in zip(linears, classes, strict=True):
        # Others look up the name to know how the weight is split.
        assert (type(linear).__name__, type(linear).__module__) == (base.__name__, base.__module__)
    assert "(linear_qkv): LoRALinearSplitQKV(" in repr(model)
    assert "(adapter_v): ParallelLinearAdapter(" in repr(model)
    assert isinstance(first.self_attention.linear_qkv, clora.LoRALinearSplitQKV)
    assert isinstance(first.self_attention.linear_qkv.adapter, clora.ModuleDict)
    assert isinstance(first.mlp.linear_fc1, clora.LoRALinearSplitFC1UpGate)
    assert isinstance(first.mlp.linear_fc2, LoRALinear)
    assert first.mlp.linear_fc2.to_wrap is first.mlp.linear_fc2


def test_a_base_checkpoint_saved_before_surgery_loads_after_it() -> None:
    model = build("grouped-experts")
    saved = {name: copy.deepcopy(value) for name, value in model.state_dict().items()}
    operate(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapter." not in name:
                parameter.zero_()
    found = model.load_state_dict(saved, strict=False)
    assert not found.unexpected_keys
    assert all(".adapter." in name for name in found.missing_keys)
    assert all(
        torch.equal(value, saved[name])
        for name, value in model.state_dict().items()
        if isinstance(value, torch.Tensor) and name in saved
    )


def test_missing_parts_have_no_adapter() -> None:
    model = build("gqa")
    operate(model, target_modules=["linear_q", "linear_v", "linear_fc1_up"])
    layer = model.decoder.layers[0]
    assert list(layer.self_attention.linear_qkv.adapter) == ["adapter_q", "adapter_v"]
    assert list(layer.mlp.linear_fc1.adapter) == ["adapter_up"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_adapters_have_the_dtype_of_their_base(dtype: torch.dtype) -> None:
    from megatron.core.transformer.module import Float16Module

    model = build("gqa", dtype=dtype)
    whole = Float16Module(model.config, model) if dtype in (torch.float16, torch.bfloat16) else model
    operate(whole)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    lora_models.loss_of(whole).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_half_precision_after_surgery_takes_the_adapters_along() -> None:
    from megatron.core.transformer.module import Float16Module

    model = build("gqa", dtype=torch.float32)
    operate(model)
    model.config.bf16 = True
    whole = Float16Module(model.config, model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    lora_models.loss_of(whole).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_names_under_a_vision_model_are_adapted_as_a_whole() -> None:
    tower = nn.Module()
    tower.vision_model = build("gqa")
    operate(tower)
    layer = tower.vision_model.decoder.layers[0]
    linears = (layer.self_attention.linear_qkv, layer.mlp.linear_fc1)
    assert all(
        isinstance(linear, LoRALinear) and isinstance(linear.adapter, clora.ParallelLinearAdapter) for linear in linears
    )
    lora_models.fill(tower.vision_model, only=".adapter.", std=0.2)
    lora_models.loss_of(tower.vision_model).backward()
    assert all(parameter.grad.abs().max() > 0 for name, parameter in tower.named_parameters() if ".adapter." in name)


def test_the_linears_of_torch_are_adapted_and_may_be_copied() -> None:
    model = Toy()
    x = torch.randn(3, 6)
    base = model(x)
    operate(model, target_modules=["linear_in", "linear_out"], dim=2)
    assert torch.equal(model(x), base)
    with torch.no_grad():
        model.linear_in.adapter.linear_out.weight.fill_(1.0)
    weight = (
        model.linear_in.weight
        + 6 / 2 * model.linear_in.adapter.linear_out.weight @ model.linear_in.adapter.linear_in.weight
    )
    expected = nn.functional.linear(
        nn.functional.linear(x, weight, model.linear_in.bias), model.linear_out.weight, model.linear_out.bias
    )
    torch.testing.assert_close(model(x), expected)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    revert(twin)
    assert torch.equal(twin(x), base)
    assert isinstance(model.linear_in, LoRALinear)
    assert not isinstance(twin.linear_in, LoRALinear)


@pytest.mark.parametrize("kind", tiny_models.MESH_KINDS)
def test_every_kind_of_model_is_adapted_and_reverted(kind: str) -> None:
    pytest.importorskip("einops", reason="megatron-core's Mamba mixer is built with einops")
    model = tiny_models.build(kind, SERIAL, "cpu")
    before = state_of(model)
    operate(model, target_modules=[*lora_models.TARGETS, "in_proj", "out_proj"])
    plain = [
        name for name, parameter in model.named_parameters() if ".adapter." not in name and parameter.requires_grad
    ]
    assert not plain
    adapted = {name.rpartition(".")[2] for name, _ in adapted_modules(model)}
    assert adapted >= {
        "mamba": {"in_proj", "out_proj", "linear_qkv"},
        "qwen3-next": {"in_proj", "out_proj", "router"},
    }.get(kind, set())
    revert(model)
    assert state_of(model) == before


# Reverting, and failing.


@pytest.mark.parametrize("kind", ["gqa", "shared-experts", "mla-moe-mtp"])
def test_revert_gives_back_the_model_that_was_there(kind: str) -> None:
    model = build(kind, recompute_granularity="full", recompute_method="uniform", recompute_num_layers=1)
    model.embedding.requires_grad_(False)
    model.eval()
    loss = lora_models.loss_of(model)  # Transformer Engine stores in a module that it has run.
    before, config = state_of(model), dict(vars(model.config))
    operate(model)
    assert state_of(model) != before
    lora_models.fill(model, only=".adapter.", std=0.2)
    assert not torch.equal(lora_models.loss_of(model), loss)
    revert(model)
    assert state_of(model) == before
    assert vars(model.config) == config
    assert torch.equal(lora_models.loss_of(model), loss)
    operate(model)
    assert sum(1 for _ in adapted_modules(model)) > 0


def test_looking_changes_nothing() -> None:
    model = build("mla-moe-mtp")
    before, config = state_of(model), dict(vars(model.config))
    plan = CanonicalLoRA(**LORA).plan(model)
    assert state_of(model) == before
    assert vars(model.config) == config
    operate(model)
    assert vars(model.config) == config
    assert CanonicalLoRA(**LORA).plan(model) == plan


def test_a_failure_at_the_last_placement_leaves_the_model_as_it_was() -> None:
    model = Toy(Unadaptable(4, 2))
    before = state_of(model)
    with pytest.raises(RuntimeError, match="no room for adapter"):
        operate(model, target_modules=["linear_in", "linear_out"], dim=2)
    assert state_of(model) == before


def wrong_shape(plan: clora.Plan) -> clora.Plan:
    last = msgspec.structs.replace(plan.placements[-1], a_shape=(4, 5))
    return msgspec.structs.replace(plan, placements=(*plan.placements[:-1], last))


def wrong_path(plan: clora.Plan) -> clora.Plan:
    last = msgspec.structs.replace(plan.placements[-1], module="decoder.layers.7.mlp.linear_fc2")
    return msgspec.structs.replace(plan, placements=(*plan.placements[:-1], last))


def wrong_class(plan: clora.Plan) -> clora.Plan:
    last = msgspec.structs.replace(plan.placements[-1], base_class="TELinear")
    return msgspec.structs.replace(plan, placements=(*plan.placements[:-1], last))


def wrong_adapter(plan: clora.Plan) -> clora.Plan:
    last = msgspec.structs.replace(plan.placements[-1], adapter_class="VeryLinearAdapter")
    return msgspec.structs.replace(plan, placements=(*plan.placements[:-1], last))


def twice_the_same(plan: clora.Plan) -> clora.Plan:
    return msgspec.structs.replace(plan, placements=(*plan.placements, plan.placements[-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong_shape, r"the plan's A is \[4, 5\]"),
        (wrong_path, r"the model has no such module"),
        (wrong_class, r"has a TELinear at .*, and the model has a"),
        (wrong_adapter, r"VeryLinearAdapter.*knows no such class"),
        (twice_the_same, r"placements exactly once"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_plan_that_is_not_of_this_model_is_refused_and_nothing_touched(change: Any, message: str) -> None:
    model = build("gqa")
    lora = CanonicalLoRA(**LORA)
    before = state_of(model)
    with pytest.raises(SurgeryError, match=message), quiet():
        clora.apply(change(lora.plan(model)), model, lora)
    assert state_of(model) == before


def test_a_second_surgery_is_refused_and_the_first_still_trains() -> None:
    model = build("gqa")
    lora = operate(model)
    with pytest.raises(AlreadyAdaptedError, match=r"9 adapted modules already.*linear_proj.*clora\.revert"):
        lora(model)
    assert lora.params_to_save == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(".adapter." in name and ".adapter.adapter." not in name for name in lora.params_to_save)


def test_an_embedding_is_refused_before_anything_is_changed() -> None:
    model = build("gqa")
    before = state_of(model)
    with pytest.raises(clora.CloraError, match="embedding"):
        operate(model, target_modules=["linear_q", "embedding"])
    assert state_of(model) == before


def test_gradient_buffers_made_before_the_adapters_are_refused() -> None:
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig

    model = build("gqa")
    ddp = DistributedDataParallel(model.config, DistributedDataParallelConfig(), model)
    base = lora_models.loss_of(ddp)
    before = state_of(model)
    with pytest.raises(SurgeryError, match="gradient buffers were made for the base's parameters"):
        operate(ddp)
    assert state_of(model) == before
    operate(ddp, training=False)
    assert torch.equal(lora_models.loss_of(ddp), base)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    revert(ddp)
    assert state_of(model) == before


def test_a_reducer_made_before_the_adapters_is_refused() -> None:
    model = build("gqa")
    from megatron.core import parallel_state as mpu

    ddp = torch.nn.parallel.DistributedDataParallel(model, process_group=mpu.get_data_parallel_group())
    before = state_of(model)
    with pytest.raises(SurgeryError, match="inside DistributedDataParallel already"):
        operate(ddp)
    assert state_of(model) == before
    operate(ddp, training=False)
    revert(ddp)
    assert state_of(model) == before


def test_an_mlp_that_never_calls_its_linears_is_refused() -> None:
    from megatron.core.extensions.transformer_engine import TEFusedMLP

    model = build("gqa")
    model.decoder.layers[1].mlp.__class__ = TEFusedMLP
    before = state_of(model)
    with pytest.raises(
        SurgeryError, match=r"layers\.1\.mlp\.linear_fc1 is in a TEFusedMLP.*use_transformer_engine_op_fuser=False"
    ):
        operate(model)
    assert state_of(model) == before


def test_experts_that_never_call_their_linears_are_refused() -> None:
    model = build("grouped-experts")
    # The attribute that megatron-core sets from 0.18.
    model.decoder.layers[1].mlp.experts._with_fused_impl = True
    before = state_of(model)
    with pytest.raises(
        SurgeryError, match=r"experts\.linear_fc1 is in a TEGroupedMLP.*use_transformer_engine_op_fuser=False"
    ):
        operate(model)
    assert state_of(model) == before


def test_targets_that_select_nothing_are_told_with_the_names_that_the_model_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = build("mla")
    before = state_of(model)
    with pytest.raises(
        UnmatchedTargetError, match=r"nothing would be trained.*'linear_q' \(the model has .*linear_q_up_proj"
    ):
        operate(model, target_modules=["linear_q", "linear_v"])
    assert state_of(model) == before
    with caplog.at_level("WARNING", logger="clora"):
        CanonicalLoRA(target_modules=["linear_q", "linear_proj"], dim=4)(model)
    (record,) = (record for record in caplog.records if record.name == "clora")
    assert "'linear_q' (the model has linear_q_" in record.getMessage()


# Using the adapted model.


def test_all_chunks_of_an_interleaved_pipeline_are_adapted_and_reverted() -> None:
    chunks = [build("gqa"), build("gqa")]
    lora = operate(chunks)
    assert len(lora.plan(chunks).placements) == 2 * len(lora.plan(chunks[0]).placements)
    assert all(any(True for _ in adapted_modules(chunk)) for chunk in chunks)
    revert(chunks)
    assert not any(True for chunk in chunks for _ in adapted_modules(chunk))


def test_disabled_adapters_do_not_count() -> None:
    model = build("shared-experts")
    base = lora_models.loss_of(model)
    lora = operate(model)
    lora_models.fill(model, only=".adapter.", std=0.2)
    moved = lora_models.loss_of(model)
    assert not torch.equal(moved, base)
    with lora.disable_adapter(model):
        assert torch.equal(lora_models.loss_of(model), base)
    assert torch.equal(lora_models.loss_of(model), moved)
    lora.disable_adapter_layers(model)
    assert torch.equal(lora_models.loss_of(model), base)
    with lora.disable_adapter(model):
        pass
    assert torch.equal(lora_models.loss_of(model), base)
    lora.enable_adapter_layers(model)
    assert torch.equal(lora_models.loss_of(model), moved)
    router = model.decoder.layers[0].mlp.router
    router.disable_adapter_layers()
    assert not torch.equal(lora_models.loss_of(model), moved)
    router.enable_adapter_layers()
    assert torch.equal(lora_models.loss_of(model), moved)


def test_without_training_the_adapters_are_frozen_too() -> None:
    model = build("gqa")
    lora = operate(model, training=False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for _, adapted in adapted_modules(model) for module in adapted.adapter.modules())
    assert lora.params_to_save == set()


def test_the_filter_of_a_checkpoint_lets_adapters_through() -> None:
    model = build("gqa")
    lora = operate(model)
    for name, parameter in model.named_parameters():
        assert lora.adapter_key_filter(name) == (".adapter." in name)
        assert lora.adapter_key_filter((name, parameter)) == (".adapter." in name)


def test_transform_adapts_one_module_and_leaves_the_rest_alone() -> None:
    model = build("gqa")
    lora = CanonicalLoRA(dim=4)
    attention, norm = model.decoder.layers[0].self_attention, model.decoder.final_layernorm
    with quiet():
        assert (
            lora.transform(attention.linear_qkv, "linear_qkv", "decoder.layers.0.self_attention")
            is attention.linear_qkv
        )
        assert (
            lora.transform(attention.linear_qkv, "linear_qkv", "decoder.layers.0.self_attention")
            is attention.linear_qkv
        )
        assert lora.transform(norm, "final_layernorm", "decoder") is norm
    assert [name for name, _ in adapted_modules(model)] == ["decoder.layers.0.self_attention.linear_qkv"]
    assert list(attention.linear_qkv.adapter) == ["adapter_q", "adapter_k", "adapter_v"]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_target_changed_after_construction_counts() -> None:
    model = build("gqa")
    lora = CanonicalLoRA(dim=4)
    lora.target_modules = ["linear_proj"]
    with quiet():
        lora(model)
    assert {name.rpartition(".")[2] for name, _ in adapted_modules(model)} == {"linear_proj"}


def test_excluding_wraps_everything_else() -> None:
    model = build("gqa")
    operate(model, target_modules=[], exclude_modules=["output_layer", "linear_k"])
    assert {name.rpartition(".")[2] for name, _ in adapted_modules(model)} == {
        "linear_qkv",
        "linear_proj",
        "linear_fc1",
        "linear_fc2",
    }
    assert list(model.decoder.layers[0].self_attention.linear_qkv.adapter) == ["adapter_q", "adapter_v"]
