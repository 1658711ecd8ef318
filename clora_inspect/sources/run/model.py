"""Turn the `model` of a run into megatron-core's fields and a layout. Start with `model_of_run`.

The file has the value of every field of the provider, so that the class of the provider needs not
be known: `GPTModel` is built from the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import DeviceError, LayoutError, ModelError
from clora.families.base.conversion import Conversion
from clora.limits import LARGEST_LAYERS, LARGEST_NUMBER
from clora_inspect.job.layout import Layout
from clora_inspect.sources.layout_fields import LAYOUT_FIELDS
from clora_inspect.sources.run import fields, names
from clora_inspect.sources.run.file import read_run
from clora_inspect.sources.run.kinds import check_kinds
from clora_inspect.sources.run.shown import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LONGEST_TEXT = 20_000
_SHOWN_FIELDS = 8


@dataclass(frozen=True, slots=True)
class RunModel:
    """The model and the layout of a run."""

    conversion: Conversion
    layout: Layout


def model_of_run(path: Path) -> RunModel:
    """Return the model in the run whose file is at `path`.

    Raises:
        ModelError: it is no run, or a field has a value that it cannot have.
        LayoutError: its parallel sizes contradict each other.
        DeviceError: its provider makes layers or a model of its own.
    """
    run = read_run(path)
    values = _flat(run, path)
    check_kinds(run, values, path)
    _check_complete(values, path)
    spec = _layer_spec(values, path)
    layout = _layout(values, path)
    config = _picked(values, _config_fields(values), path)
    # Other releases of megatron-core lack some of the flags, and leave the rest off themselves.
    config = {name: value for name, value in config.items() if value is not False or name in fields.ON_BY_DEFAULT}
    if spec == names.SINGLE and "moe_layer_freq" in config:
        # Every layer is like the first, whatever the frequency says.
        config["moe_layer_freq"] = 1
    # Without it, queries are not compressed.
    if values.get("multi_latent_attention") and "q_lora_rank" in values:
        config.setdefault("q_lora_rank", None)
    dispatch = _without_kernels_for_tokens(config)
    model = _picked(values, fields.ARGUMENTS, path)
    # Newer releases write these fields for every model.
    yarn = {name: value for name, value in values.items() if name.startswith("yarn_") and value is not None}
    model |= {name: _value(name, value, path) for name, value in yarn.items()}
    if model.get("position_embedding_type") == "yarn" and "yarn_rotary_scaling_factor" not in model:
        raise DeviceError(
            f"{path}: model.position_embedding_type = 'yarn', and the file does not keep the numbers of YaRN. Name the "
            "config.json of the model as JOB, and this with --lora."
        )
    model["max_sequence_length"] = _value("seq_length", values["seq_length"], path)
    model["vocab_size"], padding = _vocabulary(values, layout, path)
    return RunModel(
        Conversion(config=config, model=model, notes=(*padding, *dispatch, *_notes(values))),
        layout,
    )


def _flat(run: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of the model, whose layout in the file differs by release.

    Raises:
        ModelError: the file has no model, or one of a class that is not known.
        DeviceError: it is of a class that makes layers of its own.
    """
    section = run.get("model")
    if not isinstance(section, dict):
        raise ModelError(f"{path} has no model section, so that it is no run of Megatron-Bridge.")
    target = section.get("_target_")
    if _is_one_of(names.OTHER_PROVIDERS, target):
        kind = str(target).rpartition(".")[2]
        raise DeviceError(
            f"{path}: {kind} of Megatron-Bridge makes layers or a model of its own, which are not built from a run. "
            "Name the config.json of the model as JOB (bridge:DIR lets an installed Megatron-Bridge build it), and "
            "this with --lora."
        )
    if _is_one_of(names.NESTED, target):
        values = _nested(section, path)
    elif _is_one_of(names.PLAIN_PROVIDERS, target):
        values = dict(section)
    else:
        raise ModelError(
            f"{path}: model._target_ = {shown(target)} is no provider of Megatron-Bridge that is known here. Nothing "
            "is imported from it."
        )
    for name in values:
        if not isinstance(name, str):
            raise ModelError(f"{path}: model has the key {shown(name)}, which is no name.")
    return values


def _nested(section: Mapping[str, Any], path: Path) -> dict[str, Any]:
    builder, transformer = section.get("_builder_"), section.get("transformer")
    if builder is not None and not _is_one_of(names.BUILDERS, builder):
        raise ModelError(f"{path}: model._builder_ = {shown(builder)} is not known here. Nothing is imported from it.")
    if not isinstance(transformer, dict):
        raise ModelError(f"{path}: model.transformer is no mapping of keys to values.")
    target = transformer.get("_target_")
    if not _is_one_of(names.TRANSFORMERS, target):
        raise ModelError(
            f"{path}: model.transformer._target_ = {shown(target)} is no config of megatron-core that is known here. "
            "Nothing is imported from it."
        )
    own = {name: value for name, value in section.items() if name not in ("_builder_", "transformer")}
    # Its class tells, and older releases have no such field.
    latent = {"multi_latent_attention": str(target).endswith(".MLATransformerConfig")}
    return latent | transformer | own


