"""What the machine lacks while torch is imported: one sentence and exit status 3."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from command_line import own_process

from clora_inspect.cli import main
from clora_inspect.exit_code import ExitCode
from clora_inspect.machine.failed_import import failed_import
from clora_inspect.machine.missing_package import missing_package

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        (RuntimeError("Resource temporarily unavailable"), "error: there is not enough memory, or no thread can be"),
    ],
    ids=["no room", "no file", "no memory", "no thread"],
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


MISSING = [
    # module, what needs it
    ("torch", ("plan", "qwen2.5-0.5b")),
    ("torch", ("check", "qwen2.5-0.5b", "--no-progress")),
    ("torch", ("verify", "qwen2.5-0.5b")),
    ("torch", ("graph", "qwen2.5-0.5b")),
    ("networkx", ("graph", "SAVED", "-f", "svg")),
    ("jinja2", ("report", "SAVED", "--no-progress")),
    ("textual", ("tui", "SAVED", "--screenshot", "screen.svg")),
]


@pytest.mark.parametrize(("module", "words"), MISSING, ids=[f"{module}, {words[0]}" for module, words in MISSING])
def test_a_package_of_ours_is_not_installed(module: str, words: tuple[str, ...], saved_plan: Path) -> None:
    """In a process of its own, to which `sys.modules` says that there is none."""
    script = (
        f"import sys; sys.modules[{module!r}] = None; from clora_inspect.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = tuple(str(saved_plan) if word == "SAVED" else word for word in words)
    ran = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, timeout=120
    )
    assert (ran.returncode, ran.stdout) == (ExitCode.BUILD, ""), ran.stderr
    assert ran.stderr == f"error: {module} is not installed, and this needs it: pip install {module}\n"


REFUSED = "torch cannot be imported here: ValueError: Invalid log settings: no-such-log, must be a comma"


@pytest.mark.parametrize("command", ["plan", "check", "verify", "graph"])
def test_a_package_refuses_the_environment(command: str) -> None:
    ran = own_process(command, "qwen2.5-0.5b", "--isolated", TORCH_LOGS="no-such-log")
    assert (ran.returncode, ran.stdout) == (ExitCode.BUILD, ""), ran.stderr
    assert ran.stderr.startswith(f"error: {REFUSED}")
    assert (ran.stderr.count("\n"), len(ran.stderr) < 500) == (1, True)


@pytest.mark.parametrize(
    ("raising", "said"),
    [
        ("package_of_others.inner", "package_of_others cannot be imported here: ValueError: no. See all"),
        # A stand-in of ours that megatron-core cannot use is no fault of megatron-core.
        ("clora_inspect.virtual.stand_in", "None"),
    ],
)
def test_what_raises_while_a_package_is_imported(
    raising: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = ModuleType(raising)
    exec("def use(): raise ValueError('no')", inner.__dict__)
    monkeypatch.setitem(sys.modules, "inner_module", inner)
    monkeypatch.delitem(sys.modules, "package_of_others", raising=False)
    (tmp_path / "package_of_others.py").write_text("import inner_module\ninner_module.use()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="no") as raised:
        import_module("package_of_others")
    assert str(failed_import(raised.value)).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(0)\n", "error: megatron cannot be imported here: it called sys.exit(0)."),
        ("def newer[T]() -> T:\n    type(", "core/__init__.py cannot be imported here: Python 3."),
    ],
)
def test_a_release_that_ends_its_own_import(text: str, said: str, tmp_path: Path) -> None:
    """The exit status 0 of somebody else is no clean check."""
    (tmp_path / "megatron/core").mkdir(parents=True)
    (tmp_path / "megatron/core/__init__.py").write_text(text)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = own_process("check", "qwen2.5-0.5b", "--isolated", PYTHONPATH=path)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (ExitCode.BUILD, "", 1), ran.stderr
    assert said in ran.stderr


def test_the_python_api_says_it_in_the_same_words() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from clora.errors import CloraError\n"
        "import clora_inspect\n"
        "try:\n    clora_inspect.inspect('qwen2.5-0.5b')\n"
        "except CloraError as error:\n    print(type(error).__name__, error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout == "DeviceError torch is not installed, and this needs it: pip install torch\n", ran.stderr


def test_a_module_that_is_no_dependency_is_a_fault() -> None:
    """Only a declared package can be missing: another name is a mistake in our own code."""
    assert missing_package(ModuleNotFoundError("x", name="clora_inspect.nowhere")) is None
    assert missing_package(ModuleNotFoundError("x", name="left_pad")) is None
    assert missing_package(ImportError("x", name="torch")) is None
    assert failed_import(ValueError("raised by nobody")) is None
    assert missing_package(ModuleNotFoundError("x", name="yaml")) == (
        "PyYAML is not installed, and this needs it: pip install PyYAML"
    )
