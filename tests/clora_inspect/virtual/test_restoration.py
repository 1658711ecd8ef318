"""The virtual world and a virtual cluster restore what they replace, also if the body raises."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import tiny_models
import torch

from clora.errors import LayoutError
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import WorldError, virtual_cluster, virtual_megatron

OURS = ("megatron", "transformer_engine", "mamba_ssm", "causal_conv1d", "fla", "fast_hadamard_transform", "apex")


class InterruptedBuildError(Exception):
    """An exception in a user's code."""


def attributes(prefix: str) -> dict[str, dict[str, Any]]:
    """Return the attributes of all loaded modules of the package `prefix` and of their classes.

    The values themselves are kept, so that an object made later cannot have the same id.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] == prefix:
            found[name] = dict(vars(module))
            classes = [
                value for value in vars(module).values() if issubclass(type(value), type) and value.__module__ == name
            ]
            found |= {f"{name}:{kind.__qualname__}": dict(vars(kind)) for kind in classes}
    found["torch:Tensor"] = dict(vars(torch.Tensor))
    return found


IGNORED = ("__warningregistry__", "__annotations__", "next_id")
"""Attributes that Python itself sets, and torch's count of hooks."""


def changes(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> list[str]:
    """Return "owner.attribute" for each difference. A newly imported submodule is none."""
    return [
        f"{owner}.{name}"
        for owner, names in before.items()
        for name in names.keys() | after.get(owner, {}).keys()
        if name not in IGNORED
        if not issubclass(type(after.get(owner, {}).get(name)), ModuleType) or name in names
        if names.get(name) is not after.get(owner, {}).get(name)
    ]


def surroundings() -> dict[str, Any]:
    """Return the other state of the process that must be as before."""
    return {
        "modules": {name: id(module) for name, module in sys.modules.items() if name.partition(".")[0] in OURS},
        "finders": list(sys.meta_path),
        "excepthook": sys.excepthook,
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "random state": torch.get_rng_state().tolist(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "modes": torch._C._len_torch_function_stack(),
        "distributed": torch.distributed.is_initialized(),
        "groups": len(torch.distributed.distributed_c10d._world.pg_map),
        "cuda": torch.cuda.is_available(),
        "filters": list(logging.getLogger("megatron.core.tensor_parallel.random").filters),
        "collector": gc.isenabled(),
        "threads": torch.get_num_threads(),
    }


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    before, torch_before = surroundings(), attributes("torch")
    yield
    assert surroundings() == before
    assert changes(torch_before, attributes("torch")) == []


def _builds(device: str) -> None:
    kinds = tiny_models.MESH_KINDS if device == "meta" else tiny_models.KINDS
    for layout in (Layout(tp=2), Layout()):
        with virtual_cluster(layout):
            for kind in kinds:
                model = tiny_models.build(kind, layout, device)
    if device == "cpu":
        with virtual_cluster(Layout()):
            tiny_models.loss_of(model).mean().backward()
            torch.manual_seed(3)
            torch.cuda.manual_seed(4)


def _raises(device: str) -> None:
    with virtual_cluster(Layout(pp=2), 1):
        tiny_models.build("dense", Layout(pp=2), device)
        raise InterruptedBuildError


def _builds_what_cannot_be(device: str) -> None:
    with virtual_cluster(Layout(tp=3)), pytest.raises(Exception, match=r".") as caught:
        tiny_models.build("dense", Layout(tp=3), device)
    assert not isinstance(caught.value, AttributeError)
    raise InterruptedBuildError


def _asks_for_no_such_rank(device: str) -> None:
    with pytest.raises(LayoutError), virtual_cluster(Layout(tp=2), 2):
        pass
    raise InterruptedBuildError


def _imports_what_is_not_there(device: str) -> None:
    with pytest.raises(ImportError):
        import apex  # noqa: F401
    with pytest.raises(ImportError):
        from megatron.core import nothing_of_that_name  # noqa: F401
    raise InterruptedBuildError


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    "inside",
    [_builds, _raises, _builds_what_cannot_be, _asks_for_no_such_rank, _imports_what_is_not_there],
    ids=lambda function: function.__name__.lstrip("_"),
)
def test_the_world_outside_is_as_it_was(device: str, inside: Callable[[str], None]) -> None:
    def enter_and_leave() -> None:
        with quiet(), suppress(InterruptedBuildError), virtual_megatron(device):
            inside(device)

    # Once before measuring, because torch imports and patches parts of itself at their first use.
    enter_and_leave()
    with nothing_left_behind():
        enter_and_leave()


def test_megatrons_globals_are_as_before_the_cluster() -> None:
    with quiet(), virtual_megatron("meta"):
        for _ in range(2):
            before = attributes("megatron")
            with virtual_cluster(Layout(tp=2, pp=2, ep=2, etp=1, cp=2), 3):
                tiny_models.build("moe", Layout(tp=2, pp=2, ep=2, etp=1, cp=2))
            after = attributes("megatron")
        assert changes(before, after) == []


def test_the_users_own_modules_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("megatron")
    monkeypatch.setitem(sys.modules, "megatron", theirs)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with quiet(), virtual_megatron(), virtual_cluster(Layout()):
        assert sys.modules["megatron"] is not theirs
    assert sys.modules["megatron"] is theirs
    assert sys.modules["flash_attn"] is None


def test_optional_cuda_packages_are_absent_and_can_be_asked_for() -> None:
    with quiet(), virtual_megatron():
        for name in ("apex", "flash_attn"):
            assert find_spec(name) is None
            with pytest.raises(ModuleNotFoundError):
                import_module(name)


IMPORTED_INSIDE = """
import sys
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_megatron

with quiet(), virtual_megatron():
    from transformers import AutoModelForCausalLM
    import torch
    assert torch.compiler.disable(recursive=False)(len) is not None
import torch
assert torch._dynamo is sys.modules["torch._dynamo"], torch._dynamo
assert torch._dynamo.__file__
"""


def test_who_asks_for_the_compiler_gets_it() -> None:
    ran = subprocess.run([sys.executable, "-c", IMPORTED_INSIDE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_worlds_and_clusters_do_not_nest() -> None:
    with quiet(), virtual_megatron(), virtual_cluster(Layout()):
        with pytest.raises(WorldError, match="do not nest"), virtual_megatron("cpu"):
            pass
        with pytest.raises(WorldError, match="process group is in use"), virtual_cluster(Layout()):
            pass
    with pytest.raises(WorldError, match="Not inside"), virtual_cluster(Layout()):
        pass


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(WorldError, match="device = 'tpu'"), virtual_megatron("tpu"):
        pass


def test_values_do_not_depend_on_what_was_built_before() -> None:
    def weights() -> dict[str, torch.Tensor]:
        with quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
            model = tiny_models.build("dense", Layout(), "cpu")
        return {name: p.detach() for name, p in model.named_parameters()}

    torch.manual_seed(0)
    first = weights()
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout(tp=2)):
        tiny_models.build("moe", Layout(tp=2))
    second = weights()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
