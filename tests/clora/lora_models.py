"""Build small models with every kind of layer that surgery meets, and fill them by name.

The full matrix of a parameter is drawn from its name in the whole model, and each rank takes its
shard. So one model has the same values on every layout. The rules for the shards are written here:
they know how megatron-core packs, and share nothing with those of clora.
"""

from __future__ import annotations

import math
import re
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiny_models
import torch

from clora.layer_pattern import LayerPattern, gpt_path, without_release
from clora.linears import layer_pattern
from clora_inspect.machine.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.job.layout import Layout

VOCABULARY = 64
HIDDEN = 32
ROWS = 4
"""Rows of the global batch, over all data-parallel ranks."""

EXPERTS = {
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 16,
    "moe_token_dispatcher_type": "alltoall",
    "moe_router_load_balancing_type": "none",
    "moe_grouped_gemm": True,
}
MLA = {
    "multi_latent_attention": True,
    "num_query_groups": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_head_dim": 8,
    "qk_pos_emb_head_dim": 4,
    "v_head_dim": 8,
    "qk_layernorm": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_query_groups": 4},
    "mqa": {"num_query_groups": 1},
    "qk-layernorm": {"qk_layernorm": True},
    "qkv-bias": {"add_qkv_bias": True},
    "no-gate": {
        "gated_linear_unit": False,
        "activation_func": torch.nn.functional.gelu,
        "add_bias_linear": True,
        "normalization": "LayerNorm",
    },
    "output-gate": {"attention_output_gate": True},
    "mla": MLA,
    "sequential-experts": {**EXPERTS, "moe_grouped_gemm": False},
    "grouped-experts": EXPERTS,
    "shared-experts": {**EXPERTS, "moe_shared_expert_intermediate_size": 16},
    "shared-experts-overlap": {**EXPERTS, "moe_shared_expert_intermediate_size": 16, "moe_shared_expert_overlap": True},
    "local": {"transformer_engine": False},
    "local-experts": {**EXPERTS, "transformer_engine": False, "moe_grouped_gemm": False},
    "mtp": {"mtp_num_layers": 1},
    "mla-moe-mtp": {**MLA, **EXPERTS, "mtp_num_layers": 1},
    "mamba": {"mamba_head_dim": 4, "mamba_num_heads": 8, "mamba_num_groups": 2, "mamba_state_dim": 4},
    "delta-net": {
        "experimental_attention_variant": "gated_delta_net",
        "linear_attention_freq": 2,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 4,
        "linear_num_value_heads": 4,
        "attention_output_gate": True,
    },
}
KINDS_TO_SAVE = {**KINDS, "tied-mtp": {"mtp_num_layers": 1, "tied": True}}
"""`KINDS`, and one that is for checkpoints only: its output layer has no weight to compare."""

TARGETS = [
    "linear_q",
    "linear_k",
    "linear_v",
    "linear_proj",
    "linear_fc1_up",
    "linear_fc1_gate",
    "linear_fc2",
    "linear_q_proj",
    "linear_q_down_proj",
    "linear_q_up_proj",
    "linear_kv_down_proj",
    "linear_kv_up_proj",
    "in_proj",
    "out_proj",
    "router",
    "output_layer",
]
"""Every target that some kind of model has."""


def has_hybrid_model() -> bool:
    """Return whether this release of megatron-core has a HybridModel with every kind of layer.
    Nothing is imported: that has to happen in the virtual world.
    """
    spec = find_spec("megatron.core")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    files = [Path(folder, "models/hybrid/hybrid_layer_allocation.py") for folder in folders]
    # The letter of latent attention came last, with 0.19.
    return any(file.exists() and "MLA = " in file.read_text() for file in files)


def build(kind: str, layout: Layout, **fields: Any) -> list[Any]:
    """Return this rank's chunks of the model, filled.

    `gqa as *-*-` is the model of kind `gqa` as a HybridModel with these layers, which releases up
    to 0.17 call MambaModel. It has the values of the GPTModel.

    `fields` are fields of the config. `dtype` is fp64 and `num_layers` 2 unless given.
    `transformer_engine=False` builds megatron-core's own layers, `tied=True` a tied output layer.
    """
    kind, _, letters = kind.partition(" as ")
    fields = {**KINDS_TO_SAVE[kind], **fields}
    with quiet():
        return _build_mamba(layout, fields, letters) if letters or kind == "mamba" else _build(layout, fields)


