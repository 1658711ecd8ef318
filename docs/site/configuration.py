"""The keys of the configuration, from its JSON schema: type, default and meaning of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clora_inspect.formats.rules.page import settings_of
from clora_inspect.rules import all_rules

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = Path(__file__).parents[2] / "schemas" / "clora-inspect.schema.json"

TABLES = (
    ("Settings", "The top", ""),
    ("LoRATable", "LoRA", "lora.NAME"),
    ("JobTable", "Jobs", "jobs.NAME"),
    ("Layout", "Layouts of a job", "jobs.NAME.layouts.NAME"),
    ("Workload", "Workload of a job", "jobs.NAME.workload"),
    ("SetTable", "Fields of the model", "jobs.NAME.set"),
    ("CheckTable", "Check", "check"),
    ("AllowEntry", "Allowed findings", "allow"),
    ("TuiTable", "Interface", "tui"),
)
"""Definition in the schema, heading on the page, and path of the table in the file."""


def keys() -> str:
    """Return the tables as Markdown, then the settings of the rules.

    Raises:
        ValueError: the schema has a table that the page has no heading for.
    """
    definitions: dict[str, dict[str, Any]] = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    objects = {name for name, each in definitions.items() if each.get("type") == "object"}
    if missing := objects - {name for name, _, _ in TABLES}:
        raise ValueError(f"docs/site/configuration.py: TABLES has no heading for {', '.join(sorted(missing))}")
    lines: list[str] = []
    for name, heading, path in TABLES:
        lines += [f"## {heading}\n", f"{definitions[name]['description']}\n"]
        if path:
            header = f"[[{path}]]" if name == "AllowEntry" else f"[{path}]"
            lines.append(f"```toml\n{header}\n```\n")
        required = definitions[name]["required"]
        for key, node in definitions[name]["properties"].items():
            lines += _entry(f"{path}.{key}" if path else key, key, node, definitions, is_required=key in required)
    return "\n".join([*lines, *_rules()])


def _entry(
    path: str, key: str, node: dict[str, Any], definitions: dict[str, dict[str, Any]], *, is_required: bool
) -> Iterator[str]:
    """Yield an entry of a definition list: the key with its type, what it means, its default."""
    reference = _reference(node)
    meaning = node.get("description") or (definitions[reference]["description"] if reference else "")
    yield f"`{key}`{{ #{path.lower().replace('.', '-')} }} *{_type(node, definitions)}*{{ .type }}"
    yield f":   {_sentence(meaning)}"
    default = node.get("default")
    if is_required:
        yield "    Required."
    elif default not in (None, {}, []) and not isinstance(default, dict):
        yield f"    Default: `{json.dumps(default)}`."
    yield ""


def _reference(node: dict[str, Any]) -> str:
    """Return the name of the table that a node refers to, or has entries of."""
    inner = [node, node.get("additionalProperties"), node.get("items"), *node.get("anyOf", ())]
    return next((each["$ref"].rpartition("/")[2] for each in inner if isinstance(each, dict) and "$ref" in each), "")


def _type(node: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> str:
    """Return the type in words."""
    reference = node.get("$ref", "").rpartition("/")[2]
    if "enum" in node:
        words = " or ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    elif "anyOf" in node:
        words = " or ".join(_type(each, definitions) for each in node["anyOf"] if each.get("type") != "null")
    elif "enum" in definitions.get(reference, {}):
        words = _type(definitions[reference], definitions)
    elif reference:
        words = f"[table](#{_heading(reference)})"
    elif node["type"] == "array" and "$ref" in node["items"]:
        words = f"{_type(node['items'], definitions)} for each entry"
    elif node["type"] == "array":
        words = f"list of {_type(node['items'], definitions)}s"
    elif node["type"] == "object" and "$ref" in node.get("additionalProperties", {}):
        words = f"{_type(node['additionalProperties'], definitions)} for each name"
    else:
        words = {"object": "table"}.get(node["type"], node.get("format", node["type"]))
    bounds = {"minimum": "≥", "exclusiveMinimum": ">"}
    return " ".join([words, *(f"{sign} {node[bound]}" for bound, sign in bounds.items() if bound in node)])


def _heading(name: str) -> str:
    return next(heading for each, heading, _ in TABLES if each == name).lower().replace(" ", "-")


def _sentence(words: str) -> str:
    """Return `words` as Markdown: nothing in them is special but code."""
    for special in "*_<[|":
        words = words.replace(special, f"\\{special}")
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", ":")) else ".") if words else ""


def _rules() -> Iterator[str]:
    yield "## Settings of rules\n"
    yield "Each rule that has settings takes them under `[rules.CODE]`.\n"
    for rule in all_rules():
        for key, default in settings_of(rule):
            yield f"`{key}`{{ #rules-{rule.code.lower()}-{key} }} *{rule.code}*{{ .type }}"
            yield f":   A setting of [{rule.code} {rule.name}](../rules/{rule.code}.md). Default: `{default}`."
            yield ""