def _is_one_of(known: frozenset[str], target: object) -> bool:
    # A list cannot be looked up.
    return isinstance(target, str) and target in known


def _check_complete(values: Mapping[str, Any], path: Path) -> None:
    experts = fields.REQUIRED_OF_EXPERTS if values.get("num_moe_experts") else ()
    latent = fields.OF_LATENT_ATTENTION if values.get("multi_latent_attention") else ()
    missing = [name for name in (*fields.REQUIRED, *experts, *sorted(latent)) if name not in values]
    if missing:
        raise ModelError(
            f"{path}: model lacks {_listed(missing)}. The file that Megatron-Bridge writes has every field, and what a "
            "provider takes for one that is left out is not known here."
        )
    empty = [name for name in fields.NEVER_NULL if values[name] is None]
    if empty:
        raise ModelError(f"{path}: model has null for {_listed(empty)}, which every model has.")
    for name in fields.UNBUILT:
        if values.get(name):
            raise DeviceError(
                f"{path}: model.{name} is on, and its layers are not built here. Build the model in a function: "
                "FILE.py:FUNCTION."
            )
    implementation = values.get("transformer_impl", "transformer_engine")
    if implementation != "transformer_engine":
        raise DeviceError(
            f"{path}: model.transformer_impl = {shown(implementation)}, and layers of Transformer Engine are built "
            "here. Build the model in a function: FILE.py:FUNCTION."
        )


def _layer_spec(values: Mapping[str, Any], path: Path) -> str:
    """Return the kind of the spec of the layers.

    Raises:
        ModelError: it is none that megatron-core or Megatron-Bridge makes.
    """
    node = values.get("transformer_layer_spec")
    has_variant = values.get("experimental_attention_variant") is not None
    if node is None:
        return names.VARIANT if has_variant else names.BLOCK if values.get("num_moe_experts") else names.SINGLE
    target = node.get("_target_") if isinstance(node, dict) else None
    kind = names.LAYER_SPECS.get(target) if isinstance(target, str) else None
    if kind is None:
        raise ModelError(
            f"{path}: model.transformer_layer_spec is {shown(target)}, which is none that is known here. Nothing is "
            "imported from it. Build the model in a function: FILE.py:FUNCTION."
        )
    extra = {name: value for name, value in node.items() if name not in ("_target_", "_call_", "_partial_")}
    args, is_te = extra.pop("_args_", None), extra.pop("use_transformer_engine", True)
    for name in ("normalization", "qk_l2_norm"):
        if name in extra and extra[name] == values.get(name, False):
            del extra[name]
    fits = has_variant if kind == names.VARIANT else not has_variant
    fits = fits and not (kind == names.SINGLE and values.get("multi_latent_attention"))
    if args or extra or is_te is not True or not fits:
        raise ModelError(
            f"{path}: model.transformer_layer_spec is {target} with arguments, or for a model, that it is not built "
            "for here. Build the model in a function: FILE.py:FUNCTION."
        )
    return kind


def _config_fields(values: Mapping[str, Any]) -> frozenset[str]:
    found = fields.CONFIG
    if values.get("num_moe_experts"):
        found |= fields.OF_EXPERTS
    if values.get("multi_latent_attention"):
        found |= fields.OF_LATENT_ATTENTION
    if values.get("experimental_attention_variant") is not None:
        found |= fields.OF_VARIANT
    return found


def _picked(values: Mapping[str, Any], wanted: frozenset[str], path: Path) -> dict[str, Any]:
    """Return those of `values` that are `wanted` and have a value, sorted by name."""
    found = {name: _value(name, values[name], path) for name in sorted(wanted & values.keys())}
    return {name: value for name, value in found.items() if value is not None}


def _value(name: str, value: object, path: Path) -> Any:
    """Return a value as JSON has it: a scalar, or a list of them or of lists of them.

    Raises:
        ModelError: it is something else, or larger than any model needs.
    """
    if isinstance(value, dict):
        return _named(name, value, path)
    if not isinstance(value, list):
        return _scalar(name, value, path)
    if len(value) > LARGEST_LAYERS:
        raise ModelError(f"{path}: model.{name} has {len(value):,} entries, and {LARGEST_LAYERS:,} is the most.")
    inner = [one for one in value if isinstance(one, list)]
    if sum(map(len, inner)) > 2 * LARGEST_LAYERS:
        raise ModelError(f"{path}: model.{name} has lists of more than {2 * LARGEST_LAYERS:,} entries.")
    return [
        [_scalar(name, each, path) for each in one] if isinstance(one, list) else _scalar(name, one, path)
        for one in value
    ]


