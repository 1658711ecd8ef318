"""Run a model on a single rank in the middle of a parallel job, to compare the layout with it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora_inspect.job.layout import Layout
from clora_inspect.virtual.model_parallel import model_parallel

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def single_rank() -> Iterator[None]:
    """Let megatron-core see one rank, on every rank: each has the whole model, and all are copies
    of each other. All ranks enter and leave it together.
    """
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random

    # megatron-core keeps its groups and its generators in module globals, and offers no way to put
    # them back.
    groups = dict(vars(parallel_state))
    tracker, initialised = random._CUDA_RNG_STATE_TRACKER, random._CUDA_RNG_STATE_TRACKER_INITIALIZED  # noqa: SLF001
    parallel_state.destroy_model_parallel()
    try:
        with model_parallel(Layout()):
            yield
    finally:
        vars(parallel_state).update(groups)
        random._CUDA_RNG_STATE_TRACKER = tracker  # noqa: SLF001
        random._CUDA_RNG_STATE_TRACKER_INITIALIZED = initialised  # noqa: SLF001
