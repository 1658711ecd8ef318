"""`clora-inspect fingerprint`: equal for equal adapters, another one for any change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from clora.fingerprints.peft_folder import peft_pairs
from clora.folders.fingerprint import FILE, record_of
from clora.folders.hf_folder import CONFIG, WEIGHTS, FactorPair, write_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from command_line import CommandLine

Q, UP = "model.layers.10.self_attn.q_proj", "model.layers.2.mlp.up_proj"
Pairs = dict[str, FactorPair]


def pairs() -> Pairs:
    numbers = torch.arange(12, dtype=torch.float32).reshape(2, 6) / 8
    return {Q: FactorPair(numbers, numbers.T + 1, 3.0), UP: FactorPair(-numbers, numbers.T, 3.0)}


def cast(source: Pairs, dtype: torch.dtype) -> Pairs:
    return {name: FactorPair(pair.a.to(dtype), pair.b.to(dtype), pair.alpha) for name, pair in source.items()}


def with_other_value(source: Pairs) -> Pairs:
    source[UP].b[5, 1] += 2**-20
    return source


def fingerprint_of(clora_inspect: CommandLine, folder: Path, source: Pairs) -> str:
    write_folder(folder, source, base_model="tiny", dropout=0.0)
    ran = clora_inspect("fingerprint", str(folder))
    assert (ran.status, ran.err) == (0, "")
    (line,) = ran.out.splitlines()
    assert len(line) == 64
    return line


SAME: dict[str, Callable[[], Pairs]] = {
    "another order": lambda: dict(reversed(pairs().items())),
    "bfloat16 that holds these values": lambda: cast(pairs(), torch.bfloat16),
    "float16 that holds these values": lambda: cast(pairs(), torch.float16),
}
OTHER: dict[str, Callable[[], Pairs]] = {
    "one value": lambda: with_other_value(pairs()),
    "alpha of one linear": lambda: {**pairs(), Q: FactorPair(pairs()[Q].a, pairs()[Q].b, 4.0)},
    "a linear less": lambda: {Q: pairs()[Q]},
    "the pairs of two linears swapped": lambda: {Q: pairs()[UP], UP: pairs()[Q]},
    "another rank with zeros": lambda: {
        **pairs(),
        UP: FactorPair(
            torch.cat([pairs()[UP].a, torch.zeros(1, 6)]), torch.cat([pairs()[UP].b, torch.zeros(6, 1)], 1), 4.5
        ),
    },
}


def test_which_changes_change_it(clora_inspect: CommandLine, tmp_path: Path) -> None:
    first = fingerprint_of(clora_inspect, tmp_path / "first", pairs())
    same = {name: fingerprint_of(clora_inspect, tmp_path / name, make()) for name, make in SAME.items()}
    assert same == dict.fromkeys(SAME, first)
    other = {name: fingerprint_of(clora_inspect, tmp_path / name, make()) for name, make in OTHER.items()}
    assert len({first, *other.values()}) == 1 + len(OTHER)


def test_rounding_is_seen_and_the_dtype_is_told(clora_inspect: CommandLine, tmp_path: Path) -> None:
    third = {Q: FactorPair(torch.full((2, 6), 1 / 3), torch.ones(6, 2), 3.0)}
    full = fingerprint_of(clora_inspect, tmp_path / "fp32", third)
    assert fingerprint_of(clora_inspect, tmp_path / "bf16", cast(third, torch.bfloat16)) != full
    facts = json.loads(clora_inspect("fingerprint", str(tmp_path / "bf16"), "-f", "json").out)
    assert (facts["dtypes"], facts["linears"]) == (["bfloat16"], 1)


def test_the_config_scales_the_pairs(clora_inspect: CommandLine, tmp_path: Path) -> None:
    first = fingerprint_of(clora_inspect, tmp_path / "adapter", pairs())
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 6}))
    assert clora_inspect("fingerprint", str(tmp_path / "adapter")).out.strip() != first


def test_a_difference_from_the_record_is_found_and_named(clora_inspect: CommandLine, tmp_path: Path) -> None:
    record = record_of(*peft_pairs(pairs().items()))
    write_folder(tmp_path / "adapter", pairs(), base_model="tiny", dropout=0.0, record=record)
    ran = clora_inspect("fingerprint", str(tmp_path / "adapter"))
    assert (ran.status, ran.out, ran.err) == (0, f"{record.sha256}\n", "")
    path = tmp_path / "adapter" / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), "alpha_pattern": {UP: 4}}))
    ran = clora_inspect("fingerprint", str(tmp_path / "adapter"))
    assert (ran.status, ran.out != f"{record.sha256}\n") == (1, True)
    assert ran.err.startswith(f"error: {tmp_path / 'adapter' / FILE} has another fingerprint: {UP} is not what was")
    facts = json.loads(clora_inspect("fingerprint", str(tmp_path / "adapter"), "-f", "json").out)
    assert (facts["form"], facts["recorded"], facts["differs"]) == ("peft", record.sha256, [UP])


def test_the_record_is_the_same_bytes_whatever_the_order(tmp_path: Path) -> None:
    for name, source in (("a", pairs()), ("b", dict(reversed(pairs().items())))):
        record = record_of(*peft_pairs(source.items()))
        write_folder(tmp_path / name, source, base_model="tiny", dropout=0.0, record=record)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / FILE).read_bytes()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("double", "are float64, and fingerprints compare values in fp32"),
        ("huge", "is scaled by 5e+299"),
        ("checkpoint", "is no complete distributed checkpoint"),
        ("record", "adapter_fingerprint.json is damaged"),
        ("cut", f"{WEIGHTS} is damaged"),
        ("nosuch", "there is no nosuch. A fingerprint is taken of a folder: "),
        ("notes.md", "notes.md is a file. A fingerprint is taken of a folder: "),
        (f"cut/{WEIGHTS}", f"cut/{WEIGHTS} is a file, and the adapter is its folder: clora-inspect fingerprint cut"),
        ("checkpoint/adapters.json", "adapters.json is a file, and the adapter is its folder"),
        (
            "model",
            f"model holds no adapter: it has none of {CONFIG}, adapters.json, .metadata, latest_checkpointed_iteration.txt",
        ),
        ("run", "run has iterations and no latest_checkpointed_iteration.txt"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    clora_inspect: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "double", cast(pairs(), torch.float64), base_model="tiny", dropout=0.0)
    write_folder(tmp_path / "cut", pairs(), base_model="tiny", dropout=0.0)
    write_folder(tmp_path / "huge", {Q: FactorPair(pairs()[Q].a, pairs()[Q].b, 1e300)}, base_model="", dropout=0.0)
    (tmp_path / "cut" / WEIGHTS).write_bytes((tmp_path / "cut" / WEIGHTS).read_bytes()[:40])
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "adapters.json").write_text("{}")
    write_folder(tmp_path / "record", pairs(), base_model="tiny", dropout=0.0)
    (tmp_path / "record" / FILE).write_text("[]")
    (tmp_path / "notes.md").write_text("# Notes")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "run" / "iter_0000100").mkdir(parents=True)
    ran = clora_inspect("fingerprint", name)
    assert (ran.status, ran.out) == (2, "")
    assert said in ran.err