def _scalar(name: str, value: object, path: Path) -> Any:
    too_large = isinstance(value, int) and abs(value) >= LARGEST_NUMBER
    too_long = isinstance(value, str) and len(value) > _LONGEST_TEXT
    if too_large or too_long or not (value is None or isinstance(value, bool | int | float | str)):
        raise ModelError(f"{path}: model.{name} = {shown(value)} cannot be: no field has such a value.")
    # Newer releases write dtypes as text.
    return value.removeprefix("torch.") if isinstance(value, str) and name == "params_dtype" else value


def _named(name: str, node: Mapping[str, Any], path: Path) -> str | None:
    """Return the name of the function or dtype that a node stands for."""
    target = node.get("_target_")
    if name == "pipeline_model_parallel_layout" and node.get("_call_") is True:
        return None
    found = names.VALUES.get(target) if isinstance(target, str) else None
    if found is None or node.keys() - {"_target_", "_call_"} or node.get("_call_") is not False:
        raise ModelError(
            f"{path}: model.{name} is {shown(target)}, which is not known here. Nothing is imported from it."
        )
    return found


def _layout(values: Mapping[str, Any], path: Path) -> Layout:
    sizes: dict[str, Any] = {}
    for name, field in LAYOUT_FIELDS.items():
        value = _value(name, values.get(name), path)
        if value is not None:
            sizes[field.option.removeprefix("--")] = value
    # A run without experts has etp = tp.
    if not values.get("num_moe_experts"):
        sizes.pop("etp", None)
    # Left out it is on when tp > 1, so that it follows a --tp of the command line.
    if sizes.get("sp") is True or (sizes.get("sp") is False and sizes.get("tp", 1) == 1):
        is_alone = sizes.pop("sp") and sizes.get("tp", 1) == 1
        if is_alone:
            raise LayoutError(f"{path}: model.sequence_parallel is on, and tensor_model_parallel_size is 1.")
    try:
        return msgspec.convert(sizes, Layout)
    except (msgspec.ValidationError, LayoutError) as error:
        raise LayoutError(f"{path}: the parallel sizes of model are not what they should be: {error}") from None


def _vocabulary(values: Mapping[str, Any], layout: Layout, path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the rows of the embedding, padded if the run pads them, and a note on that."""
    rows = _value("vocab_size", values["vocab_size"], path)
    unit = _value("make_vocab_size_divisible_by", values.get("make_vocab_size_divisible_by", 128), path)
    # What is no number of rows is refused when the sizes of the model are checked.
    if not values.get("should_pad_vocab") or type(rows) is not int or rows < 1 or unit is None:
        return rows, ()
    padded = -(-rows // (unit * layout.tp)) * unit * layout.tp
    return padded, (f"vocab_size = {rows} is padded to {padded}, as Megatron-Bridge does for tp = {layout.tp}.",)


def _without_kernels_for_tokens(config: dict[str, Any]) -> tuple[str, ...]:
    """Change a dispatcher that needs DeepEP to one that needs nothing, and return the note on that.
    megatron-core asks for DeepEP when it builds.
    """
    if config.get("moe_token_dispatcher_type") != "flex":
        return ()
    config |= {"moe_token_dispatcher_type": "alltoall"}
    note = (
        "The run has moe_token_dispatcher_type = 'flex', which needs DeepEP. It is built with 'alltoall': the modules "
        "are the same."
    )
    return (note,)


def _notes(values: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    known = (
        fields.CONFIG | fields.OF_EXPERTS | fields.OF_LATENT_ATTENTION | fields.OF_VARIANT | fields.ARGUMENTS
    ) | fields.NO_INFLUENCE.union(LAYOUT_FIELDS, fields.UNBUILT)
    begins = ("_", "yarn_", *fields.NO_INFLUENCE_BEGINS)
    unread = [name for name, value in values.items() if value and name not in known and not name.startswith(begins)]
    if unread:
        notes.append(f"Not known here, and not read: {_listed(sorted(unread))} of the run's model.")
    if isinstance(values.get("pipeline_model_parallel_layout"), dict):
        notes.append(
            "The run has a pipeline_model_parallel_layout, which its file does not keep. Set it: --set "
            "model.pipeline_model_parallel_layout=..."
        )
    return tuple(notes)


def _listed(found: list[str]) -> str:
    first = ", ".join(name[:80] for name in found[:_SHOWN_FIELDS])
    return first if len(found) <= _SHOWN_FIELDS else f"{first} and {len(found) - _SHOWN_FIELDS} more"
