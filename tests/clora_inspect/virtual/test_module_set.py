"""Modules that hold megatron-core's classes belong to the set whose classes they hold.

A GPU has two sets in one process: a job is planned in the virtual world and proved in the real one.
Here a second virtual set stands for the real one.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import torch

from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.build import build_chunks
from clora_inspect.sources.definition import load_definition
from clora_inspect.virtual import virtual_cluster, virtual_megatron, world
from clora_inspect.virtual.module_set import ModuleSet
from clora_inspect.virtual.reproducible import reproducible_kernels

if TYPE_CHECKING:
    from pathlib import Path

USERS = {
    # A class of megatron-core, one that derives from it in another module, and a function of that.
    "users_layers.py": """
from megatron.core.transformer.module import MegatronModule

class Layer(MegatronModule):
    pass
""",
    "users_model.py": """
import users_layers

def base():
    from megatron.core.transformer.module import MegatronModule
    return issubclass(users_layers.Layer, MegatronModule)
""",
    # tensorboard has such a value: it parses the command line when somebody asks what it is.
    "users_numbers.py": """
class Touchy:
    def __getattribute__(self, name):
        raise RuntimeError(f"asked for {name}")

FLAGS = Touchy()
""",
}


def _built(model: str) -> list[Any]:
    definition = load_definition(Job(model=model).model).override({"num_layers": 2})
    with quiet(), virtual_megatron("meta"), virtual_cluster(Layout()):
        return build_chunks(definition, Layout())


@pytest.mark.parametrize("model", ["gemma2-9b", "gpt-oss-20b"])
def test_a_model_with_classes_of_ours_is_built_with_either_set(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _built(model)
    monkeypatch.setattr(world, "_MODULES", ModuleSet())
    second = _built(model)
    kinds = [{type(module) for chunk in chunks for module in chunk.modules()} for chunks in (first, second)]
    assert {kind.__qualname__ for kind in kinds[0]} == {kind.__qualname__ for kind in kinds[1]}
    shared = {kind for kind in kinds[0] & kinds[1] if not kind.__module__.startswith("torch.")}
    assert shared == set()


def test_a_users_module_holds_the_classes_of_the_set_that_is_entered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, source in USERS.items():
        (tmp_path / file).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    entered = ModuleSet()
    monkeypatch.setattr(world, "_MODULES", entered)
    with quiet(), virtual_megatron("meta"):
        numbers = import_module("users_numbers")
        model = import_module("users_model")
        assert model.base()
    assert "users_model" not in sys.modules
    assert "users_layers" not in sys.modules
    assert sys.modules.pop("users_numbers") is numbers
    with quiet(), virtual_megatron("meta"):
        assert import_module("users_model") is model
    monkeypatch.setattr(world, "_MODULES", ModuleSet())
    with quiet(), virtual_megatron("meta"):
        assert import_module("users_model") is not model
        assert import_module("users_model").base()


def test_a_users_module_from_before_is_back_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_layers.py").write_text(USERS["users_layers.py"])
    monkeypatch.syspath_prepend(tmp_path)
    with quiet(), virtual_megatron("meta"):
        import_module("users_layers")
    outside = type(sys)("users_layers")
    monkeypatch.setitem(sys.modules, "users_layers", outside)
    with quiet(), virtual_megatron("meta"):
        assert import_module("users_layers").Layer
    assert sys.modules["users_layers"] is outside


def test_kernels_are_chosen_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    with reproducible_kernels(exact_fp32=True):
        assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
        assert torch.are_deterministic_algorithms_enabled()
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    assert (torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory) == before
