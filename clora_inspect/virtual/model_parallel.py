"""megatron-core's model-parallel state, as a training script initialises it, for as long as a
process plays a rank.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora_inspect.virtual.attributes import environment_restored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.layout import Layout

SEED = 1234
"""What megatron's training scripts seed with by default."""


@contextmanager
def model_parallel(layout: Layout, seed: int = SEED) -> Iterator[None]:
    """Initialise `parallel_state` and the random generators over the process group in use; forget
    both on exit.

    Args:
        layout: sizes of the mesh axes; the group's ranks beyond `layout.model_world` are
            data-parallel.
        seed: of megatron-core's model-parallel random generators.
    """
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random

    before = dict(vars(parallel_state))
    # Models tell Transformer Engine their attention back end through the environment, and refuse to
    # be built in one that tells it another.
    with environment_restored():
        try:
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=layout.tp,
                pipeline_model_parallel_size=layout.pp,
                virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
                context_parallel_size=layout.cp,
                expert_model_parallel_size=layout.ep,
                expert_tensor_parallel_size=layout.etp,
                create_gloo_process_groups=False,
            )
            random.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            # It forgets most of its globals, not all: ranks of the data-parallel group, the groups
            # of gloo, ...
            vars(parallel_state).update(before)
            random._CUDA_RNG_STATE_TRACKER = None  # noqa: SLF001 - there is no public way to forget it
            random._CUDA_RNG_STATE_TRACKER_INITIALIZED = False  # noqa: SLF001
