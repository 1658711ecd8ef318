"""What the tests on a GPU share: when they are skipped, the world that they run in, and the
sentences that say in the end what was proved, on what.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent.parent
# Helper modules of other folders, and of this one, are imported by their names.
for _folder in (TESTS / "clora", TESTS / "clora_inspect" / "virtual", TESTS / "gpu", TESTS.parent / "benchmarks"):
    sys.path.insert(0, str(_folder))

# CUDA's libraries read it when the first test uses them: proofs in fp32 come later.
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")

_SENTENCES: list[str] = []


@cache
def no_gpu() -> str | None:
    """Return why nothing can run on a GPU here; None if it can."""
    import torch

    if not torch.cuda.is_available():
        return f"there is no CUDA GPU (torch {torch.__version__})"
    try:
        importlib.import_module("transformer_engine.pytorch")
    except (ImportError, FileNotFoundError, RuntimeError, AssertionError) as error:
        # As clora_inspect/virtual/real.py, which says why it is any of these.
        return f"Transformer Engine does not work here: {type(error).__name__}: {error}"
    return None


@pytest.fixture(autouse=True)
def _needs_a_gpu(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and (reason := no_gpu()):
        pytest.skip(reason)


@contextmanager
def _one_gpu() -> Iterator[None]:
    from clora_inspect.job.layout import Layout
    from clora_inspect.machine.quiet import quiet
    from clora_inspect.virtual import megatron_on, virtual_cluster

    with quiet(), megatron_on("cuda"), virtual_cluster(Layout()):
        yield


@pytest.fixture
def one_gpu() -> Iterator[None]:
    """Run the test as the only rank, with real Transformer Engine on this machine's GPU."""
    with _one_gpu():
        yield


@pytest.fixture
def proved() -> Callable[[str], None]:
    """Return a function that notes a sentence, to be printed after all tests."""
    return _SENTENCES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was proved, on which machine."""
    if not _SENTENCES:
        return
    terminalreporter.section(f"proved on {_machine()}")
    for sentence in _SENTENCES:
        terminalreporter.write_line(f"- {sentence}")


def _machine() -> str:
    import torch

    packages = ("transformer-engine", "transformer-engine-cu13", "transformer-engine-cu12", "megatron-core")
    versions = [f"{name} {found}" for name in packages if (found := _version(name))]
    return ", ".join([torch.cuda.get_device_name(), f"torch {torch.__version__}", *versions])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
