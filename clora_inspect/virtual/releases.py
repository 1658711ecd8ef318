"""Read what differs between releases of megatron-core: shapes of specs, and fields that only some
configs have.

Each difference is found by looking at what is there, not by the number of the release. What is
neither of the known forms is refused by name.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from clora.errors import ModelError


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


def attention_variant(config: Any) -> str | None:
    """Return the attention that the config asks for by name; None for megatron-core's usual one.

    0.15 has no such field.
    """
    variant: str | None = getattr(config, "experimental_attention_variant", None)
    return variant


def normalises_plain_queries() -> bool:
    """Return whether `qk_layernorm` gives latent attention a norm inside `linear_q_proj`, where the
    query is not compressed. Releases up to 0.18 normalise the latent of keys and values alone.
    """
    return find_spec("megatron.core.transformer.mla_qk_norm_config") is not None
