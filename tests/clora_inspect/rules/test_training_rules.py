"""The branches of the rules about what megatron-core cannot train. `rule_cases.py` has one job of
each rule, and `tests/parallel/test_training_rules_hold.py` runs those jobs.
"""

from __future__ import annotations

from typing import Any

import pytest
from rule_cases import (
    ATTENTION,
    BRIDGE,
    DENSE,
    HERE,
    HYBRID,
    LATENT,
    MLA,
    MOE,
    NEXT,
    PACKED,
    SEQUENTIAL,
    UNIFORM,
    UNTRAINABLE,
    Setup,
    targets,
    with_fields,
)

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules import all_rules

RULES = {rule.code: rule for rule in all_rules()}


def findings(code: str, model: Any, layout: dict[str, Any] | None = None, **options: Any) -> list[Finding]:
    lora = targets(*(LATENT if model[0].startswith("deepseek") else ATTENTION))
    return list(RULES[code]().check(Setup(model, lora, layout or {}).job(**options)))


def messages(code: str, model: Any, layout: dict[str, Any] | None = None) -> list[str]:
    return [finding.message for finding in findings(code, model, layout)]


def test_a_gated_attention_above_its_groups_is_one_finding_and_not_two() -> None:
    layout = {"tp": 4}
    assert findings("CL307", NEXT, layout) == []
    [finding] = findings("CL316", NEXT, layout)
    assert finding.severity is Severity.ERROR
    assert finding.help == "use tp <= 2"
    # It is the base that cannot run, whoever adapts it.
    assert findings("CL316", NEXT, layout, **BRIDGE) == [finding]


@pytest.mark.parametrize("tp", [1, 4])
def test_without_experts_or_tp_sp_may_be_off(tp: int) -> None:
    model = DENSE if tp > 1 else MOE
    assert (
        messages(
            "CL315", (model[0], {**model[1], "num_attention_heads": 16, "num_query_groups": 4}), {"tp": tp, "sp": False}
        )
        == []
    )


def test_a_function_may_leave_sp_off_whatever_the_layout_says() -> None:
    model = (f"{HERE / 'untrainable_models.py'}:experts", {})
    [finding] = findings("CL315", model, {"tp": 2, "etp": 1})
    assert finding.help == "set sequence_parallel = True in the config of the model, or use tp = 1"
    assert findings("CL315", model) == []


@pytest.mark.parametrize(
    ("model", "names", "layout", "experts"),
    [
        pytest.param(SEQUENTIAL, ("linear_fc1_up", "linear_q"), {}, "32 routed experts", id="other linears"),
        pytest.param(SEQUENTIAL, ("linear_q",), {"ep": 4}, "32 routed experts", id="experts of several ranks"),
        pytest.param(SEQUENTIAL, ("*.layers.0.*.linear_fc2",), {}, "16 routed experts", id="one layer"),
        pytest.param(SEQUENTIAL, ("*_experts.0.linear_fc2",), {}, "30 routed experts", id="one expert"),
        pytest.param(SEQUENTIAL, ("linear_fc2",), {}, None, id="all experts"),
        pytest.param(MOE, ATTENTION, {}, None, id="grouped experts"),
        pytest.param(DENSE, ATTENTION, {}, None, id="no experts"),
    ],
)
def test_the_bias_of_an_expert_that_is_added_in_place(
    model: Any, names: tuple[str, ...], layout: dict[str, int], experts: str | None
) -> None:
    job = Setup(with_fields(model, add_bias_linear=True), targets(*names), layout).job()
    found = [finding.message for finding in RULES["CL337"]().check(job)]
    assert len(found) == bool(experts)
    assert all(f"in place in {experts}," in message for message in found)


@pytest.mark.parametrize(
    ("model", "kind", "fix"),
    [
        pytest.param(PACKED, None, "set cp_comm_type = a2a in the model's config", id="sinks and windows"),
        pytest.param(
            PACKED, "all_gather", "set cp_comm_type = a2a in the model's config", id="all_gather has no sinks"
        ),
        pytest.param(
            with_fields(PACKED, softmax_type="vanilla"),
            "p2p",
            "set cp_comm_type = a2a or all_gather in the model's config",
            id="windows alone",
        ),
        pytest.param(
            with_fields(DENSE, softmax_type="off-by-one"),
            None,
            "set cp_comm_type = a2a in the model's config",
            id="off by one",
        ),
        pytest.param(MLA, "a2a", "set cp_comm_type = p2p or a2a+p2p in the model's config", id="latent attention"),
        pytest.param(with_fields(MLA, softmax_type="learnable"), None, "use cp = 1", id="nothing fits both"),
        pytest.param(PACKED, "a2a", None, id="a2a"),
        pytest.param(with_fields(PACKED, softmax_type="vanilla"), "all_gather", None, id="all_gather"),
        pytest.param(MLA, None, None, id="latent attention in a ring"),
        pytest.param(DENSE, None, None, id="plain attention"),
        pytest.param(HYBRID, None, None, id="Mamba with attention"),
        pytest.param(with_fields(DENSE, window_size=[-1, 0]), None, None, id="a window without a limit"),
    ],
)
def test_context_parallelism(model: Any, kind: str | None, fix: str | None) -> None:
    fields = {} if kind is None else {"cp_comm_type": kind}
    assert [finding.help for finding in findings("CL317", with_fields(model, **fields), {"cp": 2})] == [fix] * bool(fix)
    assert findings("CL317", with_fields(model, **fields)) == []