def _build(layout: Layout, fields: dict[str, Any]) -> list[Any]:
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import (
        get_transformer_block_with_experimental_attention_variant_spec,
    )
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec, get_gpt_mtp_block_spec
    from megatron.core.parallel_state import is_pipeline_first_stage, is_pipeline_last_stage

    defaults = {"dtype": torch.float64, "num_layers": 2, "hidden_size": HIDDEN, "ffn_hidden_size": 48, "kv_channels": 8}
    if layout.vpp > 1:
        defaults["virtual_pipeline_model_parallel_size"] = layout.vpp
    te = fields.pop("transformer_engine", True)
    tied = fields.pop("tied", False)
    config = tiny_models.config(layout, "cpu", **{**defaults, **fields})
    chunks = []
    for stage in range(layout.vpp):
        vp_stage = stage if layout.vpp > 1 else None
        spec = (
            get_transformer_block_with_experimental_attention_variant_spec(config, vp_stage=vp_stage)
            if config.experimental_attention_variant
            else get_gpt_decoder_block_spec(config, use_transformer_engine=te, vp_stage=vp_stage)
        )
        if not te:
            _use_norms_of_transformer_engine(spec)
        last = is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage)
        has_mtp = config.mtp_num_layers and last
        model = GPTModel(
            config,
            spec,
            VOCABULARY,
            64,
            mtp_block_spec=get_gpt_mtp_block_spec(config, spec, use_transformer_engine=te) if has_mtp else None,
            pre_process=is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
            post_process=last,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=tied,
            vp_stage=vp_stage,
        )
        fill(model)
        chunks.append(model)
    return chunks


def _build_mamba(layout: Layout, fields: dict[str, Any], letters: str) -> list[Any]:
    from megatron.core.models.mamba import MambaModel
    from megatron.core.models.mamba.mamba_layer_specs import mamba_stack_spec
    from megatron.core.parallel_state import is_pipeline_first_stage, is_pipeline_last_stage

    defaults = {"dtype": torch.float64, "num_layers": 4, "hidden_size": HIDDEN, "ffn_hidden_size": 48, "kv_channels": 8}
    if letters:
        fields |= {"num_layers": len(LayerPattern.read(letters).letters)}
    config = tiny_models.config(layout, "cpu", **{**defaults, **fields})
    model = MambaModel(
        config,
        mamba_stack_spec,
        VOCABULARY,
        64,
        hybrid_override_pattern=letters or ("M*M-" * config.num_layers)[: config.num_layers],
        pre_process=is_pipeline_first_stage(),
        post_process=is_pipeline_last_stage(),
        position_embedding_type="rope" if letters else "none",
        share_embeddings_and_output_weights=False,
    )
    fill(model)
    return [model]


def _use_norms_of_transformer_engine(spec: Any) -> None:
    # megatron-core's own norm does not support sequence parallelism without Apex; its linears do.
    from megatron.core.extensions.transformer_engine import TENorm

    spec.layer_norm = TENorm
    for layer in spec.layer_specs:
        layer.submodules.input_layernorm = layer.submodules.pre_mlp_layernorm = TENorm


