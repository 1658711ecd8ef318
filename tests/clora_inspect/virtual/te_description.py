"""Describe modules of Transformer Engine as data, by the same code for the real package and for the
stand-in: what megatron-core or a checkpoint can read of them.
"""

from __future__ import annotations

import importlib
import inspect
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import te_cases
import tiny_models
import torch

from clora_inspect.job.layout import Layout
from clora_inspect.virtual import virtual_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable

PLAIN = (bool, int, float, str, type(None), torch.dtype)


def describe_everything(device: str, models: Iterable[str] = tuple(te_cases.MODELS)) -> dict[str, Any]:
    """Describe all cases of `te_cases.py` and these of its models on `device`. Call it inside of a
    world.
    """
    import transformer_engine.pytorch as te

    described: dict[str, Any] = {}
    for tp in te_cases.TP:
        with virtual_cluster(Layout(tp=tp)):
            for name, (kind, fields) in te_cases.CASES.items():
                if fields.get("tp", 1) == tp:
                    described[name] = _constructed(getattr(te, kind), fields, device)
    for name in models:
        kind, axes = te_cases.MODELS[name]
        layout = Layout(**axes)
        with virtual_cluster(layout):
            described[name] = describe(tiny_models.build(kind, layout, device))
    described["signatures"] = {name: _signature(name) for name in te_cases.SIGNATURES}
    described["names"] = {
        module: sorted(name for name in names if hasattr(_module(module), name))
        for module, names in te_cases.stand_in_names().items()
    }
    return described


def _module(name: str) -> ModuleType | None:
    """Return a module; None if an older release has none of that name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _signature(name: str) -> list[str] | None:
    """Return the names of the parameters of a function or method, "module:qualified.name"; None if
    an older release has none.
    """
    module, _, path = name.partition(":")
    try:
        function = attrgetter(path)(_module(module))
    except AttributeError:
        return None
    return [parameter for parameter in inspect.signature(function).parameters if not parameter.startswith("_")]


def _constructed(kind: type[torch.nn.Module], fields: dict[str, Any], device: str) -> dict[str, Any]:
    """Describe a module, or name the exception by which its constructor refuses the arguments."""
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    # Where one side refuses a case that the other takes, the next ones still draw equal values.
    model_parallel_cuda_manual_seed(1)
    try:
        module = _construct(kind, fields, device)
    except NotImplementedError as error:
        return {"refused": type(error).__name__}
    return describe(module)


def _construct(kind: type[torch.nn.Module], fields: dict[str, Any], device: str) -> torch.nn.Module:
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    fields = dict(fields)
    if fields.pop("tp", None) is not None:
        fields["tp_group"] = parallel_state.get_tensor_model_parallel_group()
        fields["get_rng_state_tracker"] = get_cuda_rng_tracker
    for name in ("params_dtype", "dtype"):
        if name in fields:
            fields[name] = getattr(torch, fields[name])
    if "device" in inspect.signature(kind.__init__).parameters or kind.__name__ in ("LayerNorm", "RMSNorm"):
        fields["device"] = device
    return kind(**fields)


def describe(module: torch.nn.Module) -> dict[str, Any]:
    """Return the parameters and buffers in order, with the attributes set on them; the module tree;
    and the plain attributes of Transformer Engine's modules.
    """
    return {
        "parameters": [_tensor(name, p) for name, p in module.named_parameters()],
        "buffers": [_tensor(name, b) for name, b in module.named_buffers()],
        "extra_state": [name for name in module.state_dict() if name.endswith("_extra_state")],
        "modules": [(name, type(child).__name__) for name, child in module.named_modules()],
        "attributes": {name: _attributes(child) for name, child in module.named_modules() if _of_te(child)},
    }


def _of_te(module: torch.nn.Module) -> bool:
    return any(kind.__module__.startswith("transformer_engine.") for kind in type(module).__mro__)


def _tensor(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    marks = {mark: value for mark, value in vars(tensor).items() if isinstance(value, PLAIN)}
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype),
        "device": tensor.device.type,
        "requires_grad": tensor.requires_grad,
        "marks": {mark: repr(value) for mark, value in sorted(marks.items())},
        # The real class leaves the memory of attention's sink as it is.
        "sum": None if tensor.is_meta or name.endswith("softmax_offset") else float(tensor.double().sum()),
    }


def _attributes(module: torch.nn.Module) -> dict[str, str]:
    return {
        name: _shown(value)
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and _shown(value)
    }


def _shown(value: Any) -> str:
    """Return a plain value, or a container of such, as text, a tensor as its shape and dtype, and
    an empty text for all else.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, PLAIN) for item in value):
        return repr(list(value))
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)} {value.dtype}"
    return ""
