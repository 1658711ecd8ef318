"""Read the golden files: the modules that Megatron-Bridge's `CanonicalLoRA` wraps, recorded by
running it, and the configs that it ran on.

They are kept twice: as they were recorded (`golden/` in a folder `shared` beside the repository, if
that exists) and in this folder, smaller, with everything that is compared, so that a clone needs
nothing else. `compact_*` makes the copy from the original, and a test compares the two. Run this
file to write the copies again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ORIGINAL = HERE.parents[2] / "shared" / "golden"
"""Folder of the files as they were recorded. It is not part of the repository."""

LAYOUT = ("tp", "pp", "ep", "etp", "world")


@dataclass(frozen=True, slots=True)
class Row:
    """One run of the reference: its arguments, and what it wrapped on one rank or how it failed."""

    family: str
    layout: tuple[int, ...]
    """Sizes in the order of `LAYOUT`; sequence parallelism is on if tp > 1."""
    rank: int
    variant: str
    lora_args: dict[str, Any]
    base_params: int
    """Parameters of the base on this rank; 0 if the reference could not build the model."""
    trainable_params: int | None
    exception: str | None = None
    wrapped: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> tuple[str, tuple[int, ...], int]:
        """Key of the model to build; rows with equal keys share it."""
        return self.family, self.layout, self.rank

    @property
    def name(self) -> str:
        """Unique among the rows: `qwen3-30b-a3b/tp8-pp4-ep8/rank24/qv`."""
        sizes = [f"{axis}{size}" for axis, size in zip(LAYOUT[:-1], self.layout, strict=False) if size > 1]
        return f"{self.family}/{'-'.join(sizes) or 'one'}/rank{self.rank}/{self.variant}"


def rows() -> list[Row]:
    """Return every row, from the recorded files if they exist, else from the copy."""
    if (ORIGINAL / "placements.json").is_file():
        return original_rows()
    return copied_rows()


def original_rows() -> list[Row]:
    return [
        Row(
            family=row["family"],
            layout=tuple(row["parallel"][axis] for axis in LAYOUT),
            rank=row["rank"],
            variant=row["variant"],
            lora_args=row["lora_args"],
            base_params=row["base_params_this_rank"] or 0,
            trainable_params=row["trainable_params_this_rank"],
            exception=row["exception"],
            wrapped=row.get("wrapped", []),
        )
        for row in json.loads((ORIGINAL / "placements.json").read_bytes())
    ]


def copied_rows() -> list[Row]:
    copy = json.loads((HERE / "placements.json").read_bytes())
    return [
        Row(
            family=row["family"],
            layout=tuple(row["layout"]),
            rank=row["rank"],
            variant=row["variant"],
            lora_args=copy["variants"][row["variant"]],
            base_params=row["base_params"],
            trainable_params=row["trainable_params"],
            exception=row.get("exception"),
            wrapped=[copy["entries"][number] for number in row["wrapped"]],
        )
        for row in copy["rows"]
    ]


def configs() -> dict[str, dict[str, Any]]:
    """Return family -> its Hugging Face config and the reference's megatron-core config made from
    it, from the recorded files if they exist, else from the copy.
    """
    return original_configs() if ORIGINAL.is_dir() else copied_configs()


def original_configs() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((ORIGINAL / "configs").glob("*.json"))}


def copied_configs() -> dict[str, dict[str, Any]]:
    copy: dict[str, dict[str, Any]] = json.loads((HERE / "configs.json").read_bytes())
    return copy


def compact_rows(rows: list[Row]) -> str:
    """Return the text of the copy of `rows`, with every variant and wrapped module written once."""
    entries: dict[str, int] = {}
    variants: dict[str, str] = {}
    lines = []
    for row in rows:
        variants[row.variant] = _line(row.lora_args)
        numbers = [entries.setdefault(_line(entry), len(entries)) for entry in row.wrapped]
        values: dict[str, Any] = {
            "family": row.family,
            "layout": row.layout,
            "rank": row.rank,
            "variant": row.variant,
            "base_params": row.base_params,
            "trainable_params": row.trainable_params,
            "wrapped": numbers,
        }
        lines.append(_line(values | ({"exception": row.exception} if row.exception else {})))
    named = [f"{_line(name)}: {args}" for name, args in variants.items()]
    return (
        "{"
        f'"variants": {{\n {_list(named)}\n}},\n"entries": [\n {_list(entries)}\n],\n"rows": [\n {_list(lines)}\n]'
        "}\n"
    )


def compact_configs(configs: dict[str, dict[str, Any]]) -> str:
    """Return the text of the copy of `configs`, one family a line."""
    return "{" + ",\n".join(f"{_line(family)}: {_line(config)}" for family, config in configs.items()) + "}\n"


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _list(lines: list[str] | dict[str, int]) -> str:
    return ",\n ".join(lines)


if __name__ == "__main__":
    (HERE / "placements.json").write_text(compact_rows(original_rows()))
    (HERE / "configs.json").write_text(compact_configs(original_configs()))
