"""Initialise megatron-core's process groups and random states for one rank; undo it on exit."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from clora_inspect.virtual import process_wide
from clora_inspect.virtual.attributes import environment_restored, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.job.layout import Layout

SEED = 1234
"""The default of `--seed` in Megatron-LM's training scripts."""


@contextmanager
def model_parallel(layout: Layout, seed: int = SEED) -> Iterator[None]:
    """Initialise megatron-core as a training script does, over torch's default process group.

    On exit `parallel_state`, the random state tracker, what megatron-core logs and the environment
    are as before.

    Args:
        layout: sizes of the mesh axes. Data parallelism fills the ranks of the process group
            beyond `layout.model_world`.
        seed: the seed of megatron-core's model-parallel random states.
    """
    from megatron.core import config_logger, parallel_state
    from megatron.core.tensor_parallel import random

    before = dict(vars(parallel_state))
    # `LanguageModule` of megatron-core sets NVTE_FLASH_ATTN and two more variables according to the
    # model's attention back end, and refuses to be built where they hold other values. So the
    # values of one model must not reach the next.
    # Models write their config into `config_logger_dir` when they are built and run, and a user's
    # function may set it. What is planned or proved here writes nothing.
    no_log = replaced(config_logger, {"get_config_logger_path": lambda _config: ""})
    with environment_restored(), process_wide.of_one_model(), no_log:
        try:
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=layout.tp,
                pipeline_model_parallel_size=layout.pp,
                virtual_pipeline_model_parallel_size=layout.vpp if layout.vpp > 1 else None,
                context_parallel_size=layout.cp,
                expert_model_parallel_size=layout.ep,
                expert_tensor_parallel_size=layout.expert_tp,
                create_gloo_process_groups=False,
            )
            random.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            # destroy_model_parallel() resets most of its module's globals, but not all: it keeps,
            # for example, the ranks of the data-parallel group.
            vars(parallel_state).update(before)
            random._CUDA_RNG_STATE_TRACKER = None  # noqa: SLF001 - there is no public way to reset it
            random._CUDA_RNG_STATE_TRACKER_INITIALIZED = False  # noqa: SLF001
