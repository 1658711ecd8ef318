"""Describe a key of the configuration, as `clora-inspect explain KEY` prints it. Pure.

The descriptions come from the JSON schema of the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora_inspect.config.json_schema import json_schema
from clora_inspect.config.key_path import parsed, written
from clora_inspect.job.layout import Layout

if TYPE_CHECKING:
    from clora_inspect.config.key_path import KeyPath

_PREFIX = ("tool", "clora-inspect")


def key_of(text: str) -> KeyPath | None:
    """Parse a key, and drop the prefix `tool.clora-inspect`. None when `text` is not a key."""
    path = parsed(text)
    if not path:
        return None
    if len(path) == 1 and path[0] in Layout.__struct_fields__:
        # A word of a layout alone means it in any layout.
        return ("jobs", "JOB", "layouts", "LAYOUT", path[0])
    return path[2:] if path[:2] == _PREFIX else path


def described(key: KeyPath) -> dict[str, Any] | None:
    """Return the part of the schema about `key`, with references resolved; None for no such key."""
    schema = json_schema()
    node = _resolved(schema, schema)
    for part in key:
        below = _below(node, part, schema)
        if below is None:
            return None
        # The field has its own description; the one of its type is more general.
        of_field: dict[str, Any] = {name: below[name] for name in ("description", "default") if name in below}
        node = {**_resolved(below, schema), **of_field}
    return node


def page(key: KeyPath, node: dict[str, Any]) -> list[str]:
    """Return the lines of the page: key and type, meaning, default, and the keys below it."""
    lines = [f"{written(key)}: {_type(node)}"]
    if node.get("description"):
        lines.append(f"  {' '.join(str(node['description']).split())}")
    if "default" in node and not isinstance(node["default"], dict):
        lines.append(
            f"  default: {node['default']!r}" if isinstance(node["default"], str) else f"  default: {node['default']}"
        )
    for name, below in node.get("properties", {}).items():
        meaning = " ".join(str(below.get("description", "")).split())
        lines.append(f"  {name}" + (f": {meaning}" if meaning else ""))
    return lines


def _below(node: dict[str, Any], part: str | int, schema: dict[str, Any]) -> dict[str, Any] | None:
    # A LoRA of a job is a name or a table, so the key may be below one of several choices.
    for choice in _choices(node, schema):
        if isinstance(part, int):
            items = choice.get("items")
            if isinstance(items, dict):
                return items
            continue
        if part in choice.get("properties", {}):
            found: dict[str, Any] = choice["properties"][part]
            return found
        # Tables by name, such as [jobs.NAME]: every name has the same schema.
        if isinstance(choice.get("additionalProperties"), dict):
            others: dict[str, Any] = choice["additionalProperties"]
            return others
    return None


def _choices(node: dict[str, Any], schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [_resolved(choice, schema) for choice in node.get("anyOf", [node])]


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    if not reference:
        return node
    definition: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[-1]]
    return {**definition, **{name: value for name, value in node.items() if name != "$ref"}}


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " | ".join(str(value) for value in node["enum"])
    if "anyOf" in node:
        return " | ".join(dict.fromkeys(_type(choice) for choice in node["anyOf"]))
    if "$ref" in node:
        return "table"
    names = {"object": "table", "array": "list", "null": "none"}
    return names.get(str(node.get("type", "any")), str(node.get("type", "any")))
