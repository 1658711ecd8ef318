"""Make a model by the user's own function, `package.module:function` or `file.py:function`.

The function is called inside the virtual world, where the process groups of one rank exist as in
a training script. It gets those of these arguments that it takes: `pre_process`, `post_process`,
`vp_stage` (as a model provider of megatron does) and `layout`. It returns a `torch.nn.Module`, or
an object with a `provide` method (a provider of Megatron-Bridge), which is called the same way.

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
from clora.regular_file import LARGEST_SOURCE, read_regular_file
from clora_inspect.sources.errors import BuildError, one_line
from clora_inspect.sources.layout_fields import layout_fields
from clora_inspect.sources.nearest import nearest
from clora_inspect.sources.user_modules import import_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from clora_inspect.job.layout import Layout


def call(name: str, layout: Layout, *, pre_process: bool, post_process: bool, vp_stage: int | None) -> nn.Module:
    """Return the model (one chunk of one rank) that the user's function makes.

    Raises:
        ModelError: there is no such function.
        BuildError: the function cannot be imported, raises, or does not return a model.
    """
    from torch import nn

    function = find(name)
    options: dict[str, Any] = {"pre_process": pre_process, "post_process": post_process, "vp_stage": vp_stage}
    # A function that asks for the layout finds numbers in it, also where the user left one out.
    options["layout"] = layout.with_etp(has_experts=True)
    made = _call_with(name, function, options)
    if not isinstance(made, nn.Module) and callable(getattr(made, "provide", None)):
        # A provider takes the layout from its own fields. Those of Megatron-Bridge are called so.
        for field, value in layout_fields(layout).items():
            if hasattr(made, field):
                setattr(made, field, value)
        made = _call_with(f"{name}().provide", made.provide, options)
    if not isinstance(made, nn.Module):
        raise BuildError(
            f"{name} returned {type(made).__name__}: it must return a torch.nn.Module, or an object with a provide() "
            "method."
        )
    return made


def find(name: str) -> Callable[..., Any]:
    """Return the function at `name`.

    Its file may import modules beside it, and any function those in the current folder. Installed
    modules of the same name go before them.

    Raises:
        ModelError: there is no such module, file or function.
        BuildError: importing its module raises, or a package that it needs is missing.
    """
    where, _, attribute = name.rpartition(":")
    is_file = where.endswith(".py")
    if is_file:
        _require_source(name, Path(where))
        import_from(Path(where).parent)
    import_from(Path())
    try:
        module: Any = _from_file(Path(where)) if is_file else import_module(where)
    except ModuleNotFoundError as error:
        # Either the user's module is missing (or a package above it), or one that it imports.
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise BuildError(f"{name}: {error}") from error
        raise ModelError(
            f"{name}: there is no module {error.name} on the path. Install it, or run where it can be imported."
        ) from error
    except Exception as error:
        raise BuildError(f"{name}: importing {where} raised {_line(error)}") from error
    # `Class.method` is found as well.
    function = module
    for part in attribute.split("."):
        if not hasattr(function, part):
            known = [known for known in vars(module) if callable(getattr(module, known)) and not known.startswith("_")]
            raise ModelError(f"{name}: {where} has no {attribute}{nearest(attribute, known)}")
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
    # User code may raise anything, so `except Exception` is right here and in `find`.
    try:
        accepted = inspect.signature(function).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        return function(**{option: value for option, value in options.items() if takes_all or option in accepted})
    except Exception as error:
        raise BuildError(f"{name} raised {_line(error)}") from error


def _line(error: Exception) -> str:
    """Return the type and text of an exception, with the file and line that raised it."""
    frame = inspect.getinnerframes(error.__traceback__)[-1] if error.__traceback__ else None
    place = f" ({Path(frame.filename).name}:{frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"
