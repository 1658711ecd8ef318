"""Say in one sentence why Megatron-Bridge cannot be imported, and what helps. Pure."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec

from clora.errors import one_line
from clora_inspect.job.versions import versions
from clora_inspect.machine.missing_package import DISTRIBUTIONS

_MADE_FOR = {"0.3": "0.16", "0.4": "0.17", "0.5": "0.18", "0.6": "0.19"}
"""Series of Megatron-Bridge -> the series of megatron-core that it is made for."""

_PYTHON = (3, 12)
"""The lowest Python that releases from 0.4 on declare."""

_TRANSFORMERS = {"0.3": ">=4.57,<5", "0.4": ">=5.0,<=5.3", "0.5": ">=5.8.1,<5.9", "0.6": ">=5.8,<=5.12.1"}
"""Series of Megatron-Bridge -> the transformers that it declares. Main declares what 0.6 does."""

_DISTRIBUTIONS = DISTRIBUTIONS | {"omegaconf": "omegaconf>=2.4"}
"""Package that it imports -> what installs it, where the two differ."""


def why_not(release: str, error: Exception) -> str:
    """Return the sentence for `error`, with which the import of `release` ended."""
    missing = error.name or "" if isinstance(error, ImportError) else ""
    series = ".".join(release.split(".")[:2])
    core = _MADE_FOR.get(series)
    its_core = f"megatron-core {core}" if core else "the megatron-core in its 3rdparty/Megatron-LM"
    if core != "0.16" and sys.version_info < _PYTHON:
        return (
            f"release {release} is made for Python {'.'.join(map(str, _PYTHON))} and {its_core}, and here is Python "
            f"{platform.python_version()}: {_short(error)}. Run clora-inspect with that Python."
        )
    if missing == "megatron.training" or missing.startswith("megatron.training."):
        return (
            f"release {release} imports megatron.training, which the wheel of megatron-core lacks. Put the source tree "
            f"of {its_core} first on PYTHONPATH."
        )
    is_of_core = missing.startswith("megatron.") and missing not in _DISTRIBUTIONS
    if is_of_core or not isinstance(error, ImportError):
        here = versions()["megatron-core"]
        return (
            f"release {release} does not fit megatron-core {here}: {_short(error)}. It is made for {its_core}: install "
            "that, or put its source tree first on PYTHONPATH."
        )
    package = missing if missing in _DISTRIBUTIONS else missing.partition(".")[0]
    if not package:
        return f"release {release} cannot be imported: {_short(error)}."
    wanted = _DISTRIBUTIONS.get(package, package)
    if package == "transformers":
        wanted += _TRANSFORMERS.get(series, _TRANSFORMERS["0.6"])
    if find_spec(package) is None:
        return f"release {release} imports {package}, which is not installed: pip install '{wanted}'."
    return f"release {release} wants another release of {package}: {_short(error)}. pip install '{wanted}'."


def _short(error: Exception) -> str:
    """Return the error on one line, without the path that an ImportError ends with."""
    text = one_line(error).partition(" (/")[0][:200]
    return text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"
