"""The placement graph of a plan, its folded form, and the formats it is written in.

`PlacementGraph` can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_inspect.graph.placement_graph import PlacementGraph as PlacementGraph


# networkx takes a tenth of a second to import, and the list of formats does not need it.
def __getattr__(name: str) -> Any:
    if name != "PlacementGraph":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from clora_inspect.graph.placement_graph import PlacementGraph

    return PlacementGraph