@pytest.mark.parametrize(
    ("layout", "kind", "wrong"),
    [
        ({"cp": 2}, "a2a", ""),
        ({"cp": 8}, "a2a", ""),
        ({"cp": 16}, "a2a", "8 key-value groups"),
        ({"tp": 8, "cp": 2}, "a2a", "1 key-value group,"),
        ({"tp": 8, "cp": 2}, "all_gather", ""),
        ({"tp": 2, "cp": 4}, "a2a", ""),
    ],
)
def test_heads_under_context_parallelism(layout: dict[str, int], kind: str, wrong: str) -> None:
    found = messages("CL318", with_fields(PACKED, cp_comm_type=kind), {"etp": 1, **layout})
    assert len(found) == bool(wrong)
    assert all(wrong in message for message in found)


@pytest.mark.parametrize(
    ("fields", "layout", "says"),
    [
        ({"overlap_p2p_comm": True}, {"pp": 2, "vpp": 2}, "batch_p2p_comm (on by default)"),
        ({"overlap_p2p_comm": True}, {}, None),
        ({"use_ring_exchange_p2p": True}, {"pp": 2}, "no released torch has"),
    ],
)
def test_communication_of_a_pipeline(fields: dict[str, Any], layout: dict[str, int], says: str | None) -> None:
    found = messages("CL319", with_fields(DENSE, **fields), layout)
    assert len(found) == (says is not None)
    assert all(str(says) in message for message in found)


@pytest.mark.parametrize(
    ("model", "activation", "gated", "places"),
    [
        (DENSE, "gelu", True, None),
        (DENSE, "silu", True, None),
        (DENSE, "silu", False, "dense MLP"),
        (DENSE, "quick_gelu", True, "dense MLP"),
        (MOE, "quick_gelu", True, None),
        (MLA, "quick_gelu", True, "dense MLP and shared experts"),
        (MLA, "gelu", True, "routed experts"),
        (MLA, "silu", True, None),
    ],
)
def test_fused_activations(model: Any, activation: str, gated: bool, places: str | None) -> None:
    fields = {"bias_activation_fusion": True, "activation_func": activation, "gated_linear_unit": gated}
    found = messages("CL321", with_fields(model, **fields))
    assert [message.rpartition(" in ")[2] for message in found] == [places] * bool(places)


@pytest.mark.parametrize(
    ("fields", "layout", "severities"),
    [
        ({"position_embedding_type": "none"}, {}, ["error"]),
        ({"no_rope_freq": 2}, {}, ["error"]),
        ({"num_query_groups": 1}, {"tp": 2}, ["warning"]),
        ({}, {"tp": 2}, []),
    ],
)
def test_the_fused_rotation_of_queries(fields: dict[str, Any], layout: dict[str, int], severities: list[str]) -> None:
    found = findings("CL329", with_fields(DENSE, fused_single_qkv_rope=True, **fields), layout)
    assert [finding.severity for finding in found] == severities


@pytest.mark.parametrize(
    ("fields", "severities"),
    [
        ({"moe_router_load_balancing_type": "aux_los"}, ["warning"]),
        ({"moe_router_load_balancing_type": ["aux_loss", "none"], "moe_aux_loss_coeff": [0.1, 0.1]}, []),
    ],
)
def test_words_that_only_the_forward_reads(fields: dict[str, Any], severities: list[str]) -> None:
    assert [finding.severity for finding in findings("CL330", with_fields(MOE, **fields))] == severities


@pytest.mark.parametrize(
    ("function", "severities"), {"unknown_scores": ["error"], "unknown_policy": ["error"], "known_routing": []}.items()
)
def test_words_that_a_function_has_given_its_config(function: str, severities: list[str]) -> None:
    """megatron-core declares these words, by which a job's own are checked. Its config does not
    compare them.
    """
    assert [finding.severity for finding in findings("CL330", (f"{UNTRAINABLE}:{function}", {}))] == severities


@pytest.mark.parametrize(
    ("layout", "number", "says"),
    [
        ({"pp": 2}, 2, None),
        ({"pp": 2}, 4, "a stage has 2 layers"),
        ({"pp": 2, "vpp": 2}, 2, "a virtual chunk has 1 layer"),
        ({"pp": 2, "vpp": 2}, 1, None),
    ],
)
def test_layers_that_are_recomputed_together(layout: dict[str, int], number: int, says: str | None) -> None:
    found = messages("CL331", with_fields(DENSE, **UNIFORM, recompute_num_layers=number), layout)
    assert len(found) == (says is not None)
    assert all(str(says) in message for message in found)


def test_a_mamba_model_ignores_the_setting() -> None:
    assert messages("CL331", with_fields(HYBRID, **UNIFORM, recompute_num_layers=4)) == []
