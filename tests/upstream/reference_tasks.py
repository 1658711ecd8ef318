"""What each rank of a probe of Megatron-Bridge does. `reference_probes.py` calls these functions by
name in processes of their own, and reads what they return.

Each builds a small model of megatron-core, lets Megatron-Bridge's `CanonicalLoRA` adapt it, and
tells what happened. A function that returns a bool tells whether the fault is there.
"""

from __future__ import annotations

import os
from dataclasses import fields as fields_of
from inspect import signature
from pathlib import Path
from typing import Any

import lora_models
import torch
from torch import nn

from clora.errors import described
from clora_inspect.bridge.canonical_lora import BridgeLoRA
from clora_inspect.bridge.installed import part
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet

ALONE = Layout()
CLORA = "PROBE_CLORA"
"""Environment variable that lets clora adapt the models, which has none of the faults."""
ATTENTION = ["linear_q", "linear_k", "linear_v"]
MLP = ["linear_fc1_up", "linear_fc1_gate", "linear_fc2"]


def _adapted(kind: str, targets: list[str], layout: Layout = ALONE, **fields: Any) -> Any:
    """Return a model of `kind` that Megatron-Bridge has adapted, with `fields` of its config. Those
    that begin with `lora_` are fields of the LoRA.
    """
    lora = {name.removeprefix("lora_"): value for name, value in fields.items() if name.startswith("lora_")}
    model_fields = {name: value for name, value in fields.items() if not name.startswith("lora_")}
    return _apply(lora_models.build(kind, layout, **model_fields), targets, **lora)[0]


def _apply(chunks: list[Any], targets: list[str], **fields: Any) -> list[Any]:
    wanted = {"target_modules": targets, "dim": 8, **fields}
    with quiet():
        if CLORA in os.environ:
            from clora.canonical_lora import CanonicalLoRA

            CanonicalLoRA(**wanted)(chunks)
            return chunks
        # It also lets Megatron-Bridge see the stand-in for Transformer Engine.
        BridgeLoRA.installed()
        adapted: list[Any] = part("peft.canonical_lora").CanonicalLoRA(**wanted)(chunks, training=True)
    return adapted


def _fields() -> set[str]:
    """Return the names of the fields of the LoRA."""
    if CLORA in os.environ:
        from clora.canonical_lora import CanonicalLoRA

        return {each.name for each in fields_of(CanonicalLoRA)}
    BridgeLoRA.installed()
    return {each.name for each in fields_of(part("peft.canonical_lora").CanonicalLoRA)}


def _step(model: Any, length: int = 8) -> torch.Tensor:
    """Run forward and backward; return the loss of each token."""
    # One row, so that an odd length is an odd number of tokens.
    tokens, positions, labels = (each[:1] for each in lora_models.batch(length))
    loss: torch.Tensor = model(tokens, positions, None, labels=labels)
    if loss.requires_grad:
        loss.sum().backward()
    return loss.detach()


