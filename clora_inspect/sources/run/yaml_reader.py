"""Read YAML as data, with PyYAML's safe loader, if PyYAML is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clora.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

_MERGE_TAG = "tag:yaml.org,2002:merge"


def parse_yaml(data: bytes, path: Path) -> Any:
    """Return the value in `data`, the content of the file at `path`.

    Raises:
        ModelError: PyYAML is missing, or the text is no YAML, has a tag that would make an
            object, or a merge key.
    """
    try:
        import yaml
    except ImportError:
        raise ModelError(
            f"{path} is YAML, which is read with PyYAML: pip install 'clora-inspect[yaml]'. JSON and TOML do without."
        ) from None

    class DataLoader(yaml.SafeLoader):
        def flatten_mapping(self, node: Any) -> None:
            # Merge keys copy, so that ten lines of them can ask for all memory. Aliases share.
            if any(key.tag == _MERGE_TAG for key, _ in node.value):
                raise yaml.constructor.ConstructorError(None, None, "it has a merge key, <<", node.start_mark)
            # YAML forbids a key twice. PyYAML takes the last one, and others may take the first.
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"it has the key {key.value[:80]} twice", key.start_mark
                    )
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)

    try:
        return yaml.load(data, Loader=DataLoader)  # noqa: S506 - a subclass of the safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ModelError(f"{path} is not the YAML of a configuration{place}: {problem}.") from None
