"""What differs between releases of megatron-core is read from the object, or refused."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from clora.errors import ModelError
from clora_inspect.machine.quiet import quiet
from clora_inspect.virtual import virtual_megatron
from clora_inspect.virtual.releases import attention_variant, submodules_of


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


def test_a_config_without_the_field_has_the_usual_attention() -> None:
    assert attention_variant(SimpleNamespace()) is None
    assert attention_variant(SimpleNamespace(experimental_attention_variant=None)) is None
    assert attention_variant(SimpleNamespace(experimental_attention_variant="dsa")) == "dsa"
