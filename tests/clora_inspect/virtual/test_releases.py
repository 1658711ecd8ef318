"""What differs between releases of megatron-core is read from the object, or refused."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from clora.errors import ModelError
from clora_inspect.job.layout import Layout
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_cluster, virtual_megatron
from clora_inspect.virtual.processes import Processes
from clora_inspect.virtual.releases import ReleaseError, submodules_of


def _specs() -> tuple[Any, Any, Any]:
    """Return an MLP's spec as it is up to 0.17, as it is from 0.18, and the submodules of both."""
    from megatron.core.transformer.mlp import MLP, MLPSubmodules
    from megatron.core.transformer.spec_utils import ModuleSpec

    submodules = MLPSubmodules(linear_fc1="fc1", linear_fc2="fc2")
    return ModuleSpec(module=MLP, submodules=submodules), partial(MLP, submodules=submodules), submodules


def test_both_forms_of_a_spec_have_their_submodules() -> None:
    with quiet(), virtual_megatron("meta"):
        old, new, submodules = _specs()
    assert submodules_of(old, "an MLP") is submodules
    assert submodules_of(new, "an MLP") is submodules


@pytest.mark.parametrize("spec", [partial(dict), dict, SimpleNamespace(submodules=None), (), "a.b"])
def test_another_form_is_refused_by_its_name(spec: Any) -> None:
    with pytest.raises(ModelError, match=f"specifies the MLP by a {type(spec).__name__} without submodules"):
        submodules_of(spec, "the MLP")


def _import_what_is_not_there() -> None:
    from megatron.core.transformer.mlp import NoSuchName  # noqa: F401


def _import_a_module_that_is_not_there() -> None:
    import megatron.core.no_such_module  # noqa: F401


def _read_what_a_module_lacks() -> None:
    from megatron.core import parallel_state

    parallel_state.no_such_function()


def _read_what_an_object_lacks() -> None:
    from megatron.core.transformer.transformer_config import TransformerConfig

    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    config.no_such_field  # noqa: B018


def _megatron_asks_our_stand_in() -> None:
    """Run a line of megatron-core's own module that names what the stand-in lacks."""
    from megatron.core.extensions import transformer_engine

    exec(compile("te.pytorch.NoSuchThing", transformer_engine.__file__, "exec"), vars(transformer_engine))


def _megatron_reads_none() -> None:
    from megatron.core.transformer import utils

    utils.make_sharded_tensors_for_checkpoint(None, "", {})


def _megatron_imports(module: str) -> None:
    from megatron.core.transformer import utils

    exec(compile(f"import {module}", utils.__file__, "exec"), vars(utils))


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("left_pad.nowhere", "pip install left_pad"),
        ("hydra", "pip install hydra-core"),
        ("megatron.bridge.models", "pip install megatron-bridge"),
        ("megatron.training", r"megatron\.training is in the source tree of Megatron-LM .* first on PYTHONPATH"),
    ],
)
def test_a_package_that_is_missing_is_named_with_how_to_get_it(module: str, remedy: str) -> None:
    root = module.removesuffix(".nowhere").removesuffix(".models")
    named = rf"^transformer/utils\.py:1 imports {root}, which is not installed: {remedy}"
    with pytest.raises(ReleaseError, match=named), quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
        _megatron_imports(module)
    if module.startswith("megatron."):
        # Asked for by anybody: it is looked for in megatron-core's package.
        named = rf"test_releases\.py:\d+ imports {root}, which is not installed: {remedy}"
        with pytest.raises(ReleaseError, match=named), quiet(), virtual_megatron("cpu"), virtual_cluster(Layout()):
            import_module(module)


MISSING = {
    _import_what_is_not_there: r"cannot import name 'NoSuchName'.*\(virtual/test_releases\.py:\d+\)",
    _import_a_module_that_is_not_there: r"No module named 'megatron\.core\.no_such_module' \(virtual/test_releases",
    _read_what_a_module_lacks: r"has no attribute 'no_such_function' \(virtual/test_releases",
    _read_what_an_object_lacks: r"has no attribute 'no_such_field' \(virtual/test_releases",
    _megatron_asks_our_stand_in: r"NoSuchThing.*\(extensions/transformer_engine\.py:\d+\)",
    _megatron_reads_none: r"'NoneType' object has no attribute .* \(transformer/utils\.py:\d+\)",
}


@pytest.mark.parametrize("fails", MISSING, ids=lambda fails: fails.__name__.strip("_"))
def test_what_megatron_core_lacks_is_no_error_of_ours(fails: Any) -> None:
    with (
        pytest.raises(ReleaseError, match=rf"^megatron-core [\d.]+ cannot be used here: \w+Error: .*{MISSING[fails]}"),
        quiet(),
        virtual_megatron("cpu"),
        virtual_cluster(Layout()),
    ):
        fails()


@pytest.mark.parametrize("error", [ImportError("no torch", name="torch"), AttributeError("ours"), KeyError("ours")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, quiet(), virtual_megatron("meta"):
        raise error
    assert caught.value is error


def test_a_rank_says_it_too() -> None:
    with Processes(1) as processes, pytest.raises(ReleaseError, match="no_such_function"):
        processes.run(f"{__name__}:_read_what_a_module_lacks", Layout())
