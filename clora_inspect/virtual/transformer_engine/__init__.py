"""Stand-in for Transformer Engine in pure PyTorch.

What a stand-in class must have, because megatron-core, clora or a checkpoint reads it:

- The parameters of the real class: names, order, shapes and dtypes, as this tensor-parallel rank
  has them, and the attributes that mark them as shards (`tensor_model_parallel`, `partition_dim`,
  `sequence_parallel`...).
- The constructor's and the forward's arguments under their real names, and the plain attributes of
  the real module. megatron-core passes them by name, and asks for some with `hasattr`.
- The entry `_extra_state` in its state dict, which holds the state of FP8 and is empty here.
- The result of the real forward, and gradients, with values on the CPU. Speed does not matter:
  options that only change it, such as overlap of communication, become attributes and no more.
  What cannot be computed here, such as FP8 and CUDA graphs, raises through `needs_gpu`.

The layout of modules is that of the real package, because megatron-core imports from many of them.
`tests/clora_inspect/virtual/test_transformer_engine_parity.py` holds each class against the real
package, whose Python part runs without CUDA if only its compiled part is faked.

To add a layer, write its file in `pytorch/module/`, with
`__getattr__ = refuse_unknown_names(__name__)` at its end, and export it in
`pytorch/module/__init__.py`. The parity test then asks for a case in `te_cases.py`.
"""

from __future__ import annotations

from . import common, pytorch
from .missing import refuse_unknown_names

__version__ = "2.20.2"
"""The release that this stand-in follows. megatron-core compares it to decide which features exist
(`is_te_min_version`): 0.16.1 knows of none later than 2.10, main of August 2026 of none later than
2.17. Parity with older releases is tested as well, but for what they do not have yet.
"""

__all__ = ["__version__", "common", "pytorch"]
__getattr__ = refuse_unknown_names(__name__)
