"""`clora_inspect.inspect` finds what the command line finds, and says it in the same words."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import networkx as nx
import pytest
from rich.console import Console

import clora_inspect as package
from clora import CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.api.report import FORMATS, GRAPHS
from clora_inspect.exit_code import exit_code_for
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from command_line import CommandLine

ROOT = Path(__file__).parents[2]

SMALL = {"num_layers": 2}

CONFIG = """\
[check]
fail-on = "warning"

[lora.few]
target_modules = ["linear_q", "linear_k", "linear_w"]
dim = 16

[jobs.small]
model = "qwen2.5-0.5b"
lora = "few"
serve = "vllm"
set.model = { num_layers = 2 }
layouts = { train = { tp = 2 }, wide = { tp = 2, pp = 2 } }

[[allow]]
rule = "CL110"
where = "*"
reason = "nothing has it"
"""

FUNCTION = """\
def build(layout, pre_process, post_process):
    import torch
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_with_transformer_engine_spec
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(
        num_layers=2, hidden_size=64, num_attention_heads=4, gated_linear_unit=True,
        pipeline_model_parallel_size=layout.pp, pipeline_dtype=torch.float32,
    )
    spec = get_gpt_layer_with_transformer_engine_spec()
    return GPTModel(config, spec, 96, 32, pre_process=pre_process, post_process=post_process)
