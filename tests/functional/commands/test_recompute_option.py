"""`--recompute`, and the key `recompute` of a workload, set megatron-core's fields."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from clora_inspect.exit_code import ExitCode
from clora_inspect.job.recompute import is_recompute, recompute_fields

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

OTHERS = {"num_layers": 4, "hidden_size": 64, "ffn_hidden_size": 128, "num_attention_heads": 4, "num_query_groups": 2}
PLAN = ("plan", "llama3-8b", *(word for name, value in OTHERS.items() for word in ("--set", f"model.{name}={value}")))
NONE = (None, None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", NONE),
        ("selective", ("selective", None, None, ["core_attn"])),
        ("selective:mlp,layernorm", ("selective", None, None, ["mlp", "layernorm"])),
        ("full", ("full", "uniform", 1, None)),
        ("full:block", ("full", "block", 1, None)),
        ("full:uniform:2", ("full", "uniform", 2, None)),
    ],
)
def test_what_a_word_sets(text: str, expected: tuple[Any, ...]) -> None:
    assert is_recompute(text)
    assert tuple(recompute_fields(text).values()) == expected


@pytest.mark.parametrize(
    "text", ["all", "none:1", "selective:", "selective:mlp,", "full:", "full:2", "full:block:0", "full:block:1:2"]
)
def test_other_words_are_refused(clora_inspect: CommandLine, text: str) -> None:
    ran = clora_inspect(*PLAN, "--recompute", text)
    assert ran.status == ExitCode.USAGE
    assert (
        f"'{text}' does not say what is recomputed: write none|selective[:MODULES]|full[:uniform|block[:N]]" in ran.err
    )


def _peak(clora_inspect: CommandLine, *words: str) -> int:
    ran = clora_inspect(*words, "--memory", "-f", "json")
    assert ran.status == ExitCode.OK, ran.err
    plan = json.loads(ran.out)
    return int(plan["rank_classes"][0]["memory"]["activations_bytes"])


def test_the_option_the_fields_and_the_key_count_the_same(
    clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fields = ("granularity=full", "method=block", "num_layers=2")
    written = [word for field in fields for word in ("--set", f"model.recompute_{field}")]
    (tmp_path / "clora-inspect.toml").write_text(
        f"[jobs.tuned]\nmodel = 'llama3-8b'\nset.model = {{ {', '.join(f'{k} = {v}' for k, v in OTHERS.items())} }}\n"
        "workload = { recompute = 'full:block:2' }\n"
    )
    block = _peak(clora_inspect, *PLAN, "--recompute", "full:block:2")
    assert block == _peak(clora_inspect, *PLAN, *written) == _peak(clora_inspect, "plan", "tuned")
    # The option wins over both.
    everything = _peak(clora_inspect, *PLAN, "--recompute", "none")
    assert everything == _peak(clora_inspect, *PLAN, *written, "--recompute", "none")
    assert everything == _peak(clora_inspect, "plan", "tuned", "--recompute", "none")
    assert _peak(clora_inspect, "plan", "tuned", "--recompute", "full") < block < everything


def test_the_plan_says_what_is_recomputed(clora_inspect: CommandLine) -> None:
    out = clora_inspect(*PLAN, *shlex.split("--seq-length 64 --recompute selective:mlp")).out
    assert "for micro-batches of 1 x 64 tokens, recompute selective:mlp" in out
    assert "activations are not counted" not in out
