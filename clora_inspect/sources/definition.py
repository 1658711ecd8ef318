"""`ModelDefinition`: a model as numbers, before any module exists. Pure.

It comes from a built-in architecture, from a Hugging Face config.json, or it only names a user's
function. The user's overrides are laid on top. Then it is checked against the parallel layout, so
that a mistake is reported within a second and in the user's own words.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import LayoutError, ModelError, short
from clora.families import families
from clora.families.base.layer_form import LayerForm
from clora.families.base.model_kind import ModelKind
from clora.families.multimodal import what_is_left_out
from clora.limits import (
    LARGEST_EXPERTS,
    LARGEST_LAYERS,
    LARGEST_NUMBER,
    LARGEST_SIZE,
)
from clora_inspect.bridge.installed import is_installed
from clora_inspect.sources import architectures
from clora_inspect.sources.divisibility import check_experts, check_tensor_parallel
from clora_inspect.sources.hf import family_of, read_config, text_part
from clora_inspect.sources.hybrid_layers import as_hybrid
from clora_inspect.sources.layout_fields import LAYOUT_FIELDS
from clora_inspect.sources.model_name import BRIDGE, HYBRID, config_file
from clora_inspect.sources.pipeline_split import SPLIT_FIELDS, PipelineSplit, split_pipeline
from clora_inspect.sources.run.file import SUFFIXES
from clora_inspect.sources.run.model import model_of_run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from clora.families.base.hf_config import HFConfig
    from clora_inspect.job.layout import Layout

MODEL_ARGUMENTS = frozenset(
    {
        "vocab_size",
        "max_sequence_length",
        "share_embeddings_and_output_weights",
        "position_embedding_type",
        "rotary_percent",
        "rotary_base",
        "rope_scaling",
        "rope_scaling_factor",
        "seq_len_interpolation_factor",
        "scatter_embedding_sequence_parallel",
        "fp16_lm_cross_entropy",
        "parallel_output",
        "hybrid_override_pattern",
    }
)
"""Arguments of megatron-core's model classes. Every other field of a model belongs to its
`TransformerConfig`.
"""

UNDECLARED = (
    "yarn_",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_divisor",
)
"""Beginnings of the names of attributes that model classes read off their config although
`TransformerConfig` does not declare them.
"""

NEVER_NULL = (
    *("vocab_size", "max_sequence_length", "position_embedding_type", "rotary_percent", "rotary_base"),
    *("yarn_rotary_scaling_factor", "yarn_original_max_position_embeddings", "yarn_beta_fast", "yarn_beta_slow"),
)
"""Arguments of model classes, and attributes that they read, that need a value if they are set."""

SIZES = (
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "num_moe_experts",
    "moe_router_topk",
    "moe_ffn_hidden_size",
    "moe_latent_size",
    "vocab_size",
    "max_sequence_length",
)
"""Fields that hold a positive whole number if they are set at all."""

COUNTS = (
    "mtp_num_layers",
    "moe_shared_expert_intermediate_size",
    "mamba_num_heads",
    "mamba_num_groups",
    "mamba_head_dim",
    "mamba_state_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
)
"""Fields that hold a whole number, which may be 0, if they are set at all."""

LARGEST = {"num_layers": LARGEST_LAYERS, "mtp_num_layers": LARGEST_LAYERS, "num_moe_experts": LARGEST_EXPERTS}
"""Size -> its limit. All other sizes have `LARGEST_SIZE`."""

PER_LAYER = (
    "moe_layer_freq",
    "window_attn_skip_freq",
    "linear_attention_freq",
    "no_rope_freq",
    "hybrid_override_pattern",
)
"""Fields that may have one entry per layer."""


class ModelDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """A model as numbers: what to build, in megatron-core's fields."""

    name: str
    """The model as the user wrote it, such as "llama3-8b" or "recipes.py:build"."""
    kind: ModelKind
    config: dict[str, Any]
    """Fields of `TransformerConfig`; activations and dtypes are given by name."""
    model: dict[str, Any]
    """Arguments of the model class, and the attributes that it reads off its config."""
    layers: LayerForm = LayerForm()
    """In what the decoder's layers differ from those that megatron-core builds."""
    notes: tuple[str, ...] = ()
    """Full sentences for the report."""
    model_type: str | None = None
    """Hugging Face's name for the architecture, by which the names of its linears are found. None
    for a user's function.
    """
    names_architecture: bool = True
    """False if it was read from a config.json without `architectures`, which transformers writes
    for every model that it saves.
    """
    file: str | None = None
    """The file of a run that has the fields, for messages; None where messages need none."""
    written: frozenset[str] = frozenset()
    """Fields that the user has overridden."""
    pipeline_splits: dict[int, tuple[int, ...]] = {}
    """Uneven splits in common use: number of virtual stages (pp x vpp) -> layers of each."""

    @property
    def is_user_function(self) -> bool:
        """True if a user's function, or Megatron-Bridge, makes the model and so decides all its
        fields.
        """
        return self.kind in (ModelKind.USER_FUNCTION, ModelKind.BRIDGE)

    @property
    def has_experts(self) -> bool:
        """True if the model has routed experts. Of a user's function it is not known before it is
        called.
        """
        return bool(self.config.get("num_moe_experts"))

    @property
    def built_layers(self) -> int:
        """Number of layers that megatron-core builds and numbers: two for each layer of a
        HybridModel, its attention and its MLP.
        """
        layers: int = self.config["num_layers"]
        return layers * self.kind.blocks_per_layer

    def key(self, name: str) -> str:
        """Return what to call a field in a message: `model.hidden_size`, after the file of a run
        that has it.
        """
        return f"{self.file}: model.{name}" if self.file and name not in self.written else f"model.{name}"

    def override(self, overrides: Mapping[str, Any]) -> ModelDefinition:
        """Return the model with the user's own values for some fields.

        If the user asks for fewer layers, lists with an entry for each layer are cut as well.

        Raises:
            ModelError: the layout decides a field, or a user's function decides them all.
        """
        if not overrides:
            return self
        if self.kind is ModelKind.USER_FUNCTION:
            if all(name.startswith("recompute_") for name in overrides):
                raise ModelError(
                    f"--recompute, or recompute in a workload: {self.name} makes its own config, and that says what is "
                    "recomputed. Set recompute_granularity there, and leave it out here."
                )
            raise ModelError(
                f"--set model.{next(iter(overrides))}: {self.name} makes its own config. Set the field there, or plan "
                "an architecture."
            )
        for name in overrides:
            if name in LAYOUT_FIELDS:
                raise ModelError(f"model.{name} is decided by the layout: write {LAYOUT_FIELDS[name].option}.")
        if self.kind is ModelKind.BRIDGE:
            # Its provider has the arguments of the model class among its fields.
            return msgspec.structs.replace(self, config=self.config | dict(overrides))
        config, model = dict(self.config), dict(self.model)
        # `model` also holds names that no model class takes and `make_config` sets, such as YaRN's.
        for name, value in overrides.items():
            (model if name in MODEL_ARGUMENTS or name.startswith(UNDECLARED) else config)[name] = value
        cut = _cut_per_layer(config, model, written=frozenset(overrides))
        # A note that advises to set a field is dropped once the field is set.
        done = [f"--set model.{name}=" for name, value in overrides.items() if value]
        notes = tuple(note for note in self.notes if not any(advice in note for advice in done))
        if cut:
            notes = (*notes, f"Cut to num_layers = {config['num_layers']}: {', '.join(cut)}.")
        return msgspec.structs.replace(
            self, config=config, model=model, notes=notes, written=self.written | overrides.keys()
        )

    def without_split(self) -> ModelDefinition:
        """Return the model without the user's fields for splitting a pipeline, which one stage
        does not have.
        """
        config = {name: value for name, value in self.config.items() if name not in SPLIT_FIELDS}
        return msgspec.structs.replace(self, config=config)

    def check(self, layout: Layout) -> None:
        """Refuse a layout that this model cannot have.

        Raises:
            ModelError: a field has a value that it cannot have.
            LayoutError: an axis does not divide what it splits, with the numbers and a fix.
        """
        # Nothing is known of a user's model yet: megatron-core checks it when it is built.
        if self.is_user_function:
            return
        _check_sizes(self)
        check_tensor_parallel(self, layout)
        check_experts(self, layout)
        if self.kind is ModelKind.MAMBA and self.config.get("mtp_num_layers"):
            raise ModelError(
                f"model.mtp_num_layers = {self.config['mtp_num_layers']}: megatron-core's MambaModel has no "
                "multi-token-prediction layers, and would leave them out without a word. Leave the field out."
            )
        if layout.cp > 1 and not self.kind.has_context_parallel:
            raise LayoutError(
                f"cp = {layout.cp}: {self.name} caps the scores of its attention, which Transformer Engine does not, "
                "and megatron-core's own attention has no context parallelism. Leave out --cp."
            )
        if layout.vpp > 1 and not self.kind.has_interleaved_pipeline:
            raise LayoutError(
                f"vpp = {layout.vpp}: megatron-core's Mamba models have no interleaved pipeline. Leave out --vpp."
            )
        self.split(layout)

    def planning_seconds(self, layout: Layout) -> float:
        """Return about how long planning takes on a laptop; 0 where nothing is known."""
        layers, experts = self.config.get("num_layers"), self.config.get("num_moe_experts") or 0
        if self.is_user_function or not isinstance(layers, int) or not isinstance(experts, int):
            return 0
        # Measured on one core: a layer, a pipeline stage, and an expert of each kind.
        per_expert = 0.00006 if self.config.get("moe_grouped_gemm") else 0.001
        return 2 + layers * (0.0025 + per_expert * (experts // layout.ep)) + 0.006 * layout.pp * layout.vpp

    def split(self, layout: Layout) -> PipelineSplit:
        """Return how the layers are spread over the pipeline.

        Raises:
            LayoutError: they cannot be spread; the message shows a split that works.
        """
        if self.is_user_function:
            return PipelineSplit("decided by the callable")
        return split_pipeline(
            self.name,
            self.config,
            self.pipeline_splits,
            layout,
            ends_only=not self.kind.has_interleaved_pipeline,
        )


def load_definition(model: str) -> ModelDefinition:
    """Return the definition of `model`: a built-in architecture, a config.json, a
    run_config.yaml, the folder of one, or `package.module:function`.

    Raises:
        ModelError: there is no such model, or its file cannot be read.
    """
    if model.startswith(HYBRID):
        return as_hybrid(load_definition(model.removeprefix(HYBRID)), model)
    path = config_file(model)
    if path is None:
        return ModelDefinition(name=model, kind=ModelKind.USER_FUNCTION, config={}, model={})
    if path.suffix in SUFFIXES:
        return _of_run(model, path)
    hf = read_config(path)
    if model.startswith(BRIDGE) or _only_bridge_knows(hf):
        return _of_bridge(model, hf)
    # The built-in files keep only what describes the architecture.
    named = architectures.path_of(model) is not None or bool(hf.get("architectures"))
    return msgspec.structs.replace(from_hf_config(model, hf), names_architecture=named)


def _of_run(model: str, path: Path) -> ModelDefinition:
    """Return the definition of the model in a run of Megatron-Bridge, whose file is at `path`."""
    run = model_of_run(path)
    note = (
        f"The run has the layout {run.layout.label}. As JOB of a command line it is planned in it, where no option "
        "says otherwise."
    )
    return ModelDefinition(
        name=model,
        kind=ModelKind.GPT,
        config=run.conversion.config,
        model=run.conversion.model,
        file=str(path),
        notes=(*run.conversion.notes, note),
    )


def _only_bridge_knows(hf: HFConfig) -> bool:
    """Return whether there is no family for `hf` and a Megatron-Bridge that may have one."""
    return (text_part(hf) or hf).text("model_type") not in families() and is_installed()


def _of_bridge(model: str, hf: HFConfig) -> ModelDefinition:
    """Return the definition of a model that Megatron-Bridge converts. What its config says is known
    when it is built.
    """
    model_type = hf.text("model_type")
    return ModelDefinition(
        name=model,
        kind=ModelKind.BRIDGE,
        config={},
        model={},
        notes=("Converted and built by Megatron-Bridge.",),
        model_type=model_type if model_type in families() else None,
        names_architecture=bool(hf.get("architectures")),
    )


def from_hf_config(name: str, hf: HFConfig) -> ModelDefinition:
    """Return the definition of the model that a Hugging Face config describes.

    Raises:
        ModelError: the `model_type` is not supported, or a field is missing or cannot be built.
    """
    text = text_part(hf)
    if text is not None:
        definition = from_hf_config(name, text)
        left_out = what_is_left_out(hf, text.text("model_type"), definition.config["hidden_size"])
        return msgspec.structs.replace(definition, notes=(left_out, *definition.notes))
    family = family_of(hf)
    conversion = family.convert(hf)
    return ModelDefinition(
        name=name,
        model_type=hf.text("model_type"),
        kind=family.builds,
        layers=conversion.layers,
        config=conversion.config,
        model=conversion.model,
        notes=conversion.notes,
        pipeline_splits=conversion.pipeline_splits,
    )


def _cut_per_layer(config: dict[str, Any], model: dict[str, Any], written: frozenset[str]) -> list[str]:
    """Shorten, in place, lists with an entry per layer if the user asked for fewer layers; return
    the names of those that were shortened.
    """
    layers = config.get("num_layers")
    if "num_layers" not in written or not isinstance(layers, int) or isinstance(layers, bool):
        return []
    cut = []
    for fields in (config, model):
        for name in PER_LAYER:
            value = fields.get(name)
            # megatron-core refuses a list of another length than num_layers.
            if name not in written and isinstance(value, list | str) and len(value) > layers > 0:
                fields[name] = value[:layers]
                cut.append(name)
    return cut


def _check_sizes(definition: ModelDefinition) -> None:
    fields = definition.config | definition.model
    for name, value in fields.items():
        _check_number(definition.key(name), value)
    for name in ("num_layers", *SIZES):
        value, largest = fields.get(name), LARGEST.get(name, LARGEST_SIZE)
        # Every model has layers; the other sizes may be left out.
        if value is None and name != "num_layers":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise ModelError(f"{definition.key(name)} = {short(value)}: it is a whole number from 1 to {largest:,}.")
    for name in COUNTS:
        value = fields.get(name)
        largest = LARGEST.get(name, LARGEST_SIZE)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest):
            raise ModelError(f"{definition.key(name)} = {short(value)}: it is a whole number from 0 to {largest:,}.")
    _check_layers(definition)
    _check_complete(definition)
    if fields.get("num_moe_experts") and fields["moe_router_topk"] > fields["num_moe_experts"]:
        raise ModelError(
            f"{definition.key('moe_router_topk')} = {fields['moe_router_topk']} chooses more experts than "
            f"num_moe_experts = {fields['num_moe_experts']}."
        )


def _check_layers(definition: ModelDefinition) -> None:
    """Check the fields that say something of each layer."""
    fields = definition.config | definition.model
    pattern = fields.get("hybrid_override_pattern")
    if pattern is not None and not isinstance(pattern, str):
        raise ModelError(
            f"{definition.key('hybrid_override_pattern')} = {short(pattern)}: it is a string with a letter for every "
            "layer."
        )
    layers = fields["num_layers"]
    for name in PER_LAYER:
        value = fields.get(name)
        if isinstance(value, list | str) and len(value) != layers:
            raise ModelError(
                f"{definition.key(name)} has {len(value)} entries, and num_layers is {layers}: it has one for every "
                "layer."
            )


def _check_number(key: str, value: object) -> None:
    """Refuse numbers that neither torch nor JSON's readers can hold, in lists as well."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending += one
        elif isinstance(one, dict):
            pending += one.values()
        elif isinstance(one, int) and abs(one) >= LARGEST_NUMBER:
            raise ModelError(f"{key} = {short(one)}: no number is as large.")
        elif isinstance(one, float) and not isfinite(one):
            raise ModelError(f"{key} = {one}: it is no finite number.")


def _check_complete(definition: ModelDefinition) -> None:
    """Refuse a model of which a field is missing that another one needs, or has no good default."""
    fields = definition.config | definition.model
    for name, value in definition.model.items():
        if value is None and name in NEVER_NULL:
            raise ModelError(f"model.{name} = null: the model needs a value. Leave it out of --set.")
    if fields.get("num_moe_experts") and fields.get("moe_router_topk") is None:
        raise ModelError(
            f"model.num_moe_experts = {fields['num_moe_experts']}: nothing says how many experts each token goes to. "
            "Add --set model.moe_router_topk=N, and model.moe_ffn_hidden_size=N unless an expert is as wide as the MLP."
        )
    if fields.get("heterogeneous_block_specs"):
        raise ModelError(
            "model.heterogeneous_block_specs: layers with blocks of their own are built by a function. "
            "Name yours: FILE.py:FUNCTION."
        )
