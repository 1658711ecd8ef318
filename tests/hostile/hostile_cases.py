"""The table of hostile inputs: for every parser, files and a command or a reader that meets them.

A case is plain data, because a process of its own runs all of them under a limit of memory.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HUGE = 10**400
DEEP = "[" * 20_000


@dataclass(frozen=True, slots=True)
class Case:
    """One hostile input."""

    name: str
    words: tuple[str, ...] = ()
    """The command; empty when `reader` names a function of the library."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    reader: str = ""
    may: tuple[int, ...] = (2,)
    """The exit codes that are right."""


def cases(plan: dict[str, Any], snapshot: dict[str, Any]) -> list[Case]:
    """Return all cases.

    Args:
        plan: a saved plan that is right, to be damaged.
        snapshot: a snapshot that is right, to be damaged.
    """
    return [
        *_patterns(),
        *_config_json(),
        *_plans(plan),
        *_snapshots(snapshot),
        *_toml(),
        *_command_line(),
        *_adapter_folders(),
        *_checkpoints(),
        *_runs(),
        *_lora_files(),
    ]


def _patterns() -> Iterator[Case]:
    slow = ["*" * 50 + "Z", "*a" * 50 + "Z", "{0..99999}" * 40, "*.*.*.*.*.*.*.*.*.*Z", "*linear*" * 20 + "Z"]
    wrong = [
        "{0..1000000000}",
        f"{{0..{'9' * 900}}}",
        f"{{0..{'9' * 5000}}}",
        "{{0..3}}",
        "{0..3",
        "0..3}",
        "{3..0}",
        "{a..b}",
        "{0..3..1}",
        "{-1..3}",
        "{٣..٤}",
        "{}",
        "*" * 5000,
        "a" * 5000,
        ".".join("a" * 3000),
        "",
        " ",
        "linear_qkv",
    ]
    small = ("plan", "llama3-8b", "--isolated", "--set", "model.num_layers=1")
    for number, pattern in enumerate((*slow, *wrong)):
        if number < 3 or pattern in wrong:
            yield Case(f"pattern-target-{number}", (*small, "--target-modules", pattern))
        yield Case(
            f"pattern-filter-{number}", ("plan", "plan.json", "--filter", pattern), {"plan.json": ""}, may=(0, 2)
        )
    for number, pattern in enumerate(wrong):
        yield Case(
            f"pattern-toml-{number}",
            ("config", "show"),
            _configuration(f"[jobs.j]\nmodel = 'llama3-8b'\n[jobs.j.lora]\ntarget_modules = [{json.dumps(pattern)}]"),
        )
    for count in (20_001, 1_200):
        entries = json.dumps(["a" * (1 if count > 20_000 else 900) for _ in range(count)])
        yield Case(
            f"pattern-list-{count}",
            ("config", "show"),
            _configuration(f"[jobs.j]\nmodel = 'llama3-8b'\n[jobs.j.lora]\ntarget_modules = {entries}"),
        )


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 64,
}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
VALUES: tuple[Any, ...] = (HUGE, -1, 0, "x", [], {}, True, 1.5, 10**9, [[]])


def _config_json() -> Iterator[Case]:
    def case(name: str, text: str | bytes) -> Case:
        return Case(f"config-{name}", ("plan", "config.json", "--isolated"), {"config.json": text})

    for field_name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
        for number, value in enumerate(VALUES):
            yield case(f"{field_name}-{number}", _json({**LLAMA, field_name: value}))
    for field_name in ("num_local_experts", "num_experts_per_tok"):
        for number, value in enumerate(VALUES):
            yield case(f"{field_name}-{number}", _json({**MIXTRAL, field_name: value}))
    for field_name in ("rms_norm_eps", "rope_theta"):
        for number, value in enumerate((HUGE, "x", [], {}, True)):
            yield case(f"{field_name}-{number}", _json({**LLAMA, field_name: value}))
    others: dict[str, Any] = {
        "text-config": {"model_type": "x", "text_config": {"model_type": []}},
        "model-type": {**LLAMA, "model_type": 5},
        "unknown": {**LLAMA, "model_type": "no-such-model"},
        "layers-block-type-5": {"model_type": "nemotron_h", "layers_block_type": 5},
        "layers-block-type-true": {"model_type": "nemotron_h", "layers_block_type": True},
        "gemma2-scalar-0": {**LLAMA, "model_type": "gemma2", "head_dim": 16, "query_pre_attn_scalar": 0},
        "experts-1e5": {**MIXTRAL, "num_local_experts": 10**5},
        "experts-1e6": {**MIXTRAL, "num_local_experts": 10**6},
        "experts-times-layers": {**MIXTRAL, "num_local_experts": 8_192, "num_hidden_layers": 2_048},
        "layers-3000": {**LLAMA, "num_hidden_layers": 3_000},
        "layers-10000": {**LLAMA, "num_hidden_layers": 10_000},
        "empty": {},
        "list": [],
    }
    for name, value in others.items():
        yield case(name, _json(value))
    for name, text in {
        "nothing": b"",
        "nul": b"\0" * 100,
        "utf-16": "{}".encode("utf-16"),
        "latin-1": b'{"model_type": "\xff"}',
        "deep": DEEP,
        "deep-object": '{"a":' * 20_000,
        "half": '{"model_type": "llama", "hid',
        "number": "1" * 5_000,
        "nan": "NaN",
    }.items():
        yield case(name, text)


