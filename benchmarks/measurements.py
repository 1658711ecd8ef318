"""Read a file of measured memory, and say each row in megatron-core's fields.

A setting, a size of a model or a word that is not known here is refused, because a prediction that
ignores it would be of another run. Rows may say more of what was measured; `passed_over` names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import GRAMMAR, recompute_fields
from clora_inspect.job.workload import Workload
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.sources.divisibility import VOCABULARY_UNIT

_Count = Annotated[int, Meta(ge=1)]
_Peak = Annotated[float, Meta(gt=0)]
_Recompute = Annotated[str, Meta(pattern=f"^({GRAMMAR})$")]


class MeasurementError(Exception):
    """A file cannot be read, or a row cannot be predicted."""


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the file."""


class Open(msgspec.Struct, frozen=True):
    """A part of the file that may have fields that are not known here."""


class Recomputation(msgspec.Struct, frozen=True, kw_only=True):
    """Recomputation, in one word or in megatron-core's fields."""

    recompute: _Recompute | None = None
    recompute_granularity: Literal["full", "selective"] | None = None
    recompute_method: Literal["uniform", "block"] | None = None
    recompute_num_layers: Annotated[int, Meta(ge=0)] | None = None
    recompute_modules: list[str] | None = None

    def recomputation(self) -> dict[str, Any] | None:
        """Return megatron-core's four fields; None if nothing is said."""
        own = {name: getattr(self, name) for name in recompute_fields("none")}
        if self.recompute is not None:
            return recompute_fields(self.recompute)
        return own if any(value is not None for value in own.values()) else None


class MoeSettings(Struct, kw_only=True):
    """Settings of all models with experts."""

    dispatcher: Literal["alltoall", "allgather"] = "alltoall"
    grouped_gemm: bool = True
    permute_fusion: bool = False
    capacity_factor: float | None = None
    pad_expert_input_to_capacity: bool = False
    router: str = "softmax, aux_loss"
    qk_layernorm: bool = False

    def fields(self) -> dict[str, Any]:
        """Return megatron-core's fields."""
        return {
            **_router(self.router),
            "moe_token_dispatcher_type": self.dispatcher,
            "moe_grouped_gemm": self.grouped_gemm,
            "moe_permute_fusion": self.permute_fusion,
            "moe_expert_capacity_factor": self.capacity_factor,
            "moe_pad_expert_input_to_capacity": self.pad_expert_input_to_capacity,
            "qk_layernorm": self.qk_layernorm,
        }


class Settings(Recomputation, Struct, kw_only=True):
    """Settings of all rows. Defaults are Megatron-LM's with the flags of a usual run in bf16."""

    micro_batch_size: _Count = 1
    dtype: Literal["bf16"] = "bf16"
    accumulate_allreduce_grads_in_fp32: bool = True
    use_distributed_optimizer: bool = True
    optimizer: str = "adam"
    sequence_parallel: Literal["tp > 1"] | bool = "tp > 1"
    flash_attention: Literal[True] = True
    bias_dropout_fusion: bool = True
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    cross_entropy: str = "te"
    bias: bool = False
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    swiglu: bool = True
    untied_embeddings: bool = True
    vocab_padding: str = "to a multiple of 128 x tp; the null tokenizer adds one token first"
    cp_comm_type: str = "p2p"
    overlaps: Literal["off"] = "off"
    moe: MoeSettings = MoeSettings()

    def fields(self) -> dict[str, Any]:
        """Return megatron-core's fields."""
        if not self.optimizer.lower().startswith("adam"):
            raise MeasurementError(f"settings.optimizer: {self.optimizer!r}, and only adam is known")
        activation = {} if self.swiglu else {"gated_linear_unit": False, "activation_func": "gelu"}
        return {
            # Megatron-LM's defaults.
            "bias_activation_fusion": self.swiglu or self.bias,
            "apply_rope_fusion": True,
            "deallocate_pipeline_outputs": True,
            "mtp_num_layers": None,
            "bias_dropout_fusion": self.bias_dropout_fusion,
            "attention_dropout": self.attention_dropout,
            "hidden_dropout": self.hidden_dropout,
            "add_bias_linear": self.bias,
            "normalization": self.normalization,
            "share_embeddings_and_output_weights": not self.untied_embeddings,
            "cp_comm_type": self.cp_comm_type,
            **_loss(self.cross_entropy),
            **activation,
            **(self.recomputation() or {}),
        }


