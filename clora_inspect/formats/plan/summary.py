"""The figures below a plan's table, as labelled paragraphs: cost per rank, coverage, stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora.plan import Fate
from clora_inspect.formats.plan.beside import beside_line
from clora_inspect.formats.plan.flow_table import flops_line, traffic_line
from clora_inspect.formats.plan.memory import WITH_PEAK, WITHOUT_PEAK
from clora_inspect.formats.plan.memory_table import peak_line
from clora_inspect.formats.plan.stages import stage_lines
from clora_inspect.formats.plan.unadapted import UnadaptedRow, unadapted_rows
from clora_inspect.formats.quantities import count, size, spread
from clora_inspect.job import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from clora_inspect.formats.glyphs import Glyphs
    from clora_inspect.job.plan import JobPlan

Paragraph = tuple[str, str]
"""A label and its text. A paragraph with an empty label continues the one before it."""


def header(plan: JobPlan, glyphs: Glyphs) -> str:
    """Return one line: model, layout, world size, LoRA, megatron-core version and device."""
    parts = [
        plan.model.name,
        plan.layout.label,
        f"world {count(plan.layout.world)}",
        f"dim {plan.lora.dim}, alpha {_number(plan.lora.alpha)}",
        f"megatron-core {plan.versions.get('megatron-core', 'unknown')}",
        f"{plan.model.device or 'meta'} device",
    ]
    return f" {glyphs.dot} ".join(parts)


def _number(value: float) -> str:
    """Write `32.0` as `32`, and a whole number in full."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def trainable(plan: JobPlan) -> str:
    """Return exactly the line that Hugging Face PEFT's `print_trainable_parameters()` prints.

    Scripts that parse PEFT's line can parse this one.
    """
    adapters = plan.totals.trainable_params
    everything = plan.totals.base_params + adapters
    share = 100 * adapters / everything if everything else 0.0
    return f"trainable params: {adapters:,d} || all params: {everything:,d} || trainable%: {share:.4f}"


def summary(plan: JobPlan, glyphs: Glyphs, beside: JobPlan | None = None) -> list[Paragraph]:
    """Return cost per rank, that of the plan `beside`, coverage, stages and notes."""
    dot = f" {glyphs.dot} "
    peak = peak_line(plan, glyphs)
    paragraphs = [
        ("adapters, per rank", dot.join(_adapter_cost(plan, glyphs))),
        ("base, per rank", dot.join(_base_cost(plan, glyphs))),
        ("", WITH_PEAK if peak else WITHOUT_PEAK),
        *([("peak, per rank", peak)] if peak else []),
        *([("traffic, per rank", traffic)] if (traffic := traffic_line(plan, glyphs)) else []),
        *([("megatron-bridge", beside_line(plan, beside, glyphs))] if beside else []),
        *([("FLOPs, per rank", flops)] if (flops := flops_line(plan, glyphs)) else []),
        ("coverage", dot.join(_coverage(plan))),
    ]
    stages = stage_lines(plan, glyphs)
    if plan.layout.pp > 1:
        split = plan.model.pipeline_split
        paragraphs += [("stages" if number == 0 else "", line) for number, line in enumerate(stages)]
        # An even split is what everybody expects.
        paragraphs += [("pipeline split", split)] if split and split != "even" else []
    return paragraphs + [("note", note) for note in plan.model.notes or ()]


def _adapter_cost(plan: JobPlan, glyphs: Glyphs) -> list[str]:
    params = [rank_class.trainable_params for rank_class in plan.rank_classes]

    def cost(bytes_each: int) -> str:
        return _ranks((number * bytes_each for number in params), size, glyphs)

    return [
        f"{_ranks(params, count, glyphs)} params",
        f"{cost(memory.ADAPTER_WEIGHT)} weights",
        f"{cost(memory.GRADIENT)} gradients",
        f"{cost(memory.ADAM_STATES)} Adam states",
    ]


def _base_cost(plan: JobPlan, glyphs: Glyphs) -> list[str]:
    params = [rank_class.base_params for rank_class in plan.rank_classes]
    dtype = plan.model.weights_dtype
    weights = _ranks((memory.weight_bytes(number, dtype) for number in params), size, glyphs)
    return [
        f"{_ranks(params, count, glyphs)} params",
        f"{weights} weights ({dtype.removeprefix('torch.')})",
        "frozen: no gradients, no Adam states",
    ]


def _ranks(values: Iterable[int], show: Callable[[int], str], glyphs: Glyphs) -> str:
    return spread(values, show, glyphs.dash)


def _coverage(plan: JobPlan) -> list[str]:
    totals = plan.totals
    left = unadapted_rows(plan)
    # Totals count linears of the decoder; the names after them may also stand outside of it.
    adapted, linears = totals.adapted_linears, totals.linears
    words = [f"{count(adapted)} of {count(linears)} decoder linears ({_percent(adapted, linears)})"]
    for where, rows in _by_tower(plan, left).items():
        for fate in (Fate.UNMATCHED, Fate.EXCLUDED, Fate.NOT_ADAPTABLE):
            names = _names([row for row in rows if row.reason is fate])
            if names:
                words.append(f"{fate.word}{where}: {names}")
    return words


def _by_tower(plan: JobPlan, rows: list[UnadaptedRow]) -> dict[str, list[UnadaptedRow]]:
    """Return the words that say in which tower rows stand -> the rows; no words for one tower."""
    found: dict[str, list[UnadaptedRow]] = {}
    for row in rows:
        where = f" in {row.tower.path or 'the model itself'}" if plan.towers.are_several else ""
        found.setdefault(where, []).append(row)
    return found


def _names(rows: list[UnadaptedRow]) -> str:
    # Rows with the same name differ in class, which is not told here.
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.name] = counts.get(row.name, 0) + row.count
    return ", ".join(f"{name} ({count(number)})" if number > 1 else name for name, number in counts.items())


def _percent(part: int, whole: int) -> str:
    """Return a percentage. Only all is 100 % and only none is 0 %: rounding must not say so."""
    if part == whole or not part:
        return "100 %" if part else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
