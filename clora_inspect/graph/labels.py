"""The text on the nodes of a drawing, shared by DOT and Mermaid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.plan import Fate

if TYPE_CHECKING:
    from collections.abc import Mapping


def label(name: str, data: Mapping[str, Any]) -> list[str]:
    """Return the lines of text of a node: its last name, then what matters for its kind."""
    count = data.get("count", 1)
    many = [f"x {count}"] if count > 1 else []
    match data["kind"]:
        case "rank_class":
            return [f"stage {name}", f"ranks {data['members']}"]
        case "part":
            return [data["part"], *many]
        case "adapter":
            return [f"A {data['a_shape']}, B {data['b_shape']}", f"rank {data['dim']}", *many]
        case _:
            return [
                last_name(name),
                # The module that is a tower says of which kind it is.
                *([data["tower_kind"]] if data.get("tower") == (name.partition("/")[2] or name) else []),
                *([data["base_class"]] if data["status"] != Fate.NOT_ADAPTABLE.word else []),
                *many,
            ]


def last_name(name: str) -> str:
    """Return the last name of a path; the dots in `{0..31}` separate nothing.

    Numbers of layers get the name of their list: `layers.{0..31}`, `layers.{24 of 0..50}`.
    """
    path = name.partition("/")[2] or name
    stem, brace, number = path.rpartition("{")
    above, dot, some = stem.rpartition(".")
    if brace and path.endswith("}") and not some:
        numbers = brace + number
        return f"{last_name(above)}.{numbers}" if dot else numbers
    return path.rpartition(".")[2]
