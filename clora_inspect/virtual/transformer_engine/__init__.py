"""A pure-PyTorch Transformer Engine: the classes that megatron-core builds models from, without
CUDA.

Parameters, names, shapes, dtypes, attributes and forward semantics are those of the release in
`__version__`; speed and FP8 are not. A test compares every class with the real package.
"""

from __future__ import annotations

from . import common, pytorch
from .missing import refusing

__version__ = "2.12.0"
"""The release this stand-in follows. megatron-core 0.16.1 asks for it to decide which features
exist: up to 2.10 all of what it knows. It is the newest release whose Python part runs with nothing
but its compiled part replaced, so that the parity test can hold the stand-in against the real
classes.
"""

__all__ = ["__version__", "common", "pytorch"]
__getattr__ = refusing(__name__)
