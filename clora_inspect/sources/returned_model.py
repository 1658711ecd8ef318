"""Read what a user's function has returned: the chunks of one rank, without their wrappers.

Plan, surgery and proofs all get the model that is inside of `Float16Module` and
`DistributedDataParallel`, in the dtype in which Megatron's `get_model` trains it.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from torch import nn

from clora import linears
from clora_inspect.sources.errors import BuildError

_MAY = (
    "It may return a torch.nn.Module, a list of the rank's chunks, or an object with a provide() method: "
    "docs/your-model.md shows each."
)


def is_provider(made: object) -> bool:
    """Return whether `made` is an object that makes the model by its method `provide`."""
    return not isinstance(made, (nn.Module, type)) and callable(getattr(made, "provide", None))


def chunks_in(name: str, made: object, *, chunks: int) -> list[nn.Module]:
    """Return the models in `made`: one, or all `chunks` of a rank.

    Raises:
        BuildError: it is no model, or another number of chunks.
    """
    models: list[Any] = list(made) if isinstance(made, (list, tuple)) else [made]
    for model in models:
        if not isinstance(model, nn.Module):
            what, advice = _described(model)
            where = "" if model is made else f"a {type(made).__name__} that holds "
            raise BuildError(f"{name} returned {where}{what}, which is no model.\n{advice}")
    if len(models) not in (1, chunks):
        raise BuildError(
            f"{name} returned {len(models)} chunks, and a rank of this layout has {chunks}.\nReturn one model, the "
            "chunk vp_stage of the rank, or a list of all its chunks, as many as vpp."
        )
    if len({id(model) for model in models}) < len(models):
        raise BuildError(f"{name} returned the same module as several chunks.\nBuild a model for each vp_stage.")
    return [as_trained(model) for model in models]


def as_trained(model: nn.Module) -> nn.Module:
    """Return the model inside its wrappers, as Megatron's `get_model` leaves it: cast, and marked.

    megatron-core makes position embeddings, for example, in float32 whatever `params_dtype` is.
    """
    from megatron.core.enums import ModelType

    inner: Any = linears.unwrap(model)
    # megatron-core's pipeline schedules read it, and its LLaVAModel does not set it.
    if not hasattr(inner, "model_type"):
        inner.model_type = ModelType.encoder_or_decoder
    if linears.data_parallel_wrapper(model) is not None:
        # The wrapper and its gradient buffers are dropped here, and so are its hooks, which it
        # alone keeps. What it has written on the parameters stays, and would pass for a gradient.
        for parameter in inner.parameters():
            for name in ("main_grad", "grad_added_to_main_grad"):
                vars(parameter).pop(name, None)
    config = getattr(inner, "config", None)
    if getattr(config, "bf16", False) is True:
        inner.bfloat16()
    elif getattr(config, "fp16", False) is True:
        inner.half()
    trained: nn.Module = inner
    return trained


def _described(made: object) -> tuple[str, str]:
    """Return what an object is that is no model, and what to do about the mistake behind it."""
    if made is None:
        return "None", f"Is its `return` missing? {_MAY}"
    if isinstance(made, type):
        return f"the class {made.__name__}", "Return an object of it."
    if inspect.iscoroutine(made):
        # Python would warn that it was never awaited.
        made.close()
        return "a coroutine", "The function must not be `async`."
    if inspect.isroutine(made) or isinstance(made, partial):
        return f"the function {_name_of(made)}", "Name that one as the job's model, or call it and return its model."
    return type(made).__name__, _MAY


def _name_of(function: Any) -> str:
    return getattr(function.func if isinstance(function, partial) else function, "__name__", "")
