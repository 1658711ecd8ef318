"""`Report`: the plan of a job and what is wrong with it. A terminal and a notebook show it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from clora_inspect.api.html import as_html
from clora_inspect.config.errors import ConfigError
from clora_inspect.exit_code import ExitCode
from clora_inspect.formats import findings as findings_formats
from clora_inspect.formats.findings.base.groups import totals
from clora_inspect.formats.glyphs import JSON, harmless_json
from clora_inspect.formats.look import Look
from clora_inspect.formats.plan.text import render as render_plan
from clora_inspect.graph import formats as graph_formats
from clora_inspect.job.plan import encode
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.sources.nearest import nearest

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from clora_inspect.check.report import CheckReport
    from clora_inspect.graph.placement_graph import PlacementGraph
    from clora_inspect.job.finding import Finding
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.verify.report import VerifyReport

GRAPHS = tuple(name for name in graph_formats.FORMATS if name not in findings_formats.FORMATS)
"""Formats of the graph. Its `json` is `report.graph.to_node_link()`."""

PAGE = "html"
"""The page of `clora-inspect report`."""

FORMATS = (*findings_formats.FORMATS, *GRAPHS, PAGE)
"""Formats of `Report.to`: those of `check -f` and of `graph -f`, and the page."""


class Report:
    """The result of `clora_inspect.inspect`. It changes nothing and does not change."""

    def __init__(self, plan: JobPlan, checked: CheckReport) -> None:
        """Take the plan, and the report of a check of this one job."""
        self._plan = plan
        self._checked = checked

    @property
    def plan(self) -> JobPlan:
        """The adapters of every module, on every rank."""
        return self._plan

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of the rules that no entry of the allow-list covers, the worst first."""
        return self._checked.findings

    @property
    def drift(self) -> Drift | None:
        """Changes since the accepted snapshot; None where `check` is false or there is none."""
        return self._checked.jobs[0].drift

    @property
    def proofs(self) -> VerifyReport | None:
        """The proofs of `clora-inspect verify`; None where nothing was proved."""
        return self._checked.jobs[0].proofs

    @property
    def exit_code(self) -> ExitCode:
        """The exit status of `clora-inspect check` for this job."""
        return self._checked.exit_code

    @property
    def ok(self) -> bool:
        """True if no finding is as severe as `fail-on` of the configuration."""
        return self.exit_code is ExitCode.OK

    @property
    def graph(self) -> PlacementGraph:
        """The placement graph, not folded.

        Raises:
            GraphError: it would take minutes or all of the memory.
        """
        # networkx is slow to import.
        from clora_inspect.graph.placement_graph import PlacementGraph

        return PlacementGraph.from_job_plan(self._plan)

    def to(self, form: str) -> str:
        """Return the report as text in the format called `form`, the bytes of `check -f`, `graph
        -f` or `report`.

        Args:
            form: `text`, `json`, `sarif`, `markdown` and the other formats of `check -f` have the
                findings; `svg`, `dot`, `mermaid` and the other formats of `graph -f` but `json`
                have the graph, its equal layers folded; `html` is the page of `report`.

        Raises:
            CloraError: there is no such format, or the graph is too large for it.
        """
        if form in findings_formats.FORMATS:
            text = findings_formats.renderer(form)(self._checked, Look())
        elif form in GRAPHS:
            from clora_inspect.graph.folding import folded

            text = graph_formats.renderer(form)(folded(self.graph))
        elif form == PAGE:
            from clora_inspect.page.document import render

            text = render(self._checked, self._plan)
        else:
            raise ConfigError(f"no format '{form}'{nearest(str(form), FORMATS)} Formats: {', '.join(FORMATS)}.")
        return harmless_json(text) if form in JSON else text

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the plan as JSON, completely or not at all. Every command takes the file as JOB.

        Raises:
            CloraError: the file cannot be written.
        """
        try:
            write_atomically(Path(path), encode(self._plan))
        except OSError as error:
            raise ConfigError(f"{os.fspath(path)} cannot be written: {error.strerror or error}.") from error

    def _text(self, look: Look) -> str:
        return render_plan(self._plan, look, findings=sorted(self.findings, key=lambda finding: finding.code))

    def _summary(self) -> str:
        return totals(self.findings, 1)

    def __str__(self) -> str:
        """Return what `clora-inspect plan` prints."""
        return self._text(Look())

    def __repr__(self) -> str:
        plan = self._plan
        adapters = f"{plan.totals.placements:,} adapters"
        return f"<Report {plan.model.name} · {plan.layout.label} · {adapters} · {self._summary()}>"

    def __rich__(self) -> _InTerminal:
        return _InTerminal(self)

    def _repr_html_(self) -> str:
        return as_html(self._plan, self._checked.findings, self._summary())


class _InTerminal:
    """A report for rich: the plan, as wide as its console."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        look = Look(color=console.color_system is not None, width=options.max_width)
        yield Text.from_ansi(self._report._text(look))  # noqa: SLF001 - its own part
