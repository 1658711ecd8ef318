"""Put the page together: the template with the plan, the findings, the style and the script."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clora_inspect.formats.findings.base.groups import groups, place_of, totals
from clora_inspect.formats.glyphs import UNICODE
from clora_inspect.formats.look import Look
from clora_inspect.formats.plan.summary import header, summary, trainable
from clora_inspect.formats.plan.unadapted import unadapted_rows
from clora_inspect.formats.quantities import count, size
from clora_inspect.formats.snapshot.drift_text import summary as drift_summary
from clora_inspect.formats.verify.text import measured
from clora_inspect.graph.printable import printable
from clora_inspect.job.layer_ranges import fold
from clora_inspect.page import shares, stages
from clora_inspect.page.rule_pages import rule_pages
from clora_inspect.page.setting import in_words
from clora_inspect.page.targets import adapter_rows, target_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clora_inspect.check.report import CheckReport
    from clora_inspect.job.plan import JobPlan

_FOLDER = Path(__file__).parent

MOST_DRAWN = 3_000
"""Largest number of nodes of a drawing. Each takes half a kilobyte of the page."""


def render(report: CheckReport, plan: JobPlan | None = None) -> str:
    """Return the page.

    Args:
        report: what a check found.
        plan: the plan of its one job; None for a page about several jobs, without their models.
    """
    facts: dict[str, Any] = {
        "title": _title(report, plan),
        "report": report,
        "groups": groups(report.findings),
        "rules": rule_pages(report.findings),
        "totals": totals(report.findings, len(report.jobs)),
        "plan": plan,
    }
    if plan is not None:
        facts |= _facts_of(plan, facts["rules"])
    style = (_FOLDER / "page.css").read_text() + facts.pop("style", "")
    script = (_FOLDER / "page.js").read_text()
    # They are our own files. A `</style>` or `</script>` in them would be our mistake.
    shell = {"style": Markup(style), "script": Markup(script), "policy": _policy(style, script)}  # noqa: S704
    return _environment().get_template("page.html.jinja").render(facts | shell)


def _title(report: CheckReport, plan: JobPlan | None) -> str:
    if plan is not None:
        return f"{plan.model.name} {UNICODE.dot} {plan.layout.label}"
    return f"Check of {len(report.jobs)} jobs"


def _facts_of(plan: JobPlan, taken: Iterable[str]) -> dict[str, Any]:
    maps = shares.treemaps(plan)
    rows = stages.stage_rows(plan)
    measures = stages.measures(rows)
    graph = _graph_of(plan, taken)
    return {
        "header": header(plan, UNICODE),
        "trainable": trainable(plan),
        "summary": summary(plan, UNICODE),
        "targets": target_rows(plan),
        "adapters": adapter_rows(plan),
        "left": unadapted_rows(plan),
        "stages": rows,
        "measures": measures,
        "most_cells": stages.MOST_CELLS,
        "maps": maps,
        "lora": plan.lora.fields(),
        "config": plan.model.config or {},
        **graph,
        "style": shares.style_of(maps) + stages.style_of(rows, measures) + graph["style"],
    }


def _graph_of(plan: JobPlan, taken: Iterable[str]) -> dict[str, Any]:
    """Return the module tree and its drawing, or why they are left out."""
    # networkx takes a tenth of a second to import.
    from clora_inspect.graph.errors import GraphError
    from clora_inspect.graph.folding import folded_with_numbers
    from clora_inspect.graph.formats.svg import drawing, style_in
    from clora_inspect.graph.placement_graph import PlacementGraph
    from clora_inspect.page.modules import steps

    try:
        graph, numbers = folded_with_numbers(PlacementGraph.from_job_plan(plan))
    except GraphError as error:
        return {"steps": [], "drawing": None, "left_out": str(error), "style": ""}
    facts: dict[str, Any] = {"steps": steps(graph, numbers, taken), "drawing": None, "left_out": None, "style": ""}
    modules = [name for name, kind in graph.graph.nodes(data="kind") if kind != "rank_class"]
    if len(modules) > MOST_DRAWN:
        size = f"{len(modules):,} modules, parts and adapters"
        return facts | {"left_out": f"The folded model has {size}; more than {MOST_DRAWN:,} are not drawn."}
    # The map of the cluster has the rank classes.
    picture = ET.tostring(drawing(PlacementGraph(graph.graph.subgraph(modules))), encoding="unicode")
    # ElementTree has escaped what stands in the picture.
    return facts | {"drawing": Markup(picture), "style": style_in(".drawing ")}  # noqa: S704


def _policy(style: str, script: str) -> str:
    """Return the Content-Security-Policy: nothing is loaded, and only our style and script run."""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Applied to all that the template writes: names may hide or reorder text.
        finalize=_visible,
    )
    environment.filters |= {
        "count": count,
        "size": size,
        "fold": fold,
        "place": place_of,
        "code": _with_code,
        "drift": lambda drift: drift_summary(drift, Look()),
        "measured": measured,
        "in_words": in_words,
    }
    return environment


def _visible(value: object) -> object:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _with_code(text: str) -> Markup:
    """Return `text` with what stands between backquotes as `<code>`."""
    pieces = printable(text).split("`")
    # An odd number of backquotes quotes nothing.
    if len(pieces) % 2 == 0:
        return Markup.escape(printable(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 else Markup.escape(piece)
        for number, piece in enumerate(pieces)
    )
