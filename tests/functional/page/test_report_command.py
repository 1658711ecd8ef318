"""`clora-inspect report`: one page that loads nothing, escapes every name and has everything."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from hostile_names import HOSTILE, renamed

from clora_inspect.cli.commands.report import _report_proofs
from clora_inspect.exit_code import ExitCode
from clora_inspect.job.plan import JobPlan, encode, load
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine
    from written_pages import ProvedPages

VOID = {"meta", "link", "input", "br", "img", "hr"}


class Page(HTMLParser):
    """A page as its elements; elements that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs)), tag
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def plan(saved_plan: Path) -> JobPlan:
    return load(saved_plan)


def test_what_a_job_is_read_from_is_not_replaced(clora_inspect: CommandLine, saved_plan: Path, tmp_path: Path) -> None:
    path, function = tmp_path / "plan.json", tmp_path / "model.py"
    path.write_bytes(saved_plan.read_bytes())
    function.write_text("raise SystemExit('not asked to run')")
    (tmp_path / "same.html").symlink_to(path)
    before = path.read_bytes()
    for command, source, output in (
        ("report", path, path),
        ("report", path, tmp_path / "same.html"),
        ("graph", path, path),
        ("plan", path, path),
        ("report", f"{function}:build", function),
    ):
        ran = clora_inspect(command, str(source), "-o", str(output))
        assert ran.status == 2
        read = str(source).partition(":")[0]
        assert f"-o {output} would replace {read}, which is read for it" in ran.err
    assert (path.read_bytes(), function.read_text()) == (before, "raise SystemExit('not asked to run')")


def test_the_page_has_everything_and_loads_nothing(
    clora_inspect: CommandLine, saved_plan: Path, plan: JobPlan, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    ran = clora_inspect("report", str(saved_plan), "-o", str(path), "--no-progress")
    assert (ran.status, ran.out) == (0, "")
    text = path.read_text()
    page = Page(text)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {"go:findings", "go:model", "go:cluster", "go:drift", "go:proofs", "go:settings"} <= set(ids)
    # Links stay in the page, and each leads somewhere.
    assert {link[:1] for link in page.values("href")} == {"#"}
    assert {unquote(link[1:]) for link in page.values("href")} <= set(ids)
    assert not re.search(r"https?://|url\(|@import|<link|<iframe|\ssrc=|\sstyle=|\son\w+=", text)
    policy = next(value for value in page.values("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    words = "".join(page.text)
    checked = clora_inspect("plan", str(saved_plan)).out
    codes = set(re.findall(r"^(CL\d+) ", checked, re.MULTILINE))
    assert codes
    assert codes <= set(ids), "each finding has the page of its rule"
    for ranks in plan.rank_classes:
        for placement in ranks.placements:
            name = placement.at.split(".")[-1].partition("[")[0]
            assert any(path.endswith(name) for path in page.values("data-path")), placement.at
            assert f"{placement.params:,} parameters a rank" in words
    assert f"trainable params: {plan.totals.trainable_params:,d}" in words


def test_no_name_becomes_markup(clora_inspect: CommandLine, plan: JobPlan, tmp_path: Path) -> None:
    usual: set[str] | None = None
    for number, name in enumerate(("plain", *HOSTILE)):
        path = tmp_path / f"{number}.json"
        path.write_bytes(encode(renamed(plan, name)))
        text = clora_inspect("report", str(path), "--no-progress").out
        page = Page(text)
        tags = {f"{tag} {attribute}" for tag, attributes in page.elements for attribute in attributes}
        assert tags == (usual := usual or tags), name
        assert text.count("<script>") == text.count("</script>") == 1
        assert len(page.values("id")) == len(set(page.values("id")))
        assert "\u202e" not in text
        assert "\x1b" not in text


def test_a_check_writes_a_page_about_its_jobs(clora_inspect: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "check.html"
    words = ("--no-snapshot", "--no-progress", "--no-cache", "--set", "model.num_layers=2", "--write", f"html={path}")
    ran = clora_inspect("check", "qwen2.5-0.5b", "--isolated", *words)
    page = Page(path.read_text())
    codes = set(re.findall(r"^(CL\d+) ", ran.out, re.MULTILINE))
    assert codes
    assert codes <= set(page.values("id"))
    assert {unquote(link[1:]) for link in page.values("href")} <= set(page.values("id"))
    assert "go:model" not in page.values("id")


def test_drift_and_proofs_stand_in_the_pages_and_a_failed_proof_fails(proved_pages: ProvedPages) -> None:
    # A plan only shows drift: what fails here is a proof.
    for job, layout, written, status in (
        ("steady", "default", proved_pages.steady, ExitCode.OK),
        ("noisy", "one", proved_pages.noisy, ExitCode.FOUND),
        ("noisy", "one", proved_pages.check, ExitCode.FOUND),
    ):
        assert written.status == status, written.err
        page = Page(written.path.read_text())
        words = " ".join("".join(page.text).split())
        assert f"since snapshots/{job}/{layout}.json: 0 kept, 0 added, 0 removed, 10 changed;" in words
        assert "dim 8 -> 16" in words
        assert "decoder.layers.{0..1}.mlp.linear_fc2" in words
        assert words.count("✔ passed") == (10 if job == "steady" else 1)
        assert ("✖ failed CL506" in words) == (job == "noisy")
        assert {unquote(link[1:]) for link in page.values("href")} <= set(page.values("id"))
    assert "noisy two: proved as above, on its first layout." in words
    assert "0 added, 0 removed, 10 changed 1 failed, 1 passed, 12 skipped" in words, "the check's row of the job"
    assert "error: base-twice: " in proved_pages.noisy.err
    assert proved_pages.steady.err == ""
    assert {"CL506", "CL704"} <= set(page.values("id"))


def test_a_report_that_proved_nothing_fails(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = ProofResult(proof="zero-b", status=ProofStatus.SKIPPED, detail="there is no adapter")
    facts = {"job": "a", "layout": "b", "implementation": "clora", "size": "tiny", "dtype": "float32"}
    proofs = VerifyReport(versions={}, device="cpu", seed=0, ranks=1, proofs=(skipped,), **facts)
    assert _report_proofs(proofs) is ExitCode.FOUND
    assert capsys.readouterr().err == "error: nothing was proved: every proof was skipped\n"
    assert _report_proofs(None) is ExitCode.OK


def test_the_page_of_a_thousand_ranks_is_small_and_names_each_stage(large_page: Path) -> None:
    text = large_page.read_text()
    assert len(text.encode()) < 1_500_000
    assert text.count('class="cells"') == 16
    assert "{56..59}" in text


@pytest.mark.nightly
def test_the_page_grows_with_what_differs_and_not_with_ranks(clora_inspect: CommandLine) -> None:
    few, many = (
        len(clora_inspect("report", "deepseek-v3", "--isolated", "--no-progress", *layout).out)
        for layout in (("--pp", "16"), ("--tp", "8", "--pp", "16", "--ep", "64", "--etp", "1"))
    )
    assert many < 1_500_000
    assert many < 1.2 * few