"""

JOBS: dict[str, tuple[tuple[str, ...], tuple[str, dict[str, Any]]]] = {
    "dense": (
        ("qwen2.5-0.5b", "--tp", "2", "--set", "model.num_layers=2"),
        ("qwen2.5-0.5b", {"layout": {"tp": 2}, "model_overrides": SMALL}),
    ),
    "experts, an expert tensor size that is left out, and low coverage": (
        ("qwen3-30b-a3b", "--tp", "2", "--ep", "4", "--set", "model.num_layers=2", "--target-modules", "linear_q"),
        (
            "qwen3-30b-a3b",
            {"layout": Layout(tp=2, ep=4), "model_overrides": SMALL, "lora": {"target_modules": ["linear_q"]}},
        ),
    ),
    "a target that matches nothing, and a rank that does not fit": (
        ("qwen2.5-0.5b", "--set", "model.num_layers=2", "--target-modules", "linear_q,linear_fc3", "--dim", "2048"),
        (
            "qwen2.5-0.5b",
            {
                "lora": CanonicalLoRA(target_modules=["linear_q", "linear_fc3"], dim=2048),
                "model_overrides": SMALL,
            },
        ),
    ),
    "a configured job on its first layout": (("small/train",), ("small", {})),
    "a configured job on another layout, changed": (
        ("small/wide", "--dim", "8"),
        ("small", {"layout": "wide", "lora": {"dim": 8}}),
    ),
    "a function": (("model.py:build", "--pp", "2"), ("model.py:build", {"layout": {"pp": 2}})),
}

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[Any, dict[str, Any]]]] = {
    "model": (("qwen2.5-0.5",), ("qwen2.5-0.5", {})),
    "layout": (("qwen2.5-0.5b", "--tp", "3"), ("qwen2.5-0.5b", {"layout": {"tp": 3}})),
    "size": (("qwen2.5-0.5b", "--tp", "0"), ("qwen2.5-0.5b", {"layout": {"tp": 0}})),
    "configured layout": (("small", "--layout", "tain"), ("small", {"layout": "tain"})),
    "LoRA": (("qwen2.5-0.5b", "--lora", "fw"), ("qwen2.5-0.5b", {"lora": "fw"})),
    "field of LoRA": (("qwen2.5-0.5b", "--set", "lora.dmi=4"), ("qwen2.5-0.5b", {"lora": {"dmi": 4}})),
    "value of LoRA": (("qwen2.5-0.5b", "--dim", "0"), ("qwen2.5-0.5b", {"lora": {"dim": 0}})),
    "target": (
        ("qwen2.5-0.5b", "--target-modules", "linear_qkv"),
        ("qwen2.5-0.5b", {"lora": {"target_modules": ["linear_qkv"]}}),
    ),
    "field of the model": (
        ("qwen2.5-0.5b", "--set", "model.num_layer=4"),
        ("qwen2.5-0.5b", {"model_overrides": {"num_layer": 4}}),
    ),
    "function that raises": (("model.py:fail",), ("model.py:fail", {})),
    "no such function": (("model.py:biuld",), ("model.py:biuld", {})),
    "configuration": (("qwen2.5-0.5b", "--config", "none.toml"), ("qwen2.5-0.5b", {"config": "none.toml"})),
}


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a function, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CI", raising=False)
    (tmp_path / "clora-inspect.toml").write_text(CONFIG)
    (tmp_path / "model.py").write_text(f"{FUNCTION}\n\ndef fail():\n    raise KeyError('no data')\n")
    return tmp_path


@pytest.mark.parametrize("name", JOBS)
def test_it_finds_what_check_and_plan_find(clora_inspect: CommandLine, name: str) -> None:
    words, (model, options) = JOBS[name]
    report = package.inspect(model, **options)
    checked = clora_inspect("check", *words, "--no-snapshot", "--no-progress", "--no-cache", "-f", "json")
    assert report.to("json") == checked.out
    assert report.exit_code == checked.status
    assert report.ok is (checked.status == 0)
    planned = clora_inspect("plan", *words, "-f", "json")
    assert msgspec.json.encode(report.plan) == msgspec.json.encode(
        msgspec.json.decode(planned.out, type=type(report.plan))
    )
    # On the command line each finding is told once: that of a typed target is on stderr.
    shown = clora_inspect("plan", *words)
    for finding in report.findings:
        assert finding.message in shown.out + shown.err
    assert {finding.code for finding in report.findings} == {
        *re.findall(r"^(CL\d{3}) ", shown.out, re.MULTILINE),
        *(["CL101"] if "matches no module" in shown.err else []),
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_an_error_in_the_words_of_the_command_line(clora_inspect: CommandLine, name: str) -> None:
    words, (model, options) = MISTAKES[name]
    with pytest.raises(CloraError) as caught:
        package.inspect(model, **options)
    ran = clora_inspect("plan", *words)
    said = [line.removeprefix("clora-inspect: ") for line in ran.err.splitlines()]
    expected = [*f"error: {caught.value}".splitlines()]
    assert [line for line in said if line in expected] == expected, ran.err
    assert exit_code_for(caught.value) == ran.status


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (3, {}, "model = 3: it is the name of a model, a path or a function"),
        (" ", {}, "model is empty"),
        (lambda: None, {}, "cannot be found by its name"),
        ("qwen2.5-0.5b", {"layout": {"tpp": 4}}, r"no size 'tpp'\. Did you mean tp"),
        ("qwen2.5-0.5b", {"layout": {"tp": "4"}}, "layout: tp = '4': Expected `int`, got `str`"),
        ("qwen2.5-0.5b", {"layout": 4}, "layout = 4: it is a Layout"),
        ("qwen2.5-0.5b", {"layout": "train"}, r"no configured job, so it has no layouts\. Give its sizes"),
        ("qwen2.5-0.5b", {"lora": 4}, "lora = 4: it is a CanonicalLoRA"),
        ("qwen2.5-0.5b", {"device": "gpu"}, "device = 'gpu': it is one of meta, cpu, cuda"),
        ("qwen2.5-0.5b", {"implementation": "peft"}, "implementation = 'peft': it is one of clora"),
    ],
)
def test_a_wrong_argument_is_named(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CloraError, match=words):
        package.inspect(model, **options)


def test_a_check_compares_with_the_accepted_snapshot(clora_inspect: CommandLine, repository: Path) -> None:
    assert clora_inspect("snapshot", "accept", "small", "-q").status == 0
    before = sorted(path.relative_to(repository) for path in repository.rglob("*"))
    report = package.inspect("small", lora={"dim": 8}, check=True)
    assert "CL704" in {finding.code for finding in report.findings}
    assert report.drift is not None
    assert report.drift.changed > 0
    assert package.inspect("small", check=True).drift is not None
    assert package.inspect("small").drift is None
    # A check of the command line leaves `LAYOUT.json.new` and a cache; this one leaves nothing.
    assert sorted(path.relative_to(repository) for path in repository.rglob("*")) == before
    checked = clora_inspect("check", "small/train", "--dim", "8", "--no-progress", "-f", "json")
    assert report.to("json") == checked.out


def test_every_format_is_that_of_the_command_line(clora_inspect: CommandLine) -> None:
    report = package.inspect("small")
    for form in set(FORMATS) - {"html"}:
        command = "graph" if form in GRAPHS else "check"
        words = () if command == "graph" else ("--no-snapshot", "--no-progress", "--no-cache")
        assert report.to(form) == clora_inspect(command, "small/train", *words, "-f", form).out, form
    assert report.to("html") == clora_inspect("report", "small/train", "--no-snapshot", "--no-progress").out
    # The command line adds which commands show more.
    shown = re.sub(r"(Explain a finding|Compare with the snapshot).*\n", "", clora_inspect("plan", "small/train").out)
    assert shown.split() == str(report).split()
    with pytest.raises(CloraError, match=r"no format 'sariff'\. Did you mean sarif\?"):
        report.to("sariff")


def test_the_plan_is_saved_for_every_command(clora_inspect: CommandLine, repository: Path) -> None:
    report = package.inspect("small")
    report.save("plan.json")
    again = package.inspect(repository / "plan.json")
    assert again.plan == report.plan
    assert clora_inspect("plan", "plan.json", "-f", "json").out == Path("plan.json").read_text()
    with pytest.raises(CloraError, match="options of the job cannot change it"):
        package.inspect("plan.json", lora={"dim": 4})
    with pytest.raises(CloraError, match="cannot be written"):
        report.save("no/such/folder/plan.json")


def test_a_saved_plan_imports_nothing_heavy(repository: Path) -> None:
    package.inspect("small").save("plan.json")
    script = """\