def _raised(action: Any) -> str:
    """Return the error of `action`, as text; empty if there is none."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - foreign code raises anything
        return described(error)
    return ""


def _adapters(model: Any) -> list[str]:
    """Return the paths of all adapters, the parts of a fused linear included."""
    names = (name for name, _ in model.named_parameters() if name.endswith("linear_in.weight"))
    return [name.removesuffix(".linear_in.weight") for name in names]


def regex_wildcards() -> bool:
    adapters = _adapters(_adapted("gqa", ["*.layers.1.*.linear_proj"], num_layers=12))
    assert any(".layers.1." in name for name in adapters), adapters
    return any(".layers.10." in name for name in adapters)


def first_match_wins() -> bool:
    adapters = _adapters(_adapted("gqa", ["*.layers.0.*.linear_q", "linear_k", "linear_v", "linear_q"]))
    first = {name.rpartition(".")[2] for name in adapters if ".layers.0." in name}
    assert "adapter_q" in first, adapters
    return first != {"adapter_q", "adapter_k", "adapter_v"}


def partial_crashes() -> bool:
    model = _adapted("gqa", ["linear_q", "linear_v"])
    return "NoneType" in _raised(lambda: _step(model))


def partial_cannot_save() -> bool:
    model = _adapted("gqa", ["linear_q", "linear_v"])
    return "NoneType" in _raised(model.sharded_state_dict)


def catch_all_crashes() -> bool:
    """Name the fused linear by a wildcard: it is wrapped with no adapter at all."""
    model = _adapted("gqa", ["*.self_attention.linear_*"])
    fused = [name for name in _adapters(model) if "linear_qkv" in name]
    return not fused and "NoneType" in _raised(lambda: _step(model))


def exclude_crashes() -> bool:
    error = _raised(lambda: _adapted("gqa", [], lora_exclude_modules=["output_layer"]))
    return "exclude_modules should be empty" in error


def no_target_is_one_kind() -> bool:
    """Leave both lists empty: everything is meant to be adapted."""
    return len({name.split(".")[-2] for name in _adapters(_adapted("gqa", []))}) == 1


def no_output_gate() -> bool:
    model = _adapted("output-gate", ATTENTION)
    return "size" in _raised(lambda: _step(model))


def splits_ungated() -> bool:
    adapters = _adapters(_adapted("no-gate", MLP))
    return any(name.endswith("adapter_gate") for name in adapters)


def splits_experts() -> bool:
    adapters = _adapters(_adapted("grouped-experts", MLP))
    assert any(".experts.linear_fc1" in name for name in adapters), adapters
    return any(".experts.linear_fc1.adapter.adapter_gate" in name for name in adapters)


def router_crashes() -> bool:
    model = _adapted("grouped-experts", ["router"])
    assert _adapters(model)
    return "positional argument" in _raised(lambda: _step(model))


def applied_twice_freezes() -> bool:
    chunks = _apply(lora_models.build("gqa", ALONE), ATTENTION)
    before = [name for name, each in chunks[0].named_parameters() if each.requires_grad]
    assert before
    _raised(lambda: _apply(chunks, ATTENTION))
    return not any(each.requires_grad for each in chunks[0].parameters())


def unmatched_is_silent() -> bool:
    """Ask for a linear that no model has, and read what is logged or raised."""
    chunks = lora_models.build("gqa", ALONE)
    with quiet() as noise:
        raised = _raised(lambda: _apply(chunks, [*ATTENTION, "linear_nowhere"]))
    told = [raised, *(text for _, text in (*noise.records, *noise.warnings, *noise.output))]
    return not any("linear_nowhere" in text for text in told)


def embedding_breaks_off() -> bool:
    return _breaks_off(["linear_proj", "word_embeddings"])


def odd_rank_breaks_off(layout: Layout) -> bool:
    return _breaks_off(["linear_proj", *ATTENTION], layout, dim=7)


def _breaks_off(targets: list[str], layout: Layout = ALONE, **fields: Any) -> bool:
    """Tell whether the surgery raises after it has changed a part of the model."""
    chunks = lora_models.build("gqa", layout)
    before = [(name, each.requires_grad) for name, each in chunks[0].named_parameters()]
    raised = _raised(lambda: _apply(chunks, targets, **fields))
    return bool(raised) and before != [(name, each.requires_grad) for name, each in chunks[0].named_parameters()]


def init_spread(layout: Layout) -> float:
    """Return the standard deviation of A of a row-parallel linear."""
    model = _adapted("gqa", ["linear_proj"], layout, lora_dim=64, hidden_size=256, num_attention_heads=32)
    [first, *_] = [each for name, each in model.named_parameters() if name.endswith("linear_in.weight")]
    return float(first.std())


def recompute_trains_nothing() -> bool:
    fields = {"recompute_granularity": "selective", "recompute_modules": ["mlp"], "num_layers": 1}
    trained = []
    for recomputed in ({}, fields):
        model = _adapted("gqa", ["linear_fc2"], lora_lora_B_init_method="normal", **recomputed)
        _step(model)
        grads = [each.grad for each in model.parameters() if each.requires_grad]
        trained.append(any(grad is not None and grad.any() for grad in grads))
    assert trained[0], "without recomputation nothing is trained either"
    return not trained[1]


def delayed_gradients_break() -> bool:
    """Call what megatron-core calls after the backward where `delay_wgrad_compute` is on."""
    model = _adapted("gqa", [*ATTENTION, "linear_proj"])
    return "backward_dw" in _raised(model.decoder.layers[0].self_attention.backward_dw)


def qk_clip_breaks() -> bool:
    return "no attribute" in _clipped("gqa", ATTENTION)[0]


def qk_clip_is_lost() -> bool:
    """Tell whether clipping of latent attention runs through its adapted linears and changes
    nothing.
    """
    raised, changed = _clipped("mla", ["linear_q_up_proj", "linear_kv_up_proj"])
    assert _clipped("mla", ["linear_proj"]) == ("", True), "clipping changes no base either"
    return not raised and not changed


def _clipped(kind: str, targets: list[str]) -> tuple[str, bool]:
    """Clip queries and keys; return the error, and whether a weight has changed."""
    model = _adapted(kind, targets, qk_clip=True, qk_clip_threshold=0.1)
    attention = model.decoder.layers[0].self_attention
    heads = attention.num_attention_heads_per_partition
    attention.core_attention.current_max_attn_logits = torch.full((heads,), 10.0, dtype=torch.float64)
    before = {name: each.detach().clone() for name, each in attention.named_parameters()}
    raised = _raised(attention.clip_qk)
    return raised, any(not torch.equal(before[name], each) for name, each in attention.named_parameters())


def absorption_breaks() -> bool:
    """Prepare latent attention for a cache of latents, as dynamic inference does."""
    model = _adapted("mla", ["linear_kv_up_proj"])
    return "no attribute" in _raised(model.decoder.layers[0].self_attention.prepare_for_absorption)


def splits_whole_adapters(layout: Layout) -> bool:
    """Tell whether the up adapter of a gated MLP is saved in twice as many pieces as it has."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    model = _adapted("gqa", MLP, layout)
    state = model.sharded_state_dict()
    [entry] = [
        each
        for name, each in state.items()
        if name.endswith("layers.0.mlp.linear_fc1.adapter.adapter_up.linear_out.weight")
    ]
    return isinstance(entry, ShardedTensorFactory)


