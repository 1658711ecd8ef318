"""Be the only rank of a model for a while, in the middle of a parallel job: what is parallel is
held against what is not.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora_inspect.job.layout import Layout
from clora_inspect.virtual.model_parallel import model_parallel

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def alone() -> Iterator[None]:
    """Inside, every rank is the whole model, and all ranks are copies of each other. Entered and
    left by all ranks together.
    """
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random

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
