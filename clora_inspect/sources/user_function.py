"""Make a model by the user's own function, `package.module:function` or `file.py:function`.

The function is called inside the virtual world, where the process groups of one rank exist as in
a training script: once for each rank class, and for each of its chunks if it returns one at a time.
docs/your-model.md has the whole contract, and a file for each way to write one.

This is the only place that runs code which is neither ours nor a dependency's: the code that the
user named. docs/security.md says which commands come here.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora.errors import ModelError
from clora.folders.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.sources.errors import BuildError
from clora_inspect.sources.layout_fields import layout_fields
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.returned_model import chunks_in, is_provider
from clora_inspect.sources.user_code import user_code
from clora_inspect.sources.user_modules import import_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from clora_inspect.job.layout import Layout

GIVEN = ("pre_process", "post_process", "vp_stage", "layout", "config")
"""Names of the arguments that a function may ask for."""


def call(name: str, layout: Layout, *, pre_process: bool, post_process: bool, vp_stage: int | None) -> list[nn.Module]:
    """Return what the user's function makes, without wrappers: one chunk, or all of the rank.

    Raises:
        ModelError: there is no such function.
        BuildError: the function cannot be imported, raises, or does not return a model.
    """
    function = find(name)
    options: dict[str, Any] = {"pre_process": pre_process, "post_process": post_process, "vp_stage": vp_stage}
    # A function that asks for the layout finds numbers in it, also where the user left one out.
    options["layout"] = layout.with_etp(has_experts=True)
    made = _call_with(name, function, options)
    if is_provider(made):
        name = f"{name}().provide"
        made = _call_with(name, _prepared(name, made, layout), options)
    _require_groups(name, layout)
    return chunks_in(name, made, chunks=layout.vpp)


def _prepared(name: str, provider: Any, layout: Layout) -> Callable[..., Any]:
    """Return the method of a provider that makes the model.

    A provider takes the layout from its own fields. Those of Megatron-Bridge are called so, and
    derive other fields from them in `finalize`.
    """
    with user_code(name, _file_of(provider.provide)):
        for field, value in layout_fields(layout).items():
            if hasattr(provider, field):
                setattr(provider, field, value)
        if callable(getattr(provider, "finalize", None)):
            provider.finalize()
    provide: Callable[..., Any] = provider.provide
    return provide


def _require_groups(name: str, layout: Layout) -> None:
    """Refuse a function that took the process groups down, or made others."""
    from megatron.core import parallel_state
    from torch import distributed

    if distributed.is_initialized() and parallel_state.model_parallel_is_initialized():
        tp = parallel_state.get_tensor_model_parallel_world_size()
        pp = parallel_state.get_pipeline_model_parallel_world_size()
        if (tp, pp) == (layout.tp, layout.pp):
            return
    raise BuildError(
        f"{name} changed the process groups.\nThose of the job's layout exist already when the function is called: "
        "leave them as they are."
    )


def find(name: str) -> Callable[..., Any]:
    """Return the function at `name`.

    Its file may import modules beside it, and any function those in the current folder. Installed
    modules of the same name go before them.

    Raises:
        ModelError: there is no such module, file or function.
        BuildError: importing its module raises, or a package that it needs is missing.
    """
    where, _, attribute = name.rpartition(":")
    if not where.strip() or not attribute.strip():
        side = "after" if where.strip() else "before"
        raise ModelError(
            f"{name}: the name {side} the colon is missing. Write FILE.py:FUNCTION, or package.module:FUNCTION."
        )
    is_file = where.endswith(".py")
    if is_file:
        _require_source(name, Path(where))
        import_from(Path(where).parent)
    import_from(Path())
    file = str(Path(where).absolute()) if is_file else None
    try:
        with user_code(f"{name}: importing {where}", file):
            module: Any = _from_file(Path(where).absolute()) if is_file else import_module(where)
    except BuildError as failed:
        # The user's module is missing (or a package above it), and not one that it imports.
        missing = failed.__cause__.name if isinstance(failed.__cause__, ModuleNotFoundError) else None
        if missing is None or not f"{where}.".startswith(f"{missing}."):
            raise
        if Path(where).is_file():
            raise ModelError(
                f"{name}: {where} is no Python file. Name a function in one, FILE.py:FUNCTION, or a config.json alone."
            ) from failed
        raise ModelError(
            f"{name}: there is no module {missing} on the path. Install it, or run where it can be imported."
        ) from failed
    # `Class.method` is found as well.
    function = module
    for part in attribute.split("."):
        if not hasattr(function, part):
            known = [known for known in vars(module) if callable(getattr(module, known)) and not known.startswith("_")]
            near = nearest(attribute, known)
            own = [name for name in known if getattr(getattr(module, name), "__module__", None) == module.__name__]
            there = f" Its functions: {', '.join(own[:8])}." if near == "." and own else ""
            if Path(where).is_dir() and not own:
                there = f" {where} is a folder: name a Python file in it, {where}/FILE.py:{attribute}."
            raise ModelError(f"{name}: {where} has no {attribute}{near}{there}")
        function = getattr(function, part)
    if not callable(function):
        raise ModelError(f"{name} is a {type(function).__name__}, not a function.")
    return function  # type: ignore[no-any-return]


def _require_source(name: str, path: Path) -> None:
    try:
        read_regular_file(path, LARGEST_SOURCE)
    except FileNotFoundError:
        raise ModelError(f"{name}: there is no file {path}.") from None
    except OSError as error:
        raise ModelError(f"{name}: {path} cannot be read: {error.strerror or error}.") from None


def _from_file(path: Path) -> Any:
    spec = spec_from_file_location(f"clora_inspect_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"Python has no loader for {path}")
    module = module_from_spec(spec)
    # Dataclasses and pickles look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _call_with(name: str, function: Callable[..., Any], options: dict[str, Any]) -> Any:
    with user_code(name, _file_of(function)):
        parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    needed = {
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    unknown = sorted(needed - set(GIVEN))
    if unknown:
        raise BuildError(
            f"{name} needs {', '.join(unknown)}, and nothing gives it that{_line_of(function)}.\n"
            f"A function may ask for {', '.join(GIVEN)}. Give other arguments a default."
        )
    given = {option: value for option, value in options.items() if takes_all or option in parameters}
    # Megatron's providers have `config=None`, and read a config as one that is complete.
    if "config" in needed:
        given["config"] = _parallel_config(options["layout"])
    with user_code(name, _file_of(function)):
        return function(**given)


def _parallel_config(layout: Layout) -> Any:
    """Return megatron-core's config of the layout alone, which has no size of a model."""
    import torch
    from megatron.core import ModelParallelConfig

    # A pipeline needs a dtype, and a function that wants another one sets it.
    dtypes: dict[str, Any] = {"bf16": True, "params_dtype": torch.bfloat16, "pipeline_dtype": torch.bfloat16}
    return ModelParallelConfig(**dtypes, **layout_fields(layout))


def _code_of(function: object) -> Any:
    # A class is called through its constructor, a partial through its function.
    for inner in (function, getattr(function, "__init__", None), getattr(function, "func", None)):
        code = getattr(inspect.unwrap(inner) if callable(inner) else inner, "__code__", None)
        if code is not None:
            return code
    return None


def _file_of(function: object) -> str | None:
    code = _code_of(function)
    return None if code is None else code.co_filename


def _line_of(function: object) -> str:
    code = _code_of(function)
    return "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"
