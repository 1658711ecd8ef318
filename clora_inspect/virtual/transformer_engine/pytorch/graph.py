"""Stand-in for `transformer_engine.pytorch.graph`: CUDA graphs, which exist on a GPU only.

`transformer/cuda_graphs.py` of megatron-core imports these functions, and asks whether a graph is
being captured.
"""

from __future__ import annotations

from ..missing import gpu_only, refuse_unknown_names

make_graphed_callables = gpu_only("transformer_engine.pytorch.make_graphed_callables")
save_fp8_tensors = gpu_only("transformer_engine.pytorch.graph.save_fp8_tensors")
restore_fp8_tensors = gpu_only("transformer_engine.pytorch.graph.restore_fp8_tensors")
set_capture_start = gpu_only("transformer_engine.pytorch.graph.set_capture_start")
set_capture_end = gpu_only("transformer_engine.pytorch.graph.set_capture_end")


def is_graph_capturing() -> bool:
    return False


__getattr__ = refuse_unknown_names(__name__)
