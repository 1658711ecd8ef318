"""`clora-inspect explain`: rules, keys of the configuration, modules of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from clora_inspect.exit_code import ExitCode
from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

SMALL = ("qwen2.5-0.5b", "--set", "model.num_layers=4")


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_every_rule_is_explained_by_code_and_by_name(clora_inspect: CommandLine, rule: type) -> None:
    by_code, by_name = clora_inspect("explain", rule.code), clora_inspect("explain", rule.name)
    assert by_code.status == ExitCode.OK
    assert by_code.out == by_name.out
    assert by_code.out.startswith(f"{rule.code} {rule.name} · ")
    assert "\nBad:   " in by_code.out
    assert "\nGood:  " in by_code.out


def test_a_page_in_whole(clora_inspect: CommandLine) -> None:
    assert clora_inspect("explain", "cl207").out == (
        "CL207 unusual-scale · geometry · warning · since 0.1\n"
        "\n"
        "alpha / dim, the factor on the adapter's output, is far from the usual quarter to four.\n"
        "\n"
        "Often one of the two was changed and the other forgotten. A large scale needs a smaller learning\n"
        "rate.\n"
        "\n"
        "Bad:   `dim = 4`, `alpha = 128`\n"
        "Good:  `dim = 16`, `alpha = 32`\n"
        "\n"
        "Settings, under [rules.CL207]:\n"
        "  smallest = 0.1\n"
        "  largest = 8.0\n"
        "Looks at: a plan.\n"
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("check.fail-on", ["check.fail-on: ", "the mildest severity that fails", "default: 'error'"]),
        ("tool.clora-inspect.check.fail-on", ["check.fail-on: "]),
        ("lora.main.target_modules", ["list", "modules to adapt"]),
        ("lora.main.target_modules[3]", ["string"]),
        ("jobs.x.layouts.train.tp", ["integer"]),
        ("jobs", ["jobs: table"]),
        ("allow[0].until", ["the last day on which it counts"]),
    ],
)
def test_keys_of_the_configuration(clora_inspect: CommandLine, key: str, says: list[str]) -> None:
    ran = clora_inspect("explain", key)
    assert ran.status == ExitCode.OK
    for words in says:
        assert words in ran.out


def test_an_adapted_module(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("explain", "decoder.layers.3.mlp.linear_fc2", *SMALL, "--tp", "2", "--pp", "2")
    assert ran.status == ExitCode.OK
    assert ran.out == (
        "decoder.layers.3.mlp.linear_fc2 · TERowParallelLinear\n"
        "  on ranks 2 to 3: pipeline stage 1\n"
        "  its name there, which targets are compared with: decoder.layers.1.mlp.linear_fc2\n"
        "\n"
        '  is adapted: target_modules[6] "linear_fc2" selects it\n'
        "    A: 32 × 4864 → 32 × 2432 on a rank (in over tp)\n"
        "    B: 896 × 32 → 448 × 32 on a rank (out over tp)\n"
        "    rank 32, alpha 32, scale 1, 184,320 parameters\n"
        "    Hugging Face: model.layers.3.mlp.down_proj\n"
    )


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (
            "decoder.layers.0.self_attention.linear_qkv",
            ("--target-modules", "linear_q"),
            ["[q] is adapted", "[k] is unmatched", "[v] is unmatched"],
        ),
        (
            "decoder.layers.0.self_attention.linear_k",
            ("--target-modules", "linear_q"),
            ["[k] is unmatched: no target", "add: linear_k"],
        ),
        ("decoder.layers.0.self_attention.linear_qkv[q]", (), ['target_modules[0] "linear_q"']),
        ("decoder.layers.0.mlp.linear_fc1", ("--target-modules", "linear_q"), ["add: linear_fc1_gate, linear_fc1_up"]),
        ("decoder.layers.0.mlp.linear_fc2", ("--exclude-modules", "linear_fc2"), ['exclude_modules has "linear_fc2"']),
        ("decoder.layers.0.mlp.linear_fc2", ("--exclude-modules", "linear_q"), ["target_modules is empty"]),
        (
            "embedding.word_embeddings",
            (),
            ["is not adaptable: it is neither a linear nor a router", "parameters of its own"],
        ),
        ("decoder.layers.0.mlp", (), ["has no parameters of its own"]),
    ],
)
def test_why_a_module_is_or_is_not_adapted(
    clora_inspect: CommandLine, module: str, options: tuple[str, ...], says: list[str]
) -> None:
    ran = clora_inspect("explain", module, *SMALL, *options)
    assert ran.status == ExitCode.OK
    for words in says:
        assert words in ran.out, ran.out


def test_a_module_with_adapted_linears_is_not_called_frozen_for_a_parameter_beside_them(
    clora_inspect: CommandLine,
) -> None:
    """Qwen3-Next's delta nets and shared experts hold parameters that belong to no linear."""
    small = ("qwen3-next-80b-a3b", "--isolated", "--set", "model.num_layers=4")
    ran = clora_inspect("explain", "decoder.layers.0.mlp.shared_experts", *small)
    assert "is not adaptable itself: gate_weight, beside the modules in it, is no linear's weight" in ran.out
    ran = clora_inspect("plan", *small, "--only", "missed")
    table, _, coverage = ran.out.partition("coverage:")
    for text in (table, coverage):
        assert "self_attention.{dt_bias,A_log}" in text
        assert "shared_experts.gate_weight" in text
        assert " conv1d " in text
    assert "shared_experts " not in table
    assert ", shared_experts (" not in coverage


