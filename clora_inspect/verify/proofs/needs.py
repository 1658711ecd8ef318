"""Check before a proof is run that the model meets its needs.

`FORWARD` and `WHOLE_MODEL` are not checked here: the first depends on how earlier proofs ended, and
a proof with the second is left out of `--size layer` altogether (both in `verify/all_proofs.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.verify.outcome import NotRun
from clora_inspect.verify.proof_table import Need

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.verify.model.model_under_test import ModelUnderTest
    from clora_inspect.verify.proof_table import Proof


def check_needs(proof: Proof, model: ModelUnderTest) -> None:
    """Check the needs of `proof` in their order. Called on all ranks together.

    Raises:
        NotRun: a need is not met; the message says which.
    """
    for need in proof.needs:
        unmet = _CHECKS.get(need)
        if unmet is not None and (reason := unmet(model)) is not None:
            raise NotRun(reason)


def _ranks(model: ModelUnderTest) -> str | None:
    if model.ranks > 1:
        return None
    return "one rank has no layout to compare; --procs N runs the job's layout on N local processes"


def _megatron_modules(model: ModelUnderTest) -> str | None:
    if model.is_megatron:
        return None
    return "the model has no sharded_state_dict: megatron-core saves and wraps its own modules only"


def _config(model: ModelUnderTest) -> str | None:
    if not model.definition.is_user_function:
        return None
    return (
        "a function makes its own config, so recomputation cannot be switched on from outside; "
        "what the function switches on itself is part of every proof"
    )


def _dropout(model: ModelUnderTest) -> str | None:
    if model.dropout:
        return None
    return "the job's LoRA has no dropout"


def _export(model: ModelUnderTest) -> str | None:
    if model.implementation.exports:
        return None
    return f"{model.implementation.name} exports through its own bridges, which need the model's weights"


def _hf_name(model: ModelUnderTest) -> str | None:
    if model.definition.model_type is not None:
        return None
    return "the model has no Hugging Face name to export under"


_CHECKS: dict[Need, Callable[[ModelUnderTest], str | None]] = {
    Need.RANKS: _ranks,
    Need.MEGATRON_MODULES: _megatron_modules,
    Need.CONFIG: _config,
    Need.DROPOUT: _dropout,
    Need.EXPORT: _export,
    Need.HF_NAME: _hf_name,
}