def saves_expert_axis(layout: Layout) -> bool:
    """Tell whether the pair that experts share is saved with a dim for the experts."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory

    model = _adapted("grouped-experts", MLP, layout)
    state = model.sharded_state_dict()
    entries = [
        each for name, each in state.items() if "layers.0.mlp.experts.linear_fc2.adapter.linear_in.weight" in name
    ]
    assert entries, sorted(state)
    built = entries[0].build() if isinstance(entries[0], ShardedTensorFactory) else entries[0]
    first = built[0] if isinstance(built, list) else built
    return len(first.global_shape) > 2 and 4 in first.global_shape


def starts_apart(layout: Layout) -> bool:
    """Tell whether the ranks of an expert-parallel group start with different pairs."""
    return _differs(_shared_pair(_adapted("grouped-experts", MLP, layout)))


def drifts_apart(layout: Layout) -> bool:
    """Tell whether ranks of an expert-parallel group get different gradients for their pair."""
    model = _adapted("grouped-experts", MLP, layout)
    lora_models.fill(model, only="adapter", std=0.1)
    _step(model)
    return _differs([each.grad for each in _reduced_by_experts(model)])


def drifts_apart_with_fused_gradients(layout: Layout) -> bool:
    """Repeat `drifts_apart` with the fused kernel that accumulates gradients, on by default."""
    from megatron.core.tensor_parallel import layers

    from clora_inspect.virtual.attributes import replaced

    class Kernel:
        """The arithmetic of Apex's kernel."""

        @staticmethod
        def wgrad_gemm_accum_fp32(inputs: torch.Tensor, outputs: torch.Tensor, total: torch.Tensor) -> None:
            total += (outputs.flatten(0, -2).T @ inputs.flatten(0, -2)).to(total.dtype)

        wgrad_gemm_accum_fp16 = wgrad_gemm_accum_fp32

    here = vars(layers)
    there = {"fused_weight_gradient_mlp_cuda": here.get("fused_weight_gradient_mlp_cuda")}
    layers.fused_weight_gradient_mlp_cuda = Kernel
    try:
        with replaced(layers, {"_grad_accum_fusion_available": True}):
            chunks = lora_models.build("grouped-experts", layout)
            chunks[0].config.gradient_accumulation_fusion = True
            [model] = _apply(chunks, MLP)
            lora_models.fill(model, only="adapter", std=0.1)
            for each in model.parameters():
                each.main_grad = torch.zeros_like(each, dtype=torch.float32)
                each.grad_added_to_main_grad = False
            _step(model)
            pair = _reduced_by_experts(model)
            assert all(each.grad_added_to_main_grad for each in pair), "the kernel was not called"
            return _differs([each.main_grad for each in pair])
    finally:
        vars(layers).update(there)


def _shared_pair(model: Any) -> list[nn.Parameter]:
    pair = [each for name, each in model.named_parameters() if ".experts." in name and "adapter" in name]
    assert pair
    return pair