import sys
import clora_inspect
assert not {name for name in sys.modules if name.startswith("clora_inspect.")}, sys.modules
report = clora_inspect.inspect("plan.json")
report.to("sarif"), str(report), repr(report), report._repr_html_()
assert not {"torch", "megatron", "networkx", "rich", "numpy"} & set(sys.modules)
print(report.ok, len(report.plan.rank_classes))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.stderr) == ("False 1\n", "")


def test_a_function_can_be_passed_as_it_is(repository: Path) -> None:
    (repository / "notebook.py").write_text(
        f"import clora_inspect\n\n{FUNCTION}\nreport = clora_inspect.inspect(build, layout=dict(pp=2))\n"
        "print(report.plan.totals.placements, report.plan.model.name)\n"
    )
    ran = subprocess.run(
        [sys.executable, "notebook.py"], capture_output=True, text=True, timeout=120, check=False, env={**os.environ}
    )
    assert (ran.stdout, ran.stderr) == ("14 __main__:build\n", "")


class _Tags(HTMLParser):
    """Collects what a browser would make of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    '"><b onclick="x">',
    "\x1b[31m&lt;",
)


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_notebook_shows_names_as_text(evil: str, repository: Path) -> None:
    package.inspect("small").save("plan.json")
    document = json.loads(Path("plan.json").read_text())
    document["model"]["name"] = document["lora"]["target_modules"][0] = evil
    for ranks in document["rank_classes"]:
        for placement in ranks["placements"]:
            placement["target"] = evil
    for finding in document["findings"]:
        finding["message"] = finding["help"] = evil
    document["unmatched_targets"] = [evil]
    document["matches"][evil] = 0
    Path("evil.json").write_text(json.dumps(document))
    page = package.inspect("evil.json")._repr_html_()
    seen = _Tags()
    seen.feed(page)
    assert seen.tags == {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "pre"}
    assert seen.attributes == {"style", "scope"}
    assert "\x1b" not in page
    assert (evil if evil.isprintable() else evil.replace("\x1b", r"\x1b")) in seen.text


@pytest.mark.parametrize("width", [60, 140])
def test_rich_prints_the_plan_as_wide_as_its_console(width: int) -> None:
    report = package.inspect("small")
    console = Console(file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True)
    console.print(report)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= width
    assert "\x1b[" in out
    words = " ".join(" ".join(lines).split())
    assert "CL101" in words
    assert " ".join(report.findings[0].message.split()) in words
    plain = Console(file=io.StringIO(), width=width, color_system=None)
    plain.print(report)
    assert "\x1b" not in plain.file.getvalue()  # type: ignore[attr-defined]


def test_its_parts_are_data(repository: Path) -> None:
    report = package.inspect("small")
    assert isinstance(report, package.Report)
    assert report.plan.totals.trainable_params > 0
    assert isinstance(report.graph.to_networkx(), nx.DiGraph)
    assert repr(report) == (
        f"<Report qwen2.5-0.5b · tp2 sp · 4 adapters · {report.to('text').strip().splitlines()[-1]}>"
    )
    with pytest.raises(AttributeError):
        report.plan = None  # type: ignore[misc]