def _damaged(value: dict[str, Any], changes: dict[str, Callable[[dict[str, Any]], None]]) -> Iterator[tuple[str, str]]:
    for name, change in changes.items():
        damaged = copy.deepcopy(value)
        change(damaged)
        yield name, _json(damaged)


def _put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts the last of `path` at the keys before it."""
    *keys, value = path

    def change(document: dict[str, Any]) -> None:
        at: Any = document
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


def _plan_changes() -> dict[str, Callable[[dict[str, Any]], None]]:
    placement, skip = ("rank_classes", 0, "placements", 0), ("rank_classes", 0, "skipped", 5)
    numbers = (-1, HUGE, "x", None, [], 1.5)
    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "no-ranks": _put("rank_classes", []),
        "modules": _put("model", "modules", {"a": "b"}),
        "model-config": _put("model", "config", 5),
        "lora-empty": _put("lora", {}),
        "targets": _put("lora", "target_modules", 5),
        "alpha-text": _put("lora", "alpha", "abc"),
        "alpha-huge": _put("lora", "alpha", HUGE),
        "alpha-0": _put("lora", "alpha", 0),
        "dropout": _put("lora", "dropout", 7),
        "schema": _put("schema", 99),
        "schema-text": _put("schema", "x"),
        "findings": _put("findings", [{"code": "CL101"}]),
        "matches": _put("matches", {"a": -5}),
        "layout-empty-range": _put("rank_classes", 0, "vpp", [0, 99]),
        "parent": _put(*placement, "module", "decoder.nowhere.linear_qkv"),
        "many-names": _put(*placement, "module", ".".join(["a"] * 3_000)),
        "long-path": _put(*placement, "module", "a" * 400_000),
        "long-number": _put(*placement, "module", f"decoder.layers.{'9' * 5_000}.linear"),
        "empty-name": _put(*placement, "module", "decoder..x"),
        "no-path": _put(*placement, "module", ""),
        "part": _put(*placement, "part", "zz"),
        "axes": _put(*placement, "a_axes", []),
        "axis": _put(*placement, "a_axes", ["zz", None]),
        "experts": _put(*placement, "experts", {}),
        "reason": _put(*skip, "reason", "no reason"),
        "linears": _put(*skip, "linears", 7),
        "towers": _put("model", "towers", "x"),
        "tower-kind": _put("model", "towers", [{"path": "a", "kind": "smell"}]),
        "tower-long-path": _put("model", "towers", [{"path": "a" * 400_000, "kind": "vision"}]),
        "tower-long-number": _put(
            "model", "towers", [{"path": "", "kind": "language", "blocks": ["a." + "9" * 5_000]}]
        ),
        "tower-blocks": _put("model", "towers", [{"path": "", "kind": "language", "blocks": [".".join("a" * 3_000)]}]),
        "tower-empty-name": _put("model", "towers", [{"path": "vision..x", "kind": "vision"}]),
    }
    for number, value in enumerate(numbers):
        changes[f"base-params-{number}"] = _put("totals", "base_params", value)
        changes[f"dim-{number}"] = _put("lora", "dim", value)
        changes[f"chunk-{number}"] = _put(*placement, "chunk", value if value != -1 else 10**12)
        changes[f"copies-{number}"] = _put(*placement, "copies", value)
        changes[f"skip-params-{number}"] = _put(*skip, "params", value)
        changes[f"pp-{number}"] = _put("layout", "pp", value)
        changes[f"world-{number}"] = _put("layout", "world_size", value if value is not None else {})
        changes[f"count-{number}"] = _put("rank_classes", 0, "count", value)
    for number, members in enumerate(([], [[]], [[3, 1]], [[0, 10**9]], "x", None)):
        changes[f"members-{number}"] = _put("rank_classes", 0, "members", members)
    for number, shape in enumerate(([], [4], [1] * 100, [0, 0], [-4, 4], [HUGE, 1], [16, 10**12], "x", None)):
        for name in ("a_shape", "b_global_shape"):
            changes[f"{name}-{number}"] = _put(*placement, name, shape)
    return changes


def _plans(plan: dict[str, Any]) -> Iterator[Case]:
    commands = (
        ("plan", "plan.json"),
        ("graph", "plan.json"),
        ("diff", "plan.json", "plan.json"),
        ("explain", "plan.json", "decoder"),
    )
    for number, (name, text) in enumerate(_damaged(plan, _plan_changes())):
        words = commands[number % 3]
        yield Case(f"plan-{name}", words, {"plan.json": text})
    for name, text in {
        "half": _json(plan)[:5_000],
        "deep": '{"schema": 1, "job": ' + DEEP,
        "number": '{"schema": 1, "job": ' + "9" * 5_000 + "}",
        "nul": '{"schema": 1, "job": "\0"}',
        "schema-huge": '{"schema": ' + "9" * 5_000 + "}",
        "schema-only": '{"schema": 1}',
    }.items():
        yield Case(f"plan-{name}", ("plan", "plan.json"), {"plan.json": text})


def _snapshot_changes() -> dict[str, Callable[[dict[str, Any]], None]]:
    line = ("placements", 0)
    changes: dict[str, Callable[[dict[str, Any]], None]] = {
        "lora-type": _put("lora", "alpha", "x"),
        "lora-list": _put("lora", []),
        "lora-unknown": _put("lora", "zz", 1),
        "schema": _put("schema", 99),
        "unknown": _put("zz", 1),
        "stage": _put("layout", "stages", ["0-99999999999"]),
        "stage-word": _put("layout", "stages", ["x"]),
        "modules": _put("base", "modules", {"a": HUGE}),
        "path": _put(*line, "at", "a" * 400_000),
        "names": _put(*line, "at", ".".join(["a"] * 3_000)),
        "part": _put(*line, "at", "decoder.linear_qkv[zz]"),
        "number": _put(*line, "at", "decoder.layers." + "9" * 5_000),
    }
    for number, shape in enumerate(([], [4], [1] * 100, [0, 0], [-4, 4], [HUGE, 1], "x", None)):
        for name in ("a", "b"):
            changes[f"{name}-{number}"] = _put(*line, name, shape)
    for number, shard in enumerate(([], ["zz", "zz"], ["rank/zz", "whole"], ["rank/ep", 5], "x")):
        changes[f"shard-{number}"] = _put(*line, "shard", shard)
    for number, value in enumerate((0, -1, HUGE, "x", None)):
        changes[f"tp-{number}"] = _put("layout", "tp", value)
        changes[f"copies-{number}"] = _put(*line, "copies", value)
        changes[f"total-{number}"] = _put("totals", "params", value)
    return changes


def _snapshots(snapshot: dict[str, Any]) -> Iterator[Case]:
    for name, text in _damaged(snapshot, _snapshot_changes()):
        # Sums that are right for the damaged lines, so that more than the sums has to be checked.
        yield Case(f"snapshot-{name}", ("diff", "snapshot.json", "snapshot.json"), {"snapshot.json": text})
    yield from _snapshots_with_right_sums(snapshot)


SHAPES: tuple[tuple[list[Any], list[Any]], ...] = (
    ([], []),
    ([16, 64], []),
    ([], [64, 16]),
    ([16, 64], [4]),
    ([16], [16]),
    ([16, 64], [64, 8]),
    ([1] * 100, [1] * 100),
    ([0, 64], [64, 0]),
    ([-16, 64], [64, -16]),
    ([2, 16, 64], [64, 16]),
    ([10**12, 64], [64, 10**12]),
)
"""Shapes of A and B that no pair of factors has."""


def _snapshots_with_right_sums(snapshot: dict[str, Any]) -> Iterator[Case]:
    """Yield snapshots of one damaged placement, whose totals are those of the damage."""
    for number, (a, b) in enumerate(SHAPES):
        one = copy.deepcopy(snapshot)
        one["placements"] = [dict(one["placements"][0], a=a, b=b)]
        one["totals"] = {"params": prod(a) + prod(b), "placements": 1}
        yield Case(f"snapshot-sums-{number}", ("diff", "snapshot.json", "snapshot.json"), {"snapshot.json": _json(one)})
    for name, line in {
        "copies-0": {"copies": 0},
        "shard": {"shard": ["rank/zz", "whole"]},
        "path": {"at": ".".join(["a"] * 3_000)},
        "part": {"at": "decoder.linear_qkv[zz]"},
    }.items():
        one = copy.deepcopy(snapshot)
        one["placements"] = [one["placements"][0] | line]
        placement = one["placements"][0]
        copies = placement.get("copies", 1)
        one["totals"] = {"params": copies * (prod(placement["a"]) + prod(placement["b"])), "placements": copies}
        yield Case(f"snapshot-sums-{name}", ("diff", "snapshot.json", "snapshot.json"), {"snapshot.json": _json(one)})


def _configuration(text: str) -> dict[str, str | bytes]:
    return {"clora-inspect.toml": text}


def _toml() -> Iterator[Case]:
    job = "[jobs.j]\nmodel = 'llama3-8b'\n"
    texts: dict[str, str] = {
        "many-keys": "\n".join(f"k{number} = 1" for number in range(20_000)),
        "more-keys": "\n".join(f"k{number} = 1" for number in range(60_000)),
        "dotted-key": ".".join(["a"] * 30_000) + " = 1",
        "dotted-quoted": ".".join(["'a'"] * 30_000) + " = 1",
        "dotted-table": "[" + ".".join(["a"] * 20_000) + "]",
        "dotted-in-table": "x = {" + ".".join(["a"] * 30_000) + " = 1}",
        "dotted-100": ".".join(["a"] * 100) + " = 1",
        "deep-array": "x = " + DEEP + "]" * 20_000,
        "deep-inline": "x = " + "{a=" * 5_000 + "1" + "}" * 5_000,
        "deep-200": "x = " + "[" * 200 + "]" * 200,
        "allow": "\n".join("[[allow]]\nrule = 'CL104'\nreason = 'x'" for _ in range(6_000)),
        "allow-20000": "\n".join("[[allow]]\nrule = 'CL104'" for _ in range(20_000)),
        "half": "[jobs",
        "nul": "a = '\0'",
        "duplicate": "a = 1\na = 1",
        "jobs-list": "jobs = []",
        "job-number": "jobs.j = 5",
        "job-name": "[jobs.'../x']\nmodel = 'llama3-8b'",
        "allow-number": "allow = 5",
        "default": "default = 5",
        "snapshots": "snapshots = 5",
    }
    for name, text in texts.items():
        yield Case(f"toml-{name}", ("config", "show"), _configuration(text))
    for number, value in enumerate(("9" * 401, "9" * 5_000, "-1", "0", "'x'", "[]", "{}", "true", "1.5", "nan", "inf")):
        yield Case(f"toml-dim-{number}", ("config", "show"), _configuration(f"{job}lora.dim = {value}"))
        yield Case(f"toml-tp-{number}", ("config", "show"), _configuration(f"{job}layouts.a.tp = {value}"))
    for number, value in enumerate(("9" * 401, "-1", "'x'", "[]", "true", "nan", "inf")):
        yield Case(f"toml-alpha-{number}", ("config", "show"), _configuration(f"{job}lora.alpha = {value}"))


def _setting(text: str, model: str = "llama3-8b") -> Case:
    return Case(f"set-{model}-{text[:60]}", ("plan", model, "--isolated", "--set", text))


SETTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llama3-8b": (
        ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "mtp_num_layers"),
        ('"x"', "[1]", "1.5", "-1", "1" + "0" * 400, "99999999999", "{}", "true"),
    ),
    "qwen3-next-80b-a3b": (
        ("moe_shared_expert_intermediate_size", "linear_num_key_heads", "linear_num_value_heads"),
        ('"x"', "[1]", "1.5", "NaN", "true"),
    ),
    "nemotron-h-8b": (("mamba_num_heads", "mamba_num_groups"), ('"x"', "[1]", "1.5", "NaN", "true")),
    "mixtral-8x7b": (("moe_router_topk", "num_moe_experts"), ('"x"', "0", "-1", "1.5", "[]", "999999")),
}
"""Model -> fields, and the values that none of them can have."""


def _command_line() -> Iterator[Case]:
    for model, (names, values) in SETTINGS.items():
        yield from (_setting(f"model.{name}={value}", model) for name in names for value in values)
    for value in ("[]", "{}", "5", "null", '"int3"'):
        yield _setting(f"model.params_dtype={value}")
    for value in ("true", "-1", "5", "[]"):
        yield _setting(f"model.hybrid_override_pattern={value}", "nemotron-h-8b")
    for value in ("1" + "0" * 400, "1e999", '"x"', "[]", "null", "-1", "0", "NaN"):
        yield _setting(f"lora.alpha={value}")
        yield _setting(f"lora.dim={value}")
        yield _setting(f"lora.dropout={value if value != '0' else '7'}")
    yield _setting("model.heterogeneous_block_specs=true")
    yield _setting("model.no_such_field=1")
    yield _setting("model.=1")
    yield _setting("nobody.x=1")
    yield _setting("model.num_layers=" + DEEP)
    yield from _options()


def _options() -> Iterator[Case]:
    for text in ("E" + "(t" * 20_000, "E(t|)*99999999L", "E" + "t*9" * 5_000 + "L", "Z", "", "(" * 40_000):
        yield Case(
            f"letters-{len(text)}-{text[:6]}",
            ("plan", "llama3-8b", "--isolated", "--pp", "2", "--set", f"model.pipeline_model_parallel_layout={text}"),
        )
    for option in ("--tp", "--pp", "--vpp", "--cp", "--ep", "--etp", "--dim", "--world-size"):
        for value in ("0", "-1", "x", "1" + "0" * 400, "10000", "1.5"):
            if (option, value) not in (("--dim", "10000"), ("--cp", "10000"), ("--world-size", "10000")):
                yield Case(f"option{option}-{value[:8]}", ("plan", "llama3-8b", "--isolated", option, value))
    yield Case("option-world", ("plan", "llama3-8b", "--isolated", "--tp", "16384", "--cp", "16384"))
    yield Case("model-nul", ("plan", "a\0b", "--isolated"))
    yield Case("model-long", ("plan", "a" * 100_000, "--isolated"))
    yield Case("model-empty", ("plan", "", "--isolated"))
    yield Case("option-config-deep", ("plan", "llama3-8b", "--config", ".".join(["a"] * 30_000) + "=1"))
    yield Case("config-deep-value", ("plan", "llama3-8b", "--config", "default=" + "[" * 20_000))
    yield Case("config-dotted-value", ("plan", "llama3-8b", "--config", "default={" + "a." * 30_000 + "a=1}"))


def _adapter_folders() -> Iterator[Case]:
    good = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    texts: dict[str, str | bytes] = {
        "empty": b"",
        "nul": b"\0",
        "deep": DEEP,
        "list": "[]",
        "number": "9" * 5_000,
        **{
            f"{name}-{number}": _json({**good, name: value})
            for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "peft_type", "use_dora")
            for number, value in enumerate((HUGE, "x", [5], {"a": "b"}, -1, None))
        },
    }
    for name, text in texts.items():
        yield Case(f"adapter-{name}", files={"adapter_config.json": text}, reader="adapter")
    for name, weights in {
        "weights-empty": b"",
        "weights-text": b"x" * 100,
        "weights-length": b"\xff" * 8 + b"{}",
        "weights-json": (2).to_bytes(8, "little") + b"{}",
        "weights-deep": (20_000).to_bytes(8, "little") + DEEP.encode(),
    }.items():
        files: dict[str, str | bytes] = {"adapter_config.json": _json(good), "adapter_model.safetensors": weights}
        yield Case(f"adapter-{name}", files=files, reader="adapter")


def _checkpoints() -> Iterator[Case]:
    for name, index in {
        "empty": b"",
        "nul": b"\0" * 50,
        "text": b"hello",
        "opcode": b"\x80\x05.",
        "number": b"I" + b"9" * 5_000 + b"\n.",
        "system": b"cos\nsystem\n(S'true'\ntR.",
        "tuple": b"(" * 50_000 + b"t" * 50_000 + b".",
        "memo": b"\x80\x04\x8f(\x8f\x90.",
        "none": b"N.",
        "long": b"\x8b\xff\xff\xff\x7f.",
        "bytes": b"B\xff\xff\xff\xffx.",
    }.items():
        yield Case(f"checkpoint-{name}", files={".metadata": index, "metadata.json": "{}"}, reader="checkpoint")
    yield Case("checkpoint-nothing", reader="checkpoint")


def _json(value: Any) -> str:
    # `json` itself writes integers of any length only when Python allows it.
    return json.dumps(value)


BOMB = "\n".join(["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)), ""])
"""Aliases of aliases: 9^39 entries if anything unfolds them."""
RUNS_IT = "!!python/object/apply:os.system ['touch it_ran']"
PROVIDER = "megatron.bridge.models.llama.llama_provider.Llama3ModelProvider8B"
YAML: dict[str, str | bytes] = {
    "tag": f"model: {RUNS_IT}\npeft: {RUNS_IT}\n",
    "tag-new": "model: !!python/object/new:os.system ['touch it_ran']\n",
    "tag-name": "model: !!python/name:os.system\n",
    "tag-module": "model: !!python/module:this\n",
    "tag-own": "model: !evil {x: 1}\n",
    "system": "model: {_target_: os.system, _args_: ['touch it_ran']}\npeft: {_target_: os.system}\n",
    "call": f"model: {{_target_: {PROVIDER}.provide, _call_: true}}\npeft: {{_target_: {PROVIDER}}}\n",
    "path": "model: {_target_: ../../etc/passwd.Provider}\npeft: {_target_: ../../x.LoRA}\n",
    "file": "model: {_target_: 'file:///etc/passwd'}\npeft: {_target_: 'file:///x'}\n",
    "list": "model: {_target_: [os.system]}\npeft: {_target_: [os.system]}\n",
    "bomb": f"{BOMB}model: *a39\npeft: *a39\n",
    "bomb-target": f"{BOMB}model: {{_target_: *a39}}\npeft: {{_target_: *a39}}\n",
    "itself": "model: &a {_target_: *a}\npeft: &b {_target_: *b}\n",
    "merge": "a: &a {b: 1}\nmodel: {<<: *a}\npeft: {<<: *a}\n",
    "deep": "model: " + DEEP,
    "deep-map": "model: " + "{a: " * 5_000,
    "number": f"model: {'9' * 5_000}\n",
    "hexadecimal": f"model: 0x{'f' * 9_000}\n",
    "nul": "model: 1\0\n",
    "pickle": b"\x80\x04\x95cposix\nsystem\n(S'touch it_ran'\ntR.",
    "binary": bytes(range(256)),
    "not-utf-8": b"model: \xff\xfe\xfa",
    "empty": "\n",
    "scalar": "5\n",
    "large": "#" * 700_000,
    "key": "model: {? [1, 2] : 3}\npeft: {? [1] : 2}\n",
    "documents": "model: 1\n---\nmodel: 2\n",
    "no-model": "train: {}\n",
}
"""Name -> a run_config.yaml that is neither a run nor a LoRA."""
SIZES = (10**9, -1, 0, "x", [], {}, True, 1.5, HUGE)


def _runs() -> Iterator[Case]:
    for name, text in YAML.items():
        yield Case(f"run-{name}", ("plan", "run_config.yaml", "--isolated"), {"run_config.yaml": text})


def _lora_files() -> Iterator[Case]:
    def case(name: str, file: str, text: str | bytes) -> Case:
        return Case(f"lora-{name}", ("plan", "llama3-8b", "--isolated", "--lora", file), {file: text})

    for name, text in YAML.items():
        yield case(name, "lora.yaml", text)
    target = "megatron.bridge.peft.canonical_lora.CanonicalLoRA"
    for number, size in enumerate(SIZES):
        yield case(f"dim-{number}", "lora.json", _json({"_target_": target, "dim": size}))
        yield case(f"r-{number}", "lora.json", _json({"peft_type": "LORA", "r": size, "target_modules": ["q_proj"]}))
