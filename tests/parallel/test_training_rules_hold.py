"""The rules on training are true of the installed megatron-core: it raises in the first
training step of each job in which such a rule fires, and trains the job in which the rule is
silent.
"""

from __future__ import annotations

import msgspec
import pytest
from gloo import on_ranks
from rule_cases import CASES, UNTRAINABLE, Case, Setup

from clora import CanonicalLoRA
from clora_inspect.job.finding import Severity
from clora_inspect.job.job import Job
from clora_inspect.job.layout import Layout
from clora_inspect.rules import all_rules
from clora_inspect.sources.definition import load_definition
from clora_inspect.verify.job import verify
from clora_inspect.verify.request import Request
from clora_inspect.verify.small.shrink import shrink

SAYS = {
    "CL315": "ValueError: During training, performance may degrade if MoE and tensor parallelism",
    "CL316": "RuntimeError: shape '[16, 4, 64]' is invalid for input of size 8192",
    "CL319": "ValueError: Non-interleaved pipeline parallelism does not support overlapping p2p communication",
    "CL320": "ValueError: The number of contiguous micro-batches in a virtual pipeline stage",
    "CL321": "ValueError: Only support fusion of swiglu and quick_gelu in TEGroupedMLP.",
    "CL322": "AssertionError: Sinkhorn routing does not support aux loss.",
    "CL323": "AssertionError: `moe_apply_probs_on_input` only works with `moe_router_topk`=1.",
    "CL325": "AssertionError: Shared expert overlap not supported when MoE latent projections are used.",
    "CL326": "AssertionError: cache_mla_latents conflicts with training.",
    "CL327": "AssertionError: recompute_num_layers must be 1 for MTP recompute",
    "CL328": "IndexError: shape mismatch",
    "CL329": "AssertionError: fused_single_qkv_rope requested but not available/supported for the config.",
    "CL334": "AssertionError: Rotary position embeddings should not be passed into MLA.",
    "CL332": "AssertionError: grad_output_buffer kwarg is only supported with",
    "CL331": "IndexError: index 2 is out of range",
    "CL336": "IndexError: list index out of range",
}
"""Code of a rule -> what megatron-core raises in the job in which it fires."""

SAYS_OF_FUNCTION = {
    "unknown_scores": "ValueError: Invalid score_function: softmx",
    "unknown_policy": "ValueError: Invalid drop_policy: prob",
    "known_routing": "",
}
"""Function of `untrainable_models` -> what megatron-core raises for CL330. A job cannot have the
words that it is about, because megatron-core declares them; only the config of a function can.
"""

GPU_ONLY = {"CL329": "apply_fused_qkv_rotary_pos_emb computes on a GPU only"}
"""Code of a rule -> why the job in which it is silent cannot run here."""

OF_FROZEN_WEIGHTS = {"CL332"}
"""Codes of rules about models that would train if their weights were not frozen."""

RULES = {rule.code: rule for rule in all_rules() if rule.stops_training}
STOPPED = [case for case in CASES if case.code in SAYS]


def test_every_rule_that_stops_training_is_run_here() -> None:
    errors = {code for code, rule in RULES.items() if rule.severity is Severity.ERROR}
    assert set(SAYS) == errors - {"CL330"}
    assert {case.code for case in STOPPED} == set(SAYS)


@pytest.mark.parametrize("case", STOPPED, ids=lambda case: case.code)
def test_the_first_training_step(case: Case) -> None:
    frozen = case.code in OF_FROZEN_WEIGHTS
    assert SAYS[case.code] in training_step(case.fires, frozen=frozen)
    assert GPU_ONLY.get(case.code, "") in (silent := training_step(case.silent, frozen=frozen))
    assert not silent or case.code in GPU_ONLY


@pytest.mark.parametrize("function", SAYS_OF_FUNCTION)
def test_the_first_training_step_of_a_function_with_words_that_nobody_knows(function: str) -> None:
    raised = training_step(Setup((f"{UNTRAINABLE}:{function}", {})), frozen=False)
    assert raised.startswith(SAYS_OF_FUNCTION[function])
    assert bool(raised) == bool(SAYS_OF_FUNCTION[function])


def test_a_mamba_model_recomputes_nothing() -> None:
    [case] = [case for case in CASES if case.code == "CL335"]
    task = "training_step_tasks:forwards_of_layer_0"
    assert [on_ranks(Layout(), task, *as_json(setup)) for setup in (case.fires, case.silent)] == [[1], [2]]


def test_the_proof_of_recomputation_names_no_setting_that_is_ignored() -> None:
    fields = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    job = Job(model="nemotron-h-8b", model_overrides=fields, lora=CanonicalLoRA(target_modules=["linear_fc2"]))
    report = verify(Request(job=job, proofs=("recompute",)))
    assert report.proofs[1].detail == "the same gradients under selective recomputation of mlp"


def training_step(setup: Setup, *, frozen: bool) -> str:
    """Return what the first rank raises that raises; nothing if all train."""
    layout = Layout(**setup.layout)
    raised = on_ranks(layout, "training_step_tasks:training_step", *as_json(setup), frozen)
    return next(filter(None, raised), "")


def as_json(setup: Setup) -> tuple[bytes, bytes]:
    """Return the model, made small if it can be, and its layout."""
    model, fields = setup.model
    definition, layout = load_definition(model).override(fields), Layout(**setup.layout)
    if not definition.is_user_function:
        # `shrink` switches off losses for load balancing, which some rules are about.
        losses = {name: value for name, value in fields.items() if name == "moe_aux_loss_coeff"}
        definition = shrink(definition, setup.job().plan, layout, layout).definition.override(losses)
    return msgspec.json.encode(definition), msgspec.json.encode(layout)
