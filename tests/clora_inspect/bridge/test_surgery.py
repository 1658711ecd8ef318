"""What the installed Megatron-Bridge does to a job is a plan, and beside clora's each difference
has its reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from with_bridge import run_all

from clora_inspect.snapshot.bridge_reasons import REASONS, UNEXPLAINED

Commands = Callable[[Sequence[Sequence[str]]], list[Any]]

BRIDGE = ("--isolated", "--implementation", "megatron-bridge")
QWEN_MOE = ("qwen3-30b-a3b", "--set", "model.num_layers=2", "--tp", "2", "--ep", "2", "--etp", "1")
NEMOTRON = ("nemotron-4-15b", "--set", "model.num_layers=2")
NEXT = ("qwen3-next-80b-a3b", "--set", "model.num_layers=4")
LLAMA = ("llama3-8b", "--set", "model.num_layers=12")

LLAMA_70B = ("llama3-70b", "--set", "model.num_layers=1", "--tp", "8")

DIFFERENCES: list[tuple[tuple[str, ...], dict[str, int]]] = [
    # the job; place of each change -> row of REASONS
    ((*LLAMA, "--tp", "2"), {}),
    ((*LLAMA, "--target-modules", "linear_q,linear_v"), {}),
    (
        (*LLAMA, "--target-modules", "*.layers.1.*.linear_proj"),
        {"+ decoder.layers.{10..11}.self_attention.linear_proj": 2},
    ),
    (
        (*LLAMA, "--pp", "2", "--target-modules", "*.layers.0.*.linear_q,linear_k,linear_q"),
        {"- decoder.layers.{0,6}.self_attention.linear_qkv[k]": 3},
    ),
    (
        QWEN_MOE,
        {
            "- decoder.layers.{0..1}.mlp.experts.linear_fc1": 7,
            "+ decoder.layers.{0..1}.mlp.experts.linear_fc1[gate]": 7,
            "+ decoder.layers.{0..1}.mlp.experts.linear_fc1[up]": 7,
        },
    ),
    (
        NEMOTRON,
        {
            "- decoder.layers.{0..1}.mlp.linear_fc1": 8,
            "+ decoder.layers.{0..1}.mlp.linear_fc1[gate]": 8,
            "+ decoder.layers.{0..1}.mlp.linear_fc1[up]": 8,
        },
    ),
    ((*NEXT, "--target-modules", "linear_q,linear_k"), {"~ decoder.layers.3.self_attention.linear_qkv[q]": 9}),
    (("mixtral-8x7b", "--set", "model.num_layers=2", "--target-modules", "router"), {}),
]
MARKS = {"added": "+", "removed": "-", "changed": "~"}

JSON = (*BRIDGE, "-f", "json")
CHECK = (*BRIDGE, "--no-snapshot", "--no-cache")
REFUSED = {
    # a job that Megatron-Bridge cannot adapt -> its words
    ("--exclude-modules", "output_layer"): "AssertionError: exclude_modules should be empty",
    ("--set", "lora.normalize_moe_lora=true"): "CanonicalLoRA has no field normalize_moe_lora",
}
SMALL = ("qwen2.5-0.5b", "--set", "model.num_layers=1")


@pytest.fixture(scope="module")
def ran(with_bridge: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Any]:
    """All command lines of this file -> what they did, in one process."""
    folder = tmp_path_factory.mktemp("bridge")
    saved, picture = str(folder / "plan.json"), str(folder / "picture.svg")
    named: dict[tuple[str, ...], tuple[str, ...]] = {
        ("written",): ("plan", *NEMOTRON, *BRIDGE, "-o", saved),
        ("read",): ("plan", saved),
        ("graph",): ("graph", *NEMOTRON, *JSON),
        ("tui",): ("tui", *NEMOTRON, *BRIDGE, "--screenshot", picture),
        ("check",): ("check", *NEMOTRON, *CHECK),
        ("check", "next"): ("check", *NEXT, *CHECK),
        ("verify",): ("verify", *NEMOTRON, *BRIDGE, "--proof", "twice"),
        ("moe",): ("plan", *QWEN_MOE, *JSON),
        ("traffic",): ("plan", *LLAMA_70B, "--memory", "--seq-length", "8192", *JSON),
        ("next",): ("plan", *NEXT, "--target-modules", "linear_q", *JSON),
        **{job: ("diff", *job, *JSON) for job, _ in DIFFERENCES},
        **{
            (command, *words): (command, *SMALL, *words, *(CHECK if command == "check" else BRIDGE))
            for words in REFUSED
            for command in ("plan", "diff", "check")
        },
    }
    found = dict(zip(named, with_bridge(list(named.values())), strict=True))
    found["picture",] = Path(picture).read_text().replace("&#160;", " ")
    return found


@pytest.mark.parametrize(("job", "expected"), DIFFERENCES, ids=[" ".join(job) for job, _ in DIFFERENCES])
def test_each_difference_from_clora_has_its_reason(
    ran: dict[tuple[str, ...], Any], job: tuple[str, ...], expected: dict[str, int]
) -> None:
    assert ran[job].status == (1 if expected else 0), ran[job]
    [found] = json.loads(ran[job].out)["diffs"]
    lines = {f"{MARKS[line['change']]} {line['where']}": line["why"] for line in found["lines"]}
    assert lines == {place: REASONS[row] for place, row in expected.items()}
    assert found["kept"] > 0
    # The same base, in the same layout: only the adapters differ.
    assert (found["base"], found["layout"], found["settings"]) == ([], [], [])


def test_the_plan_has_the_sizes_that_megatron_bridge_registers(ran: dict[tuple[str, ...], Any]) -> None:
    plan = json.loads(ran["moe",].out)
    assert plan["versions"]["megatron-bridge"] == "0.3.1"
    [stage] = plan["rank_classes"]
    halves = [each for each in stage["placements"] if each["part"] in ("gate", "up")]
    # 2 layers with two halves each: 768 rows on one rank of etp, the whole rank of A, one pair.
    assert {(*each["a_shape"], *each["b_shape"]) for each in halves} == {(32, 2048, 768, 32)}
    assert len(halves) == 4
    assert {each["wrapper"] for each in halves} == {"LoRALinearSplitFC1UpGate"}
    query = next(each for each in stage["placements"] if each["part"] == "q")
    assert (query["a_shape"], query["b_shape"], query["b_global_shape"]) == ([16, 2048], [2048, 32], [4096, 32])
    [query] = json.loads(ran["next",].out)["rank_classes"][0]["placements"]
    assert query["b_global_shape"] == [4096, 32]


def test_the_traffic_is_that_of_its_adapters(ran: dict[tuple[str, ...], Any]) -> None:
    """Beside a row-parallel linear they gather the activations, `[8192, 8192]` in bf16, in the
    forward and again in the backward.
    """
    [stage] = json.loads(ran["traffic",].out)["rank_classes"]
    gathered = {
        line["phase"]: line["bytes"]
        for line in stage["traffic"]
        if line["from"] == "adapter" and line["collective"] == "all-gather"
    }
    activations = 2 * 8192 * 8192 * 2
    assert activations <= gathered["forward"] < 1.02 * activations
    assert gathered["backward"] == activations


def test_a_plan_of_megatron_bridges_surgery_is_saved_and_seen_everywhere(ran: dict[tuple[str, ...], Any]) -> None:
    for name in ("written", "read", "graph", "tui"):
        assert ran[name,].status == 0, ran[name,]
    assert "Adapted by megatron-bridge 0.3.1" in ran["read",].out
    assert '"gate"' in ran["graph",].out
    assert "linear_fc1_gate" in ran["picture",]
    assert (ran["check",].status, "CL204" in ran["check",].out) == (1, True), ran["check",]
    # The rules count the rows of the base, whoever has adapted it.
    assert "it has 9,216 rows, and Megatron-Bridge 0.3.1 adapts 5,120 of them" in ran["check", "next"].out
    # The proofs still compare it with clora's plan.
    assert "an MLP without a gate has no halves" in ran["verify",].out


@pytest.mark.parametrize(("words", "told"), REFUSED.items())
def test_what_megatron_bridge_cannot_do_is_said_in_its_words(
    ran: dict[tuple[str, ...], Any], words: tuple[str, ...], told: str
) -> None:
    plan, diff, check = (ran[command, *words] for command in ("plan", "diff", "check"))
    for each in (plan, diff):
        assert told in each.err, each
        assert "internal" not in each.err
    assert plan.status == diff.status == (1 if "AssertionError" in told else 2)
    assert (check.status, told in check.out) == (1, True), check


def test_without_megatron_bridge_plans_say_so_and_a_check_reads_what_it_knows() -> None:
    commands = ("plan", "diff", "graph")
    *ran, check = run_all([*((command, *SMALL, *BRIDGE) for command in commands), ("check", *NEMOTRON, *CHECK)])
    for each in ran:
        assert (each.status, "megatron-bridge: it is not installed here" in each.err) == (3, True), each
    assert (check.status, "CL204" in check.out) == (1, True), check


def test_no_reason_stands_for_what_nobody_knows() -> None:
    assert UNEXPLAINED not in REASONS.values()
