"""The JSON schema of the configuration, for editors.

The result is committed as `schemas/clora-inspect.schema.json`, and a test compares the two.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from clora_inspect.config.settings import Settings

ADDRESS = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the schema of `[tool.clora-inspect]`, which is also that of a `clora-inspect.toml`."""
    schema = _with_unwrapped_text(msgspec.json.schema(Settings))
    return {
        "$schema": ADDRESS,
        "title": "clora-inspect",
        "description": "[tool.clora-inspect] of a pyproject.toml, or a clora-inspect.toml without the prefix.",
        **schema,
    }


def rendered() -> str:
    """Return the text of the committed file."""
    # Not sorted: the keys keep the order of `Settings`, in which `explain` lists them too.
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


def _with_unwrapped_text(node: Any) -> Any:
    """Put every description on one line: msgspec takes them from docstrings, which are wrapped."""
    if isinstance(node, list):
        return [_with_unwrapped_text(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: " ".join(value.split()) if key == "description" and isinstance(value, str) else _with_unwrapped_text(value)
        for key, value in node.items()
    }
