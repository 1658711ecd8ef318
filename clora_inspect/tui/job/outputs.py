"""The outputs that the key `x` can write to a file: the plan, its graph, findings, drift, proofs
and text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from clora_inspect.graph.formats import FORMATS, renderer
from clora_inspect.job.plan import encode

if TYPE_CHECKING:
    from clora_inspect.tui.panes.scene import Scene


@dataclass(frozen=True, slots=True)
class OutputFile:
    id: str
    name: str
    words: str
    """Description in the list of outputs."""
    suffix: str
    """The end of the proposed file name."""


PLAN = OutputFile("plan", "plan", "JSON; opens again, and is a JOB for any command", "-plan.json")
FINDINGS = OutputFile("findings", "findings", "JSON, in the fields of check -f json", "-findings.json")
DRIFT = OutputFile("drift", "drift", "JSON, what changed since the snapshot", "-drift.json")
PROOFS = OutputFile("proofs", "proofs", "JSON, one a line, as verify -f jsonl prints them", "-proofs.jsonl")
TEXT = OutputFile("text", "text", "plain, what stands in the pane", ".txt")


def _graph_suffix(name: str) -> str:
    suffixes = FORMATS[name].suffixes
    # A plan ends in .json, too, and so do several formats: their suffixes keep them apart.
    if suffixes and suffixes[0] != ".json":
        return suffixes[0]
    return "-graph.json" if name == "json" else f"-{name}.json"


GRAPHS = tuple(
    OutputFile(
        f"graph-{name}",
        f"graph, {each.title}",
        f"{each.words}, layers folded",
        _graph_suffix(name),
    )
    for name, each in FORMATS.items()
)


def outputs_of(scene: Scene, first: str) -> list[OutputFile]:
    """Return the outputs of a scene, beginning with the one of the pane that the user looks at.

    Args:
        scene: the plan and its findings, as they are shown.
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

    render = renderer(output.id.removeprefix("graph-"))
    return render(folded(PlacementGraph.from_job_plan(scene.plan))).encode()


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
