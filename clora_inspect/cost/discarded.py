"""Notice storages whose memory is freed or made again while their tensors live on.

megatron-core does that with outputs that it computes again in the backward
(`CheckpointWithoutOutput` in its `tensor_parallel/random.py`): `recompute_modules` "layernorm",
"moe_act" and "mla_up_proj".
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def resizes(note: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Call `note` with each storage that gets another size inside."""
    # No operation of torch does it, so that no dispatch mode sees it.
    kind: Any = torch.UntypedStorage
    before = kind.resize_

    def resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        answer: torch.UntypedStorage = before(storage, size)
        note(storage)
        return answer

    kind.resize_ = resize
    try:
        yield
    finally:
        kind.resize_ = before