class Model(Struct, kw_only=True):
    """The sizes of a model. Left out: those that follow from others, as in megatron-core."""

    hidden_size: _Count
    heads: _Count
    vocab: _Count
    ffn_hidden_size: _Count | None = None
    query_groups: _Count | None = None
    head_dim: _Count | None = None
    qk_layernorm: bool | None = None
    qkv_bias: bool = False
    experts: _Count | None = None
    topk: _Count | None = None
    moe_ffn_hidden_size: _Count | None = None
    shared_expert: _Count | None = None
    dense_layers: Annotated[int, Meta(ge=0)] = 0
    q_lora_rank: _Count | None = None
    kv_lora_rank: _Count | None = None
    qk_head_dim: _Count | None = None
    qk_pos_emb_head_dim: _Count | None = None
    v_head_dim: _Count | None = None

    @property
    def is_latent(self) -> bool:
        """Whether attention is multi-latent."""
        return self.kv_lora_rank is not None

    def base(self) -> str:
        """Return a built-in architecture with the same kinds of modules."""
        if self.is_latent:
            return "deepseek-v3"
        return "mixtral-8x7b" if self.experts else "llama3-70b"

    def fields(self, num_layers: int) -> dict[str, Any]:
        """Return megatron-core's fields of attention and MLP."""
        attention: dict[str, Any] = {
            "num_layers": num_layers,
            "hidden_size": self.hidden_size,
            "ffn_hidden_size": self.ffn_hidden_size or self.moe_ffn_hidden_size or 4 * self.hidden_size,
            "num_attention_heads": self.heads,
            "num_query_groups": self.query_groups or self.heads,
            "kv_channels": self.head_dim or self.hidden_size // self.heads,
            "add_qkv_bias": self.qkv_bias,
        }
        if self.qk_layernorm is not None:
            attention["qk_layernorm"] = self.qk_layernorm
        if self.is_latent:
            latent = ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "qk_pos_emb_head_dim", "v_head_dim")
            attention |= {name: getattr(self, name) for name in latent}
            # Its kernel is another one, in Triton.
            attention["apply_rope_fusion"] = False
        return attention | self._experts(num_layers)

    def _experts(self, num_layers: int) -> dict[str, Any]:
        if self.experts is None and not self.is_latent:
            return {}
        dense = num_layers if self.experts is None else min(self.dense_layers, num_layers)
        return {
            "num_moe_experts": self.experts,
            "moe_router_topk": self.topk or 2,
            "moe_ffn_hidden_size": self.moe_ffn_hidden_size or self.ffn_hidden_size,
            "moe_shared_expert_intermediate_size": self.shared_expert,
            "moe_layer_freq": [0] * dense + [1] * (num_layers - dense),
        }


