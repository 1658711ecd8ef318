"""Every mistake in a configuration: one line with file, line, column, key, and what to write. A
table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from clora_inspect.config.errors import ConfigError
from clora_inspect.config.jobs import configured_jobs
from clora_inspect.config.load import load

MISTAKES = [
    # the file, and all that is said of it
    ("snapshot = 'x'", ['1:1: snapshot: unknown key "snapshot". Did you mean snapshots?']),
    ("zzz = 1", ['1:1: zzz: unknown key "zzz". It has: snapshots, default, lora, jobs, check, rules, allow, tui.']),
    ("snapshots = 3", ["1:13: snapshots: expected a string, got a whole number."]),
    ("[lora.main]\naplha = 3", ['2:1: lora.main.aplha: unknown key "aplha". Did you mean alpha?']),
    (
        "[lora.main]\nrank-dim = 3",
        ['2:1: lora.main.rank-dim: unknown key "rank-dim". It has: target_modules, exclude_modules'],
    ),
    ("[lora.main]\ndim = 'x'", ["2:7: lora.main.dim: expected a whole number, got a string."]),
    ("[lora.main]\ndim = 0", ["2:7: lora.main.dim: dim = 0: the LoRA rank is a whole number from 1"]),
    ("[lora.main]\nalpha = -1", ["2:9: lora.main.alpha: alpha = -1.0: it is a positive number"]),
    (
        "[lora.main]\ntarget_modules = ['linear_q',\n  'linear_qkv']",
        ["3:3: lora.main.target_modules[1]: target_modules names the fused 'linear_qkv'"],
    ),
    (
        "[lora.main]\ntarget_modules = ['linear_q', 3]",
        ["2:31: lora.main.target_modules[1]: expected a string, got a whole number."],
    ),
    (
        "[lora.main]\ndropout_position = 'mid'",
        ["2:20: lora.main.dropout_position: invalid enum value 'mid'. It is pre or post."],
    ),
    (
        "[lora]\ndim = 3",
        ["2:7: lora.dim: it is a table, not a whole number. Give the LoRA a name: [lora.main] with dim in it."],
    ),
    ("[jobs.a]\nlora = 'x'", ["1:7: jobs.a: key model is missing", "2:8: jobs.a.lora: no [lora.x] is defined."]),
    (
        "[lora.main]\n[jobs.a]\nmodel='m'\nlora = 'mian'",
        ["4:8: jobs.a.lora: no [lora.mian] is defined. Did you mean main?"],
    ),
    ("[jobs.a]\nmodel='m'\nlora = { dim = 0 }", ["3:16: jobs.a.lora.dim: dim = 0"]),
    (
        "[jobs.a]\nmodel='m'\nlora = { targets = [] }",
        ['3:10: jobs.a.lora.targets: unknown key "targets". Did you mean target_modules?'],
    ),
    (
        "[jobs.a]\nmodel='m'\nlayouts = { t = { tpp = 4 } }",
        ['3:19: jobs.a.layouts.t.tpp: unknown key "tpp". Did you mean'],
    ),
    (
        "[jobs.a]\nmodel='m'\nlayouts = { t = { tp = 0 } }",
        ["3:24: jobs.a.layouts.t.tp: tp = 0: the size of a mesh axis is at least 1"],
    ),
    ("[jobs.a]\nmodel='m'\nlayouts = { t = { vpp = 2 } }", ["3:25: jobs.a.layouts.t.vpp: vpp = 2 needs a pipeline"]),
    (
        "[jobs.a]\nmodel='m'\nlayouts = { tp = 4 }",
        ["3:18: jobs.a.layouts.tp: it is a table, not a whole number. Give the layout a name"],
    ),
    ("[jobs.'../../etc']\nmodel='m'", ["1:7: jobs.\"../../etc\": '../../etc' is no name for a file"]),
    ("[jobs.a]\nmodel='m'\nlayouts = { '..' = {} }", ["3:13: jobs.a.layouts.\"..\": '..' is no name for a file"]),
    ("[jobs.a]\nmodel='m'\nset.model = 3", ["3:13: jobs.a.set.model: expected a table, got a whole number."]),
    ("[jobs.a]\nmodel='m'\nset.lora = {}", ['3:5: jobs.a.set.lora: unknown key "lora". It has: model.']),
    (
        "[jobs.a]\nmodel='m'\nimplementation = 'nemo'",
        ["3:18: jobs.a.implementation: invalid enum value 'nemo'. It is clora or megatron-bridge."],
    ),
    ("[jobs.a]\nmodel='m'\ngpu-memory-gib = -1", ["3:18: jobs.a.gpu-memory-gib: expected"]),
    (
        "[jobs.a]\nmodel='m'\nworkload = { recompute = 'full:layer' }",
        ["3:26: jobs.a.workload.recompute: expected none|selective[:MODULES]|full[:uniform|block[:N]]."],
    ),
    ("[jobs.a]\nmodel='m'\ngpu-memory-gib = nan", ["3:18: jobs.a.gpu-memory-gib: expected a number > 0."]),
    ("[jobs.a]\nmodel='m'\ngpu-memory-gib = inf", ["3:18: jobs.a.gpu-memory-gib: expected a number <= 65536."]),
    ("[jobs.a]\nmodel='m'\nworkload = 3", ["3:12: jobs.a.workload: it is a table, not a whole number."]),
    (
        "[jobs.a]\nmodel='m'\n[jobs.a.workload]\npacked = 2\nseq-length = 8\nseq_lenth = 8",
        [
            '5:1: jobs.a.workload.seq-length: unknown key "seq-length". Did you mean seq_length?',
            '6:1: jobs.a.workload.seq_lenth: unknown key "seq_lenth". Did you mean seq_length?',
        ],
    ),
    (
        "[jobs.a]\nmodel='m'\nworkload.seq_length = '8k'",
        ["3:23: jobs.a.workload.seq_length: expected a whole number, got a string."],
    ),
    ("[jobs.a]\nmodel='m'\nworkload.imbalance = inf", ["3:22: jobs.a.workload.imbalance: expected a number <= 8192."]),
    ("[jobs.a]\nmodel='m'\nworkload.imbalance = nan", ["3:22: jobs.a.workload.imbalance: expected a number >= 1."]),
    (
        "[jobs.a]\nmodel='m'\nworkload.memory_allowance_gib = inf",
        ["3:33: jobs.a.workload.memory_allowance_gib: expected a number <= 65536."],
    ),
    (
        "[jobs.a]\nmodel='m'\ngpu_memory_gib = 80",
        ['3:1: jobs.a.gpu_memory_gib: unknown key "gpu_memory_gib". Did you mean gpu-memory-gib?'],
    ),
    ("default = 'b'\n[jobs.a]\nmodel='m'", ["1:11: default: no job of that name is configured."]),
    ("[check]\nfail_on = 'error'", ['2:1: check.fail_on: unknown key "fail_on". Did you mean fail-on?']),
    ("[check]\nverify = 'full'", ["2:10: check.verify: invalid enum value 'full'. It is off or tiny."]),
    ("check = 1", ["1:9: check: it is a table, not a whole number."]),
    ("jobs = []", ["1:8: jobs: it is a table of tables by name, not an array."]),
    ("[allow]\nrule = 'CL1'", ["1:2: allow: it is an array of tables"]),
    ("[[allow]]\nreason = 'x'", ["1:3: allow[0]: key rule is missing"]),
    ("[[allow]]\nrule = ''", ["2:8: allow[0].rule: it is empty"]),
    (
        "[[allow]]\nrule = 'CL1'\n[[allow]]\nrule = 'CL1'\nuntil = 'x'",
        ["5:9: allow[1].until: it is not a date: write one as 2027-03-31."],
    ),
    ("x = [1\ny = 2", ["2:1: not valid TOML"]),
    ("x = 1\nx = 2", ["2: not valid TOML: Cannot overwrite a value"]),
]


@pytest.mark.parametrize(("text", "said"), MISTAKES, ids=[text.replace("\n", " ") for text, _ in MISTAKES])
def test_a_mistake_is_told_at_its_place(tmp_path: Path, text: str, said: list[str]) -> None:
    (tmp_path / "clora-inspect.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={})
    lines = str(caught.value).split("\n")
    assert len(lines) == len(said)
    for line, words in zip(lines, said, strict=True):
        assert line.startswith("clora-inspect.toml:")
        assert words in line


def test_all_mistakes_are_told_at_once_in_the_files_order(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.clora-inspect.check]\nfail-on = 'x'\n[tool.clora-inspect.lora.a]\ndim = 0\nalpa = 1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, environ={})
    places = [line.split(": ")[0] for line in str(caught.value).split("\n")]
    assert places == ["pyproject.toml:2:11", "pyproject.toml:4:7", "pyproject.toml:5:1"]
    assert "tool.clora-inspect.lora.a.alpa" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\xff\xfe", "is not UTF-8 (byte 0)"), (b"x = " + b"[" * 5000 + b"]" * 5000, "nested too deeply")],
)
def test_bytes_that_are_no_configuration(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "clora-inspect.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=said.replace("(", r"\(").replace(")", r"\)")):
        load(tmp_path, environ={})


def test_names_that_are_not_configured(tmp_path: Path) -> None:
    (tmp_path / "clora-inspect.toml").write_text("[jobs.small]\nmodel='m'\nlayouts={ train={} }\n")
    configuration = load(tmp_path, environ={})
    with pytest.raises(ConfigError, match=r"no job 'smal' is configured. Did you mean small?"):
        configured_jobs(configuration, ["smal"])
    with pytest.raises(ConfigError, match=r"no layout 'trian' is configured. Did you mean train?"):
        configured_jobs(configuration, ["small"], "trian")


EMPTY = ("jobs.j.model", "jobs.j.lora", "jobs.j.serve", "jobs.j.checkpoint", "snapshots")


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("key", EMPTY)
def test_an_empty_text_is_no_value(tmp_path: Path, key: str, value: str) -> None:
    model = "" if key == "jobs.j.model" else 'jobs.j.model = "llama3-8b"\n'
    (tmp_path / "clora-inspect.toml").write_text(f'{model}{key} = "{value}"\n')
    with pytest.raises(ConfigError, match=rf"{key}: (it is empty|no \[lora)"):
        load(tmp_path, environ={})


def test_two_places_that_say_what_is_recomputed_must_agree(tmp_path: Path) -> None:
    text = 'jobs.j = {{ model = "llama3-8b", workload.recompute = "full", set.model.recompute_granularity = "{}" }}\n'
    (tmp_path / "clora-inspect.toml").write_text(text.format("full"))
    assert load(tmp_path, environ={})
    (tmp_path / "clora-inspect.toml").write_text(text.format("selective"))
    with pytest.raises(
        ConfigError, match=r"workload\.recompute: it sets recompute_granularity = full, and .* selective"
    ):
        load(tmp_path, environ={})