def _reduced_by_experts(model: Any) -> list[nn.Parameter]:
    """Return the factors of the pair whose gradients nobody adds up over the ranks of the group:
    those that megatron-core reduces over the copies of one expert.
    """
    return [each for each in _shared_pair(model) if not getattr(each, "allreduce", True)]


def _differs(tensors: list[Any]) -> bool:
    """Return whether the ranks of the expert-parallel group have different `tensors`."""
    from megatron.core import parallel_state

    group = parallel_state.get_expert_model_parallel_group()
    for tensor in tensors:
        assert tensor is not None
        mine = tensor.detach().contiguous()
        others = [torch.empty_like(mine) for _ in range(group.size())]
        torch.distributed.all_gather(others, mine, group=group)
        if any(not torch.allclose(each, mine, rtol=1e-4, atol=1e-7) for each in others):
            return True
    return False


def meta_is_refused(layout: Layout) -> bool:
    """Adapt a model whose experts share a pair where new parameters are made on the meta device."""
    chunks = lora_models.build("grouped-experts", layout)
    chunks[0].to("meta")
    # Otherwise megatron-core names the device itself.
    chunks[0].config.use_cpu_initialization = True
    with torch.device("meta"):
        return "materialized" in _raised(lambda: _apply(chunks, MLP))


def averages_over_wrong_ranks(layout: Layout) -> bool:
    """Tell whether a pair per expert is marked as if the dense data-parallel group averaged it."""
    if "share_expert_adapters" not in _fields():
        return False
    model = _adapted("grouped-experts", MLP, layout, lora_share_expert_adapters=False)
    return any(getattr(each, "allreduce", True) for each in _shared_pair(model))


def rows_change_places(layout: Layout) -> bool:
    """Export the experts' fc1 adapter from two ranks of expert tensor parallelism, whose rows are
    gate, up, gate, up.
    """
    # Split adapters are exported one by one.
    if splits_experts():
        return False
    bridge = _exporter().MegatronPeftBridge()
    rows = torch.arange(8.0).unsqueeze(1)
    gate, _ = bridge._split_fused_fc1_linear_out_weight(rows, is_expert=True)
    return gate.flatten().tolist() != [0, 1, 4, 5]


def _exporter() -> Any:
    """Import the module that exports adapters, without what imports all models."""
    import sys
    from types import ModuleType

    peft = part("peft")
    for name in ("models", "models.conversion"):
        package = ModuleType(f"megatron.bridge.{name}")
        package.__path__ = [str(Path(next(iter(peft.__path__))).parent / name.replace(".", "/"))]
        sys.modules.setdefault(package.__name__, package)
    return part("models.conversion.peft_bridge")


def writes_patterns() -> bool:
    """Tell whether nothing makes names of Hugging Face of the targets of adapter_config.json."""
    exporter = _exporter()
    if not hasattr(exporter, "infer_target_modules_from_adapter_weights"):
        return True
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"
    return "o_proj" not in {
        each.rpartition(".")[2] for each in exporter.infer_target_modules_from_adapter_weights([name])
    }


def losses(kind: str, targets: list[str], length: int, fields: dict[str, Any], layout: Layout) -> list[Any]:
    """Return the loss of each token of a model without adapters, and with them. An error takes the
    place of the loss that it prevents.
    """
    base = _step(lora_models.build(kind, layout, **fields)[0], length)
    made: list[torch.Tensor] = []

    def step() -> None:
        model = _adapted(kind, targets, layout, **fields)
        lora_models.fill(model, only="adapter", std=0.3)
        made.append(_step(model, length))

    error = _raised(step)
    return [base, error or made[0]]


def tasks(wanted: list[list[Any]], layout: dict[str, Any]) -> list[Any]:
    """Call functions of this module one after another, each with the layout if it takes one.

    Args:
        wanted: their names, each with its arguments.
        layout: the sizes of the layout of these ranks.

    Returns:
        What each returned; for one that raised, a dict with the error.
    """
    return [_called(name, layout, args) for name, *args in wanted]


def _called(name: str, layout: dict[str, Any], args: list[Any]) -> Any:
    function = globals()[name]
    sizes = {"layout": Layout(**layout)} if "layout" in signature(function).parameters else {}
    try:
        return function(*args, **sizes)
    except Exception as error:  # noqa: BLE001 - one that cannot run stops no other
        return {"error": described(error, 300)}
