"""Let Megatron-Bridge convert a Hugging Face config into a model provider, and build from that.

Call everything here inside a virtual cluster. The config is data: its classes come from the
installed transformers by its `model_type`, and what it names beside is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from clora.errors import CloraError, DeviceError, ModelError, described
from clora.limits import LARGEST_EXPERTS, LARGEST_LAYERS, LARGEST_NUMBER, LARGEST_SIZE
from clora_inspect.bridge.installed import part, release

if TYPE_CHECKING:
    from torch import nn

_BOUNDS = {"layers": LARGEST_LAYERS, "depth": LARGEST_LAYERS, "experts": LARGEST_EXPERTS} | dict.fromkeys(
    ("heads", "size", "dim"), LARGEST_SIZE
)
"""End of the name of a field that counts something -> its largest value."""

_REASONS = {"mixtral": "it has no conversion for it"}
"""`model_type` -> why Megatron-Bridge builds no model of it."""

_CLASSES = {"kimi_k2": "deepseek_v3"}
"""`model_type` whose class stands on the Hub -> the class of transformers that it is derived from,
and that reads the same fields.
"""

_SETTINGS: dict[str, Any] = {
    # These want compiled CUDA code. They change no module.
    "gradient_accumulation_fusion": False,
    "cross_entropy_loss_fusion": False,
    "tp_comm_overlap": False,
}
"""Field of a provider -> its value, where it has the field."""


def provider_of(name: str, values: Mapping[str, Any]) -> Any:
    """Return the provider of the model that a Hugging Face config describes.

    Raises as `bridge_of`.
    """
    bridge = bridge_of(name, values)
    with _refusals(name, str(values.get("model_type"))):
        return bridge.to_megatron_provider(load_weights=False)


def bridge_of(name: str, values: Mapping[str, Any]) -> Any:
    """Return the `AutoBridge` that converts the model of a Hugging Face config.

    Args:
        name: the model as the user wrote it, for messages.
        values: the content of the `config.json`.

    Raises:
        ModelError: transformers or Megatron-Bridge does not know the model, or refuses a field.
        DeviceError: Megatron-Bridge, or something that it imports, is not installed.
    """
    check_bounds(name, values)
    model_type = str(values.get("model_type"))
    try:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    except ImportError as error:
        raise DeviceError(f"{name}: Megatron-Bridge needs transformers: {error}. Install it.") from error
    auto_bridge = part("models.conversion.auto_bridge").AutoBridge
    # `auto_map`, and names with an underscore, name code and places on the Hub.
    fields = {key: value for key, value in values.items() if not key.startswith(("_", "auto_map", "model_type"))}
    read_as = _CLASSES.get(model_type, model_type)
    if not fields.get("architectures"):
        fields["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(read_as, "")]
    with _refusals(name, model_type):
        return auto_bridge.from_hf_config(AutoConfig.for_model(read_as, **fields))


def prepare(
    name: str, provider: Any, overrides: Mapping[str, Any], layout: Mapping[str, Any], *, is_meta: bool
) -> None:
    """Set the fields of a provider, and finalize it.

    Args:
        name: the model as the user wrote it, for messages.
        provider: a provider of Megatron-Bridge.
        overrides: the fields that the user set.
        layout: the fields of the layout, by their names in megatron-core.
        is_meta: whether parameters have no values.

    Raises:
        ModelError: the provider has no such field, or refuses a value.
    """
    import torch
    from megatron.core.process_groups_config import ProcessGroupCollection

    check_bounds(name, overrides)
    for field in overrides:
        if not hasattr(provider, field):
            raise ModelError(f"--set model.{field}: Megatron-Bridge's {type(provider).__name__} has no such field.")
    # Values on meta are not drawn.
    meta = {"init_model_with_meta_device": is_meta, "perform_initialization": not is_meta}
    for field, value in {**_SETTINGS, **meta, **layout, **overrides}.items():
        if hasattr(provider, field):
            # Dtypes are given by name, as everywhere on the command line.
            is_dtype = field.endswith("dtype") and isinstance(value, str)
            setattr(provider, field, getattr(torch, value, value) if is_dtype else value)
    if getattr(provider, "pipeline_dtype", 0) is None:
        provider.pipeline_dtype = provider.params_dtype
    # Megatron-Bridge's training loop sets it. Some providers read their stage from it.
    provider._pg_collection = ProcessGroupCollection.use_mpu_process_groups()  # noqa: SLF001  # its only name
    with _refusals(name):
        provider.finalize()


def provide(name: str, provider: Any, *, pre_process: bool, post_process: bool, vp_stage: int | None) -> nn.Module:
    """Build one chunk of one rank from a provider that is prepared.

    Args:
        name: the model as the user wrote it, for messages.
        provider: the provider.
        pre_process: whether the chunk has the embedding.
        post_process: whether it has the output layer.
        vp_stage: number of the virtual pipeline chunk; None without an interleaved pipeline.

    Raises:
        ModelError: Megatron-Bridge or megatron-core refuses the numbers.
    """
    with _refusals(name):
        made: nn.Module = provider.provide(pre_process=pre_process, post_process=post_process, vp_stage=vp_stage)
    return made


def check_bounds(name: str, values: Mapping[str, Any]) -> None:
    """Refuse numbers that no model has, before anything makes lists of that length.

    Raises:
        ModelError: with the first such field.
    """
    stack: list[tuple[str, Any]] = list(values.items())
    while stack:
        key, value = stack.pop()
        if isinstance(value, Mapping):
            stack += value.items()
        if isinstance(value, int | float) and not isinstance(value, bool):
            least, most = next(
                ((0, bound) for end, bound in _BOUNDS.items() if str(key).endswith(end)),
                (-LARGEST_NUMBER, LARGEST_NUMBER),
            )
            if not least <= value <= most:
                raise ModelError(f"{name}: {key} = {value:g}, and {least:,} to {most:,} is what is planned.")


@contextmanager
def _refusals(name: str, model_type: str = "") -> Iterator[None]:
    """Run foreign code, which raises whatever the fields of a model happen to cause.

    Raises:
        ModelError: it raised; the message has its words.
    """
    try:
        yield
    except CloraError:
        raise
    except Exception as error:
        who = f"Megatron-Bridge {release()}"
        if model_type in _REASONS:
            reason = f"{who} builds no {model_type}: {_REASONS[model_type]}. Plan it without --via bridge"
        else:
            reason = f"{who} cannot build it: {described(error, 300)}"
        raise ModelError(f"{name}: {reason}") from error
