"""What the key `x` can write to a file: the plan, its graph, findings, drift, proofs and text."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.job.plan import encode

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene


@dataclass(frozen=True, slots=True)
class OutputFile:
    id: str
    name: str
    words: str
    """What the list of outputs says about it."""
    suffix: str
    """The end of the proposed file name."""


PLAN = OutputFile("plan", "plan", "JSON; opens again, and is a JOB for any command", "-plan.json")
FINDINGS = OutputFile("findings", "findings", "JSON, in the fields of check -f json", "-findings.json")
DRIFT = OutputFile("drift", "drift", "JSON, what changed since the snapshot", "-drift.json")
PROOFS = OutputFile("proofs", "proofs", "JSON, one a line, as verify -f jsonl prints them", "-proofs.jsonl")
TEXT = OutputFile("text", "text", "plain, what stands in the pane", ".txt")
GRAPHS = (
    OutputFile("graph-dot", "graph, DOT", "for Graphviz, layers folded", ".dot"),
    OutputFile("graph-mermaid", "graph, Mermaid", "for Markdown, layers folded", ".mmd"),
    OutputFile("graph-graphml", "graph, GraphML", "for Gephi, yEd and networkx, layers folded", ".graphml"),
    OutputFile("graph-json", "graph, JSON", "networkx's node-link data, layers folded", "-graph.json"),
)


def outputs_of(scene: Scene, first: str) -> list[OutputFile]:
    """Return what can be written of a scene; what the user looks at comes first.

    Args:
        scene: what is shown.
        first: the pane that has the focus: `findings`, or the tab of the details.
    """
    # The plan comes first where no pane asks for something else: it is the only one that can be
    # opened again.
    graphs = list(GRAPHS)
    drift = [DRIFT] if scene.drift is not None else []
    order = {
        "findings": [FINDINGS, PLAN, TEXT, *graphs, *drift],
        "graph": [*graphs, PLAN, TEXT, FINDINGS, *drift],
        "snapshot": [*drift, PLAN, TEXT, FINDINGS, *graphs],
    }
    return order.get(first, [PLAN, TEXT, *graphs, FINDINGS, *drift])


def bytes_of(scene: Scene, output: OutputFile) -> bytes:
    """Return the bytes of the plan, the findings, the drift or a graph of a scene.

    The text of a pane and the proofs are known to their screens only.
    """
    if output == PLAN:
        return encode(scene.plan)
    if output == FINDINGS:
        return _json(scene.findings)
    if output == DRIFT:
        return _json(scene.drift)
    # networkx is slow to import, and nothing else in the interface needs it.
    from clora_inspect.graph.folding import folded
    from clora_inspect.graph.placement_graph import PlacementGraph

    # The name of a graph's format is the name of its module.
    render = import_module(f"clora_inspect.graph.{output.id.removeprefix('graph-')}").render
    text: str = render(folded(PlacementGraph.from_job_plan(scene.plan)))
    return text.encode()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