def test_a_saved_plan_will_do(clora_inspect: CommandLine, saved_plan: Path) -> None:
    ran = clora_inspect("explain", "decoder.layers.2.self_attention.linear_proj", str(saved_plan))
    assert ran.status == ExitCode.OK
    assert "pipeline stage 1" in ran.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("CL1O1",), "Did you mean"),
        (("unmatched-targt",), "Did you mean unmatched-target?"),
        (("check.fail-onn",), "is no key of the configuration"),
        (("decoder.layers.0.mlp.linear_fc2",), "name its job as well"),
        (("nonsense",), "It can be a rule"),
        (("decoder.layers.0.mlp.linear_fc3", *SMALL), "Did you mean decoder.layers.0.mlp.linear_fc2"),
        (("decoder.layers.9.mlp.linear_fc2", *SMALL), "has no module"),
    ],
)
def test_what_there_is_not(clora_inspect: CommandLine, words: tuple[str, ...], says: str) -> None:
    ran = clora_inspect("explain", *words)
    assert ran.status == ExitCode.USAGE
    assert ran.out == ""
    assert says in ran.err


@pytest.mark.parametrize(
    ("module", "words", "found"),
    [
        ("model.layers.1.self_attn.q_proj", (), ("self_attention.linear_qkv", "[q] is adapted")),
        ("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight", (), ("mlp.linear_fc2", "is adapted")),
        ("layers.1.mlp.linear_fc2", (), ("mlp.linear_fc2", "is adapted")),
        # Without an adapter as well.
        ("model.layers.1.self_attn.k_proj", ("--target-modules", "linear_q"), ("linear_qkv", "[k] is unmatched")),
        ("model.layers.1.mlp.up_proj.weight", ("--target-modules", "linear_q"), ("linear_fc1", "is unmatched")),
        ("lm_head", (), ("output_layer", "is unmatched")),
    ],
)
def test_a_module_is_found_by_other_names(
    clora_inspect: CommandLine, module: str, words: tuple[str, ...], found: tuple[str, str]
) -> None:
    ran = clora_inspect("explain", module, *SMALL, *words)
    assert ran.status == ExitCode.OK, ran.err
    heading, *rest = ran.out.splitlines()
    assert found[0] in heading
    assert ("layers.1." in heading) == ("layers" in module)
    assert any(found[1] in line for line in rest)


@pytest.mark.parametrize(
    ("module", "candidate"),
    [
        ("linear_fc2", "decoder.layers.{0..3}.mlp.linear_fc2"),
        ("q_proj", "decoder.layers.{0..3}.self_attention.linear_q"),
        ("mlp.linear_fc2", "decoder.layers.{0..3}.mlp.linear_fc2"),
        ("model.layers.9.mlp.down_proj", "decoder.layers.{0..3}.mlp.linear_fc2"),
    ],
)
def test_what_is_no_single_module_gets_candidates(clora_inspect: CommandLine, module: str, candidate: str) -> None:
    ran = clora_inspect("explain", module, *SMALL)
    assert ran.status == ExitCode.USAGE
    assert candidate in ran.err
    example = ran.err.partition("For example: ")[2].split()[0]
    assert clora_inspect("explain", example, *SMALL).status == ExitCode.OK


def test_all_rules_are_listed(clora_inspect: CommandLine) -> None:
    ran = clora_inspect("explain", "--all")
    assert ran.status == ExitCode.OK
    lines = [line.split()[:2] for line in ran.out.splitlines() if line.startswith("  CL")]
    assert lines == [[rule.code, rule.name] for rule in all_rules()]
    assert clora_inspect("explain", "--all", "CL101").status == ExitCode.USAGE
    assert "explain --all" in clora_inspect("explain").err
