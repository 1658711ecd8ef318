"""Prove that the adapters get the same gradients under activation recomputation: with the job's own
settings, and with full and selective recomputation.

A recomputed piece runs backward only when its input requires a gradient. The output of a frozen
embedding does not, so adapters in such a piece of the first stage can be dead, without any error.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from clora_inspect.verify.model.randomness import seed_all
from clora_inspect.verify.model.running import ForwardFailed, backward, counted_forwards
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import relative_error
from clora_inspect.verify.proofs.expected_gradients import check_gradients, gradient_of

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import ModelUnderTest

Gradients = dict[tuple[str, str], torch.Tensor]
"""Path (with its part) and factor -> this rank's gradient."""


class Step(NamedTuple):
    """One backward on this rank."""

    gradients: Gradients
    forwards: int
    """How often a module's forward was run, over all modules."""


FULL: dict[str, Any] = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
NONE: dict[str, Any] = {"recompute_granularity": None, "recompute_method": None, "recompute_num_layers": None}


def prove(model: ModelUnderTest) -> Proved:
    """Compare gradients under every setting with those without recomputation."""
    compared = compare_recomputed(model)
    return Proved(
        detail=f"the same gradients under {', '.join(compared.labels)}{compared.note}",
        tensors=compared.tensors,
        largest_error=compared.largest_error,
        bound=model.bound,
    )


class Compared(NamedTuple):
    """Result of `compare_recomputed`."""

    labels: list[str]
    """The settings under which modules were run again."""
    note: str
    """Addition to the report with the settings that had no effect; else empty."""
    tensors: int
    largest_error: float


def compare_recomputed(model: ModelUnderTest) -> Compared:
    """Compare one backward under every setting with one without recomputation. All start from the
    same random state.

    Raises:
        Refuted: a gradient is missing, or another one.
        NotRun: no setting has an effect on this model.
    """
    expected = _step(model, NONE, "")
    worst, tensors, labels, idle = 0.0, 0, [], []
    for label, fields in _settings(model).items():
        under = f" under {label}"
        found = _step(model, fields, under)
        # megatron-core ignores recomputation in some blocks. The two runs are then the same, and
        # comparing them would prove nothing.
        if not any(model.everywhere(found.forwards > expected.forwards)):
            idle.append(label)
            continue
        worst = max(worst, model.together(partial(_compare, model, found.gradients, expected.gradients, under)))
        tensors += len(found.gradients)
        labels.append(label)
    if not labels:
        raise NotRun(
            f"nothing is recomputed in this model: under {' and '.join(idle)} megatron-core runs no module again, so "
            "the run would be compared with itself"
        )
    note = f"; {' and '.join(idle)} runs no module of this model again" if idle else ""
    return Compared(labels, note, tensors, worst)


def _compare(model: ModelUnderTest, found: Gradients, expected: Gradients, under: str) -> float:
    """Return the largest error of this rank's gradients."""
    worst = 0.0
    for (where, factor), gradient in found.items():
        error = relative_error([gradient], [expected[where, factor]])
        if error > model.bound:
            raise Refuted(
                f"The gradient of {factor} is another one{under}: {error:.1e} of its largest entry apart. "
                "What is recomputed is not what was computed.",
                where=where,
                largest_error=error,
                bound=model.bound,
            )
        worst = max(worst, error)
    return worst


def _settings(model: ModelUnderTest) -> dict[str, dict[str, Any]]:
    """Return the settings to compare: a label for the report, and config fields."""
    config = model.definition.config
    # A setting that megatron-core ignores would prove nothing.
    has_full = model.definition.kind.has_full_recompute
    # megatron-core's names for the modules in which most adapters stand.
    modules = ["moe"] if config.get("num_moe_experts") else ["mlp"]
    if modules == ["mlp"] and config.get("add_bias_linear", True) and not model.implementation.is_ours:
        # The backward of an MLP with biases would never end: see `clora.recompute`.
        modules = ["core_attn"]
    if config.get("multi_latent_attention"):
        modules.append("mla_up_proj")
    settings: dict[str, dict[str, Any]] = {"full recomputation": FULL} if has_full else {}
    settings[f"selective recomputation of {' and '.join(modules)}"] = {
        "recompute_granularity": "selective",
        "recompute_modules": modules,
        "recompute_method": None,
        "recompute_num_layers": None,
    }
    own_is_ignored = not has_full and model.recompute.get("recompute_granularity") == "full"
    known = settings.values()
    if model.recompute and not own_is_ignored and all(model.recompute.items() != each.items() for each in known):
        settings["the job's own recomputation"] = model.recompute
    return settings


def _step(model: ModelUnderTest, fields: dict[str, Any], under: str) -> Step:
    """Run one backward with these config fields."""
    adapted = model.adapted(**fields)
    seed_all(model.seed)
    try:
        with counted_forwards() as forwards:
            model.together(lambda: backward(adapted.chunks, model.batch()))
    except ForwardFailed as failed:
        # torch's message when no tensor of the loss has a gradient function.
        if "does not require grad" not in str(failed):
            raise
        raise Refuted(
            f"The backward reaches no adapter{under} ({failed}): all of them stand in pieces that are recomputed from "
            "a frozen input.",
            where=failed.where,
        ) from failed
    model.together(lambda: check_gradients(adapted, under=under))
    gradients = {
        (site.at, name): gradient.detach().clone()
        for site in adapted.sites
        for name, parameter in (("A", site.a), ("B", site.b))
        if (gradient := gradient_of(parameter)) is not None
    }
    return Step(gradients, forwards.count)