class Row(Recomputation, Open, kw_only=True):
    """One run. Left out: 1 for an axis, and the data-parallel ranks that the peaks are of."""

    model: str
    num_layers: _Count
    seq: _Count
    tp: _Count = 1
    pp: _Count = 1
    vpp: _Count = 1
    cp: _Count = 1
    ep: _Count = 1
    etp: _Count | None = None
    """One that is left out is tp, as in Megatron-LM."""
    dp: _Count | None = None
    micro_batches: _Count | None = None
    micro_batch_size: _Count | None = None
    max_allocated_mib_by_rank: list[_Peak] | None = None
    max_allocated_gib: _Peak | None = None
    note: str = ""

    def layout(self, settings: Settings) -> Layout:
        """Return the layout of the run."""
        split = self.tp * self.pp * self.cp
        ranks = len(self.max_allocated_mib_by_rank or ())
        if self.dp is None and not ranks:
            raise MeasurementError("needs dp, or the peaks of all ranks")
        dp = self.dp or max(ranks // split, 1)
        if ranks and ranks != dp * split:
            raise MeasurementError(f"has peaks of {ranks} ranks, and tp x pp x cp x dp = {dp * split}")
        sp = self.tp > 1 if settings.sequence_parallel == "tp > 1" else settings.sequence_parallel
        axes = {"tp": self.tp, "pp": self.pp, "vpp": self.vpp, "cp": self.cp, "ep": self.ep}
        return Layout(**axes, etp=self.etp, sp=sp and self.tp > 1, world_size=dp * split)

    def workload(self, settings: Settings) -> Workload:
        """Return the step of the run."""
        return Workload(
            seq_length=self.seq,
            micro_batch_size=self.micro_batch_size or settings.micro_batch_size,
            num_microbatches=self.micro_batches,
            use_distributed_optimizer=settings.use_distributed_optimizer,
            grad_reduce_in_fp32=settings.accumulate_allreduce_grads_in_fp32,
        )

    def definition(self, model: Model, settings: Settings) -> ModelDefinition:
        """Return the model of the run in megatron-core's fields."""
        experts = settings.moe.fields() if model.experts else {}
        fields = settings.fields() | experts | model.fields(self.num_layers) | (self.recomputation() or {})
        fields["vocab_size"] = _padded(model.vocab, self.tp, settings.vocab_padding)
        return load_definition(model.base()).override(fields)


class FullTraining(Open, kw_only=True):
    """Runs in which everything is trained."""

    models: dict[str, Model]
    rows: list[Row]
    settings: Settings = Settings()
    source: str = ""
    measured: str = ""


class LoraRow(Open, kw_only=True):
    """A run with LoRA, of which only a part of the settings is known."""

    model: str
    peak_gb: _Peak
    tp: _Count = 1
    ep: _Count = 1
    sp: bool | None = None
    seq: _Count | None = None
    micro_batches: _Count | None = None
    task: str = ""
    note: str = ""


class Lora(Open, kw_only=True):
    """Runs with LoRA."""

    rows: list[LoraRow]
    source: str = ""


class Measurements(Open, kw_only=True):
    """The file."""

    full_training: FullTraining | None = None
    lora: Lora | None = None


def passed_over(path: Path) -> list[str]:
    """Return the fields of the file's rows that are not known here, such as `rows[0].step_ms`."""
    raw = msgspec.json.decode(path.read_bytes())
    tables = ((raw.get("full_training"), Row), (raw.get("lora"), LoraRow))
    return [
        f"rows[{number}].{name}"
        for table, kind in tables
        for number, row in enumerate(table["rows"] if table else ())
        for name in row.keys() - set(kind.__struct_fields__)
    ]


def read(path: Path) -> Measurements:
    """Return the measurements in a JSON file.

    Raises:
        MeasurementError: it cannot be read, or has something that is not known here.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Measurements)
    except OSError as error:
        raise MeasurementError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MeasurementError(f"{path}: {error}") from error
    full = found.full_training
    if not (full and full.rows) and not (found.lora and found.lora.rows):
        raise MeasurementError(f"{path}: no rows, neither in full_training nor in lora")
    for number, row in enumerate(full.rows if full else ()):
        if full and row.model not in full.models:
            known = ", ".join(sorted(full.models))
            raise MeasurementError(f"{path}: rows[{number}]: full_training.models has no {row.model}, but {known}")
        if row.max_allocated_mib_by_rank is None and row.max_allocated_gib is None:
            raise MeasurementError(f"{path}: rows[{number}]: needs max_allocated_mib_by_rank or max_allocated_gib")
    return found


LOSSES: dict[str, dict[str, Any]] = {
    "te": {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"},
    "native": {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "native"},
    "none": {"cross_entropy_loss_fusion": False},
}
"""Fusion of the loss -> megatron-core's fields."""


def _loss(text: str) -> dict[str, Any]:
    name = "te" if text.startswith("Transformer Engine fused loss") else text
    if name not in LOSSES:
        raise MeasurementError(f"settings.cross_entropy: {text!r} is none of {', '.join(LOSSES)}")
    return LOSSES[name]


def _router(text: str) -> dict[str, Any]:
    """Return megatron-core's fields for the words of `settings.moe.router`."""
    fields: dict[str, Any] = {
        "moe_router_score_function": "softmax",
        "moe_router_pre_softmax": False,
        "moe_router_load_balancing_type": "none",
        "moe_router_enable_expert_bias": False,
        # Groups limit which experts a token goes to, and no expert has more or fewer tokens.
        "moe_router_num_groups": None,
        "moe_router_group_topk": None,
        "moe_router_topk_scaling_factor": 1.0,
        "moe_router_dtype": None,
        "moe_aux_loss_coeff": 0.001,
    }
    words = {
        "softmax": {"moe_router_score_function": "softmax"},
        "sigmoid": {"moe_router_score_function": "sigmoid"},
        "pre-softmax": {"moe_router_pre_softmax": True},
        "fp32": {"moe_router_dtype": "fp32"},
        "expert bias": {"moe_router_enable_expert_bias": True},
        "num_groups = ep": {},
        **{name: {"moe_router_load_balancing_type": name} for name in ("aux_loss", "seq_aux_loss", "none")},
    }
    for word in text.split(", "):
        if word not in words:
            raise MeasurementError(f"settings.moe.router: {word!r} is none of {', '.join(words)}")
        fields |= words[word]
    return fields


def _padded(vocab: int, tp: int, padding: str) -> int:
    """Return the size of the vocabulary with its padding."""
    if padding == "none":
        return vocab
    if not padding.startswith(f"to a multiple of {VOCABULARY_UNIT} x tp"):
        raise MeasurementError(f"settings.vocab_padding: {padding!r} is neither 'to a multiple of 128 x tp' nor 'none'")
    unit = VOCABULARY_UNIT * tp
    return -(-(vocab + ("null tokenizer" in padding)) // unit) * unit