def batch(length: int, rank: int = 0, ranks: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tokens, positions and labels `[rows, length]` of one data-parallel rank."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(VOCABULARY, (ROWS, length + 1), generator=generator).chunk(ranks)[rank]
    return tokens[:, :-1], torch.arange(length).expand(len(tokens), -1), tokens[:, 1:]


@torch.no_grad()
def fill(model: torch.nn.Module, *, only: str = "", std: float | None = None) -> None:
    """Set the values of every parameter whose name contains `only`."""
    for name, parameter in model.named_parameters():
        if only in name:
            place = Place(model, name, parameter)
            parameter.copy_(place.shard(whole(place.name, place.shape, std)))


def whole(name: str, shape: tuple[int, ...], std: float | None = None) -> torch.Tensor:
    """Return the full matrix of the parameter called `name` in the whole model."""
    # crc32 and not hash(), which is another number in every process.
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    if std is not None:
        return values * std
    if "norm" in name and name.endswith("weight"):
        return 1 + values / 10
    return values / (10 if len(shape) == 1 else math.sqrt(shape[-1]))


class Place:
    """The position of one rank's parameter in the full matrix of the whole model."""

    def __init__(self, model: torch.nn.Module, name: str, parameter: torch.Tensor) -> None:
        from megatron.core import parallel_state as mpu

        # megatron-core's DistributedDataParallel puts the model into `module`.
        name = name.replace("module.", "")
        is_expert = ".experts." in name
        ep, ep_rank = mpu.get_expert_model_parallel_world_size(), mpu.get_expert_model_parallel_rank()
        self.rank = mpu.get_expert_tensor_parallel_rank() if is_expert else mpu.get_tensor_model_parallel_rank()
        self.ranks = (
            mpu.get_expert_tensor_parallel_world_size() if is_expert else mpu.get_tensor_model_parallel_world_size()
        )
        self.dim = _split_dim(name, parameter.dim())
        self.starts = [0] * parameter.dim()
        shape = list(parameter.shape)
        if self.dim is not None:
            shape[self.dim] *= self.ranks
            self.starts[self.dim] = parameter.shape[self.dim] * self.rank
        # Adapters of grouped experts have the expert as their first dim.
        self.is_stack = is_expert and parameter.dim() == 3
        if self.is_stack:
            shape[0] *= ep
            self.starts[0] = parameter.shape[0] * ep_rank
        self.shape = tuple(shape)
        self.local_shape = tuple(parameter.shape)
        self.sections = _sections(name, model.config)
        # Releases and classes have names of their own for a module, whose values are the same.
        pattern = layer_pattern(model)
        named = _global_name(model, name, ep_rank)
        self.name = without_release((pattern and pattern.is_of_pairs and gpt_path(named)) or named)

    def shard(self, full: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the full matrix."""
        if self.is_stack:
            full = full.narrow(0, self.starts[0], self.local_shape[0])
        if self.dim is None:
            return full
        # A rank has its part of the gate rows, then its part of the up rows.
        size = full.shape[self.dim] // sum(self.sections)
        sections = full.split([size * share for share in self.sections], self.dim)
        return torch.cat([section.chunk(self.ranks, self.dim)[self.rank] for section in sections], self.dim)

    @property
    def positions(self) -> torch.Tensor:
        """Flat positions of this rank's entries in the full matrix."""
        return self.shard(torch.arange(math.prod(self.shape)).view(self.shape))


def assembled(shards: Iterable[tuple[str, tuple[int, ...], torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return name -> full tensor, put together from the shards of all ranks.

    Each shard is (name, full shape, flat positions, values). Copies must agree.
    """
    full: dict[str, torch.Tensor] = {}
    for name, shape, positions, shard in shards:
        target = full.setdefault(name, torch.full(shape, math.nan, dtype=shard.dtype)).view(-1)
        if not target[positions].isnan().any():
            torch.testing.assert_close(
                shard, target[positions], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"copies of {name}: {text}"
            )
        target[positions] = shard
    assert not any(tensor.isnan().any() for tensor in full.values()), "no rank holds some shard"
    return full


_COLUMN = re.compile(
    r"((linear_qkv|linear_fc1|linear_q_up_proj|linear_kv_up_proj|linear_q_proj|word_embeddings|output_layer|eh_proj"
    r"|in_proj|conv1d|mixer\.norm)\.(weight|bias)\d*|A_log|D|dt_bias)$"
)
_ROW = re.compile(r"(linear_proj|linear_fc2|out_proj)\.weight\d*$")


def _sections(name: str, config: Any) -> list[int]:
    """Return the relative sizes of the sections that are split over the ranks one by one."""
    if "layer_norm" in name or ("adapter" in name and not name.endswith(".adapter.linear_out.weight")):
        return [1]
    if "linear_fc1" in name and config.gated_linear_unit:
        return [1, 1]
    if ".mixer." in name:
        inner, bc = config.mamba_num_heads * config.mamba_head_dim, config.mamba_num_groups * config.mamba_state_dim
        sizes = {"in_proj": [inner, inner, bc, bc, config.mamba_num_heads], "conv1d": [inner, bc, bc]}
    elif config.experimental_attention_variant:
        key = config.linear_num_key_heads * config.linear_key_head_dim
        value = config.linear_num_value_heads * config.linear_value_head_dim
        heads = config.linear_num_value_heads
        sizes = {"in_proj": [key, key, value, value, heads, heads], "conv1d": [key, key, value]}
    else:
        return [1]
    return next((rows for linear, rows in sizes.items() if f".{linear}." in name), [1])


def _split_dim(name: str, dims: int) -> int | None:
    if name.endswith("linear_out.weight"):
        return dims - 2
    if name.endswith("linear_in.weight"):
        return dims - 1 if re.search(r"(linear_proj|linear_fc2|out_proj)\.adapter", name) else dims - 2
    return 0 if _COLUMN.search(name) else 1 if _ROW.search(name) else None


def _global_name(model: Any, name: str, ep_rank: int) -> str:
    """Return the parameter's name with the numbers of layer and expert in the whole model."""
    layer = re.match(r"decoder\.layers\.(\d+)\.", name)
    renamed = name
    if found := re.search(r"local_experts\.(\d+)\.", name):
        local = len(model.get_submodule(name[: found.start()] + "local_experts"))
        renamed = f"{name[: found.start()]}local_experts.{ep_rank * local + int(found[1])}.{name[found.end() :]}"
    elif found := re.search(r"experts\.linear_fc[12]\.(weight|bias)(\d+)$", name):
        local = model.get_submodule(name.rpartition(".")[0]).num_gemms
        renamed = f"{name[: found.start(2)]}{ep_rank * local + int(found[2])}"
    if layer is None:
        return renamed
    return f"decoder.layers.{model.decoder.layers[int(layer[1])].layer_number - 1}.{renamed[layer.end() :]}"


def adapters_of(model: Any) -> dict[str, torch.Tensor]:
    """Return copies of the values of all adapters."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if ".adapter." in name}


def loss_of(model: Any) -> torch.Tensor:
    """Return the loss of one batch."""
    tokens, positions, labels = batch(7)
    loss: torch.Tensor = model(tokens, positions, None, labels=labels).mean()
    return loss
