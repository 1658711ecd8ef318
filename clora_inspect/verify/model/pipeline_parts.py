"""Check that a user's model has what megatron-core's pipeline schedules and its sum of gradients
read from it. The classes of megatron-core have all of it; a class around them often has not.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clora.errors import LayoutError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

_MISSING = object()


class _Part(NamedTuple):
    name: str
    read_by: str
    remedy: str


_SCHEDULE = (
    _Part("config", "megatron-core's pipeline schedule", "self.config = CONFIG of the language model"),
    _Part(
        "set_input_tensor",
        "megatron-core's pipeline schedule",
        "a method that hands the states of the stage before to the language model's set_input_tensor",
    ),
)
_GRADIENTS = (
    _Part("pre_process", "finalize_model_grads", "self.pre_process = the argument of your function"),
    _Part(
        "share_embeddings_and_output_weights",
        "finalize_model_grads",
        "self.share_embeddings_and_output_weights = False, or the language model's value",
    ),
)
_SHARED = _Part(
    "shared_embedding_or_output_weight",
    "finalize_model_grads",
    "a method that returns what the language model's method of this name returns",
)


def check_pipeline_parts(name: str, chunks: Sequence[nn.Module]) -> None:
    """Refuse chunks that megatron-core cannot run on several stages.

    Args:
        name: the user's function in messages.
        chunks: the chunks of one rank, without wrappers.

    Raises:
        LayoutError: with the attribute, the class, its file and what to write.
    """
    for chunk in chunks:
        for part in _parts(chunk):
            if getattr(chunk, part.name, _MISSING) is _MISSING:
                raise LayoutError(
                    f"{name} returns {_class_of(chunk)}, which has no {part.name}: {part.read_by} reads it as soon as "
                    f"there is more than one stage.\nAdd {part.remedy}. Without --pp it is not needed."
                )


def _parts(chunk: Any) -> Iterator[_Part]:
    from megatron.core.transformer import MegatronModule

    yield from _SCHEDULE
    # A plain module is proved without megatron-core's data-parallel wrapper, which alone reads
    # these.
    if isinstance(chunk, MegatronModule):
        yield from _GRADIENTS
        if getattr(chunk, "share_embeddings_and_output_weights", False):
            yield _SHARED


def _class_of(chunk: nn.Module) -> str:
    kind = type(chunk)
    try:
        file = inspect.getsourcefile(kind)
        line = inspect.getsourcelines(kind)[1]
    except (OSError, TypeError):
        return kind.__name__
    return kind.__name__ if file is None else f"{kind.__name__} ({Path(file).name}:{line})"
