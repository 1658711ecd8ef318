"""A Megatron-Bridge that cannot be imported is one sentence that says what helps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from with_bridge import run_all

from clora_inspect.bridge.import_failure import why_not

CASES: list[tuple[str, tuple[int, int], Exception, tuple[str, ...]]] = [
    # release, Python, error of the import, parts of the sentence
    (
        "0.7.0",
        (3, 11),
        ImportError("cannot import name 'override' from 'typing' (/usr/lib/python3.11/typing.py)", name="typing"),
        ("made for Python 3.12", "'override' from 'typing'. Run clora-inspect with that Python."),
    ),
    ("0.4.2", (3, 11), SyntaxError("invalid syntax"), ("made for Python 3.12 and megatron-core 0.17",)),
    (
        "0.7.0",
        (3, 12),
        ModuleNotFoundError("No module named 'megatron.training'", name="megatron.training"),
        ("imports megatron.training", "source tree of the megatron-core in its 3rdparty/Megatron-LM first"),
    ),
    (
        "0.6.0",
        (3, 12),
        ImportError("cannot import name 'x' from 'megatron.core.y' (/a/y.py)", name="megatron.core.y"),
        ("does not fit megatron-core", "cannot import name 'x' from 'megatron.core.y'.", "made for megatron-core 0.19"),
    ),
    ("0.5.1", (3, 12), AttributeError("no attribute 'y'"), ("does not fit", "AttributeError", "megatron-core 0.18")),
    (
        "0.3.1",
        (3, 11),
        ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package.part"),
        ("imports no_such_package, which is not installed: pip install 'no_such_package'.",),
    ),
    (
        "0.4.2",
        (3, 12),
        ModuleNotFoundError("No module named 'modelopt'", name="modelopt"),
        ("pip install 'nvidia-modelopt'",),
    ),
    (
        "0.5.1",
        (3, 12),
        ModuleNotFoundError("No module named 'transformers.models.none'", name="transformers.models.none"),
        ("wants another release of transformers", "pip install 'transformers>=5.8.1,<5.9'"),
    ),
    (
        "0.3.1",
        (3, 11),
        ModuleNotFoundError("No module named 'megatron.energon'", name="megatron.energon"),
        ("imports megatron.energon, which is not installed: pip install 'megatron-energon'.",),
    ),
    ("0.3.1", (3, 11), ImportError("it is broken"), ("release 0.3.1 cannot be imported: it is broken.",)),
]


@pytest.mark.parametrize(("release", "python", "error", "parts"), CASES, ids=[str(row[2])[:40] for row in CASES])
def test_the_sentence_says_what_helps(
    release: str, python: tuple[int, int], error: Exception, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*python, 0))
    told = why_not(release, error)
    assert all(part in told for part in parts), told
    assert "\n" not in told
    assert told.endswith(".")


def test_a_second_job_is_told_the_same(wheel_of: Callable[[str], Path]) -> None:
    """The modules that were imported before the error are not taken for all of Megatron-Bridge."""
    command = ("plan", "qwen3-0.6b", "--via", "bridge", "--isolated", "-q")
    first, second = run_all([command, command], wheel_of("megatron-bridge==0.3.1"))
    assert first.status == second.status == 3, (first, second)
    told = "release 0.3.1 imports omegaconf, which is not installed: pip install 'omegaconf>=2.4'."
    assert told in first.err, first
    assert told in second.err, second
