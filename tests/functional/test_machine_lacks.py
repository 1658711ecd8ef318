"""What the machine lacks while torch is imported: one sentence and exit status 3."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.cli import main
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "error: libtorch_cpu.so cannot be loaded: there is not enough memory.",
        ),
        (
            ImportError("libcudart.so.13: cannot open shared object file: No such file or directory"),
            "error: A library that is installed here cannot be loaded: libcudart.so.13",
        ),
        (MemoryError(), "error: there is not enough memory\n"),
    ],
    ids=["no room", "no file", "no memory"],
)
@pytest.mark.parametrize("command", ["plan", "verify", "graph"])
def test_torch_cannot_be_imported(
    command: str, error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _when_importing(("clora_inspect.pipeline", "clora_inspect.verify.job"), error, monkeypatch)
    assert main([command, "llama3-8b"]) == ExitCode.BUILD
    printed = capsys.readouterr()
    assert printed.err.startswith(said)
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def _when_importing(modules: tuple[str, ...], error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise `error` where one of `modules`, which import torch, is imported."""
    real: Callable[..., Any] = builtins.__import__

    def imported(name: str, *others: Any, **named: Any) -> Any:
        if name.startswith(modules):
            raise error
        return real(name, *others, **named)

    monkeypatch.setattr(builtins, "__import__", imported)
