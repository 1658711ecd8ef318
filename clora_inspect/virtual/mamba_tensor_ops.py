"""Stand-in for the Triton kernels of megatron-core's Mamba mixer, which only generation calls.

`ssm/mamba_mixer.py` imports `inference/contexts/attention_context/triton/tensor_ops.py` outside of
any `try`, and that module needs Triton, which exists for GPUs only. `module_set.KERNELS` puts this
file in its place. Each function raises NotImplementedError.
"""

from __future__ import annotations

from typing import NoReturn


def tensor_get_slice_after(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("megatron-core's tensor_get_slice_after computes on a GPU only.")


def tensor_merge(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("megatron-core's tensor_merge computes on a GPU only.")


def tensor_masked_update(*_args: object, **_options: object) -> NoReturn:
    raise NotImplementedError("megatron-core's tensor_masked_update computes on a GPU only.")
