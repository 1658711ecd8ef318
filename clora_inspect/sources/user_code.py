"""Run code of the user's function so that it can neither end the command nor change what comes
after it, and say in the user's own terms what went wrong.
"""

from __future__ import annotations

import sys
import threading
import traceback
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.machine.missing_package import how_to_get
from clora_inspect.machine.quiet import printing_on_stderr
from clora_inspect.sources.errors import BuildError, one_line
from clora_inspect.virtual.attributes import replaced
from clora_inspect.virtual.module_set import ABSENT, STAND_INS

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_THE_USERS = frozenset({"torch", "megatron", "clora", "clora_inspect", *STAND_INS})
"""Packages in whose files nobody looks for a mistake of their own function."""

_LONGEST = 500
"""Characters of an exception's text that are quoted."""

_LAUNCHERS = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


@contextmanager
def user_code(doing: str, file: str | None) -> Iterator[None]:
    """Run a block of the user's code: importing their module, or calling their function.

    Inside, `sys.argv` holds the program's name only, what is printed goes to stderr, and new
    threads are daemons, so that none keeps the command from ending. The current folder and torch's
    default dtype are restored.

    Args:
        doing: what the block does, the beginning of a sentence: `jobs.py:build`.
        file: the file of the function, if it is known.

    Raises:
        BuildError: the block raised, or called `sys.exit`. The message has the last line of the
            user's own files, and on a second line what to do.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(sys, {"argv": sys.argv[:1]}))
        stack.enter_context(replaced(threading.Thread, {"start": _start_as_daemon}))
        stack.enter_context(printing_on_stderr())
        stack.enter_context(chdir(Path.cwd()))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        try:
            yield
        except KeyboardInterrupt:
            raise
        # User code may raise anything, and SystemExit is no Exception.
        except BaseException as error:
            raise BuildError(f"{doing} {_what_happened(error)}{_place(error, file)}.{_hint(error)}") from error


_start = threading.Thread.start


def _start_as_daemon(thread: threading.Thread) -> None:
    thread.daemon = True
    _start(thread)


def _what_happened(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({_text(repr, error.code)})"
    text = _text(one_line, error)
    return f"raised {type(error).__name__}" + (f": {text.removesuffix('.')}" if text else "")


def _text(write: Any, value: Any) -> str:
    """Return what `write` says of `value`, whose class is the user's own and may fail at it."""
    try:
        text = str(write(value))
    except Exception:  # noqa: BLE001 - see above
        return "an error without a readable text"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _place(error: BaseException, file: str | None) -> str:
    """Return ` (FILE:LINE)`: the last line of the user's own files that was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    own = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == file or _is_users(frame)
    ]
    if not own:
        return ""
    frame, line = own[-1]
    return f" ({Path(frame.f_code.co_filename).name}:{line})"


def _is_users(frame: Any) -> bool:
    file = frame.f_code.co_filename
    root = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    # `<frozen os>` and `<string>` are no files.
    is_file = not file.startswith("<")
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return is_file and not installed and root not in _NOT_THE_USERS and root not in sys.stdlib_module_names


def _hint(error: BaseException) -> str:
    """Return a second line with what to do about `error`; an empty string if nothing is known."""
    functions = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    files = {Path(frame.f_code.co_filename).name for frame, _ in traceback.walk_tb(error.__traceback__)}
    hint = _hint_about_world(error, functions, files) or _hint_about_machine(error)
    return f"\n{hint}" if hint else ""


def _hint_about_world(error: BaseException, functions: set[str], files: set[str]) -> str:
    """Return a hint if the function expects what a launched training script has."""
    if isinstance(error, SystemExit) and "argparse.py" in files:
        return (
            "The command line is clora-inspect's, so sys.argv is empty here. Give the parser its words: "
            "parser.parse_args(['--num-layers', '4'])."
        )
    if isinstance(error, SystemExit):
        return "A function of a job returns its model, or raises an exception that says why it cannot."
    if functions & {"init_process_group", "initialize_model_parallel"}:
        return (
            "The process groups of the job's layout exist already when the function is called. Leave out "
            "init_process_group and initialize_model_parallel, or call them only where "
            "torch.distributed.is_initialized() is false."
        )
    names = [value for value in getattr(error, "args", ()) if isinstance(value, str) and value in _LAUNCHERS]
    if isinstance(error, KeyError) and names:
        return (
            f"{names[0]} is not set: nothing launched this process. torch.distributed.get_rank() and "
            "megatron.core.parallel_state know the rank and the sizes."
        )
    if functions & {"get_args", "initialize_megatron"}:
        return (
            "Nothing has parsed Megatron-LM's command line. Make the arguments in the function: docs/your-model.md "
            "has a file that does."
        )
    return ""


def _hint_about_machine(error: BaseException) -> str:
    """Return a hint if the function needs what the virtual world does not have."""
    if isinstance(error, ImportError):
        return _hint_about_import(error)
    if isinstance(error, FileNotFoundError) and error.filename and not Path(str(error.filename)).is_absolute():
        return f"Relative paths begin at the folder of the job, {Path.cwd()}."
    if isinstance(error, (RuntimeError, NotImplementedError, ValueError)) and "meta" in _text(str, error).lower():
        return (
            "The model is built on the meta device: its tensors have shapes and no values. Leave the device to "
            "torch, load no weights, and ask no tensor for a value."
        )
    if isinstance(error, (RuntimeError, AssertionError)) and "cuda" in _text(str, error).lower():
        return "There is no GPU here. Leave the device to torch, and ask torch.cuda for nothing but current_device()."
    return ""


def _hint_about_import(error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    if name in ABSENT:
        return (
            f"{name} needs CUDA, and is absent while a model is built, on every machine. Import it in a try, as "
            "megatron-core does, or in the function that calls it."
        )
    if name in STAND_INS:
        return (
            f"{name} has a stand-in here, with what megatron-core uses of it. Import other names in a try, or where "
            "they are called."
        )
    remedy = how_to_get(error.name) if isinstance(error, ModuleNotFoundError) and error.name else None
    return f"It is not installed: {remedy}" if remedy else ""
