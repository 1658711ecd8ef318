"""Read what differs between releases of megatron-core: shapes of specs, and fields that only some
configs have.

Each difference is found by looking at what is there, not by the number of the release. What is
neither of the known forms is refused by name.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from inspect import getsource
from pathlib import Path
from traceback import walk_tb
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from clora.errors import DeviceError, ModelError, described
from clora.megatron_releases import SUPPORTED, is_supported, supported_series
from clora_inspect.job.versions import NOT_INSTALLED, megatron_core
from clora_inspect.machine.missing_package import how_to_get
from clora_inspect.virtual.module_set import STAND_INS

if TYPE_CHECKING:
    from collections.abc import Iterator


_IMPORTERS = ("clora_inspect.virtual.megatron_imports", "clora_inspect.virtual.triton.language")
"""Modules that import for megatron-core."""


class ReleaseError(DeviceError):
    """megatron-core cannot be used: its release is not supported, or it lacks something."""


def unsupported(missing: str) -> ReleaseError:
    """Return the error for what the installed megatron-core does not have, or not as expected.

    Args:
        missing: what was missing, a part of a sentence.
    """
    release = megatron_core()
    if release == NOT_INSTALLED:
        return ReleaseError(f"megatron-core is not installed ({missing}). pip install 'megatron-core>={SUPPORTED[0]}'")
    if is_supported(release):
        return ReleaseError(
            f"megatron-core {release} cannot be used here: {missing}. Install what is missing; if nothing is, please "
            "report it with the output of this command with --traceback."
        )
    return ReleaseError(
        f"megatron-core {release} is not supported by this release (supported: {supported_series()}): {missing}."
    )


@cache
def refuse_older_releases() -> None:
    """Refuse a release before the oldest that is supported. Newer ones are tried.

    Raises:
        ReleaseError: it is older.
    """
    numbers = re.match(r"(\d+)\.(\d+)\.", megatron_core())
    oldest = tuple(map(int, SUPPORTED[0].split(".")[:2]))
    if numbers is not None and tuple(map(int, numbers.groups())) < oldest:
        raise unsupported(
            f"before {SUPPORTED[0]} the linears of grouped experts do not keep the group that splits their weights"
        )


@contextmanager
def naming_the_release() -> Iterator[None]:
    """Run a block of megatron-core's code, whose missing names may be those of another release.

    Raises:
        ReleaseError: the block failed to import something of megatron-core or for it, or
            megatron-core read an attribute that is not there.
    """
    try:
        yield
    except (ImportError, AttributeError) as error:
        where = _place_in_megatron(error)
        if where is None:
            raise
        missing = _missing_package(error, where)
        if missing is not None:
            raise missing from error
        raise unsupported(f"{described(error).rstrip('.')} ({where})") from error


def _missing_package(error: ImportError | AttributeError, where: str) -> ReleaseError | None:
    """Return the error that names the package which was imported and is not installed; None if the
    import failed for another reason, or in a release that may need what nobody knows here.
    """
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    remedy = how_to_get(name) if name else None
    if remedy is None or not is_supported(megatron_core()):
        return None
    return ReleaseError(f"{where} imports {name}, which is not installed: {remedy}")


def _place_in_megatron(error: ImportError | AttributeError) -> str | None:
    """Return file and line that asked for a name, `transformer/mlp.py:12`; None if megatron-core
    neither asked for it nor was asked.
    """
    asked = [(frame, line) for frame, line in walk_tb(error.__traceback__) if not _answers(frame)]
    if not asked:
        return None
    frame, line = asked[-1]
    if not _of_megatron(str(frame.f_globals.get("__name__", ""))) and not _lacks_name_of_megatron(error):
        return None
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{line}"


def _answers(frame: FrameType) -> bool:
    """Return whether `frame` only looks a name up for its caller: Python's import system, a module
    or a class with a function for unknown names, a stand-in.
    """
    name = str(frame.f_globals.get("__name__", ""))
    root = name.partition(".")[0]
    return root in (*STAND_INS, "importlib") or name in _IMPORTERS or frame.f_code.co_name == "__getattr__"


def _lacks_name_of_megatron(error: ImportError | AttributeError) -> bool:
    """Return whether the name that is missing is one of megatron-core."""
    if isinstance(error, ImportError):
        return _of_megatron(error.name or "")
    if isinstance(error.obj, ModuleType):
        return _of_megatron(error.obj.__name__)
    return _of_megatron((error.obj if isinstance(error.obj, type) else type(error.obj)).__module__)


def _of_megatron(name: str) -> bool:
    return name.partition(".")[0] == "megatron"


def submodules_of(spec: Any, what: str) -> Any:
    """Return the submodules of a module's spec, which may be changed.

    Args:
        spec: a `ModuleSpec`, which has an attribute for them; from 0.18 an MLP's is a `partial` of
            its class.
        what: words for the message: "the MLP of layer 0".

    Raises:
        ModelError: the spec has another form.
    """
    if isinstance(spec, partial):
        found = spec.keywords.get("submodules")
    else:
        found = vars(spec).get("submodules") if hasattr(spec, "__dict__") else None
    if found is None:
        raise ModelError(
            f"megatron-core specifies {what} by a {type(spec).__name__} without submodules, a form that is not known: "
            "its layers cannot be given the form of this family."
        )
    return found


def normalises_plain_queries() -> bool:
    """Return whether `qk_layernorm` gives latent attention a norm inside `linear_q_proj`, where the
    query is not compressed. Releases up to 0.18 normalise the latent of keys and values alone.
    """
    return find_spec("megatron.core.transformer.mla_qk_norm_config") is not None


def counts_exchanges_from_one() -> bool:
    """Return whether a layer reads the entry of a list `cp_comm_type` after its own, as in 0.16: it
    takes the number of the layer, from 1, for that of the entry, from 0.
    """
    from megatron.core.transformer.transformer_layer import TransformerLayer

    return "cp_comm_type[self.layer_number]" in getsource(TransformerLayer.__init__)
