"""The JSON schema of the configuration, for editors. Committed as
`schemas/clora-inspect.schema.json`; a test holds it current.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from clora_inspect.config.settings import Settings

ADDRESS = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema of `[tool.clora-inspect]`, and of a whole `clora-inspect.toml`."""
    schema = msgspec.json.schema(Settings)
    return {
        "$schema": ADDRESS,
        "title": "clora-inspect",
        "description": "[tool.clora-inspect] of a pyproject.toml, or a clora-inspect.toml without the prefix.",
        **schema,
    }


def rendered() -> str:
    """The file."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"
