"""The spec of DeepSeek-V3.2's sparse attention, which megatron-core builds only when it is
asked for by its own function.
"""

from __future__ import annotations

from typing import Any

from clora_inspect.virtual.releases import submodules_of

SPARSE = "dsa"
"""megatron-core's name for it in `experimental_attention_variant`."""


def sparse_attention(config: Any) -> Any:
    """Return the spec of attention over the keys that an indexer chooses.

    Args:
        config: megatron-core's config, with its `dsa_` fields.
    """
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider
    from megatron.core.models.gpt.experimental_attention_variant_module_specs import get_dsa_module_spec_for_backend

    spec = get_dsa_module_spec_for_backend(config, TESpecProvider())
    return submodules_of(spec, "sparse attention").core_attention
