"""`KeyPath`, the path of a key in a TOML document, and its spelling as text. Pure."""

from __future__ import annotations

import re

KeyPath = tuple[str | int, ...]
"""Names and indices of arrays: `("lora", "main", "target_modules", 4)`."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# An index; or a dot and a name: in double quotes, in single quotes, or bare.
_TOKEN = re.compile(r"""\[(\d+)\]|\.(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))""")


def written(path: KeyPath) -> str:
    """Spell `path` as `lora.main.target_modules[4]`, with quotes where TOML needs them."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part if _BARE.fullmatch(part) else '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'
        text += f".{name}" if text else name
    return text


def parsed(text: str) -> KeyPath | None:
    """Return the path that `text` spells; None when it is not the spelling of a key."""
    path: list[str | int] = []
    # A dot before the first name as well: then one pattern matches every name.
    rest = f".{text}"
    at = 0
    while at < len(rest):
        found = _TOKEN.match(rest, at)
        if found is None:
            return None
        index, double, single, bare = found.groups()
        path.append(int(index) if index is not None else _name(double, single, bare))
        at = found.end()
    return tuple(path)


def _name(double: str | None, single: str | None, bare: str | None) -> str:
    if double is not None:
        return re.sub(r"\\(.)", r"\1", double)
    return single if single is not None else bare or ""
