"""CL1, targeting: layer numbers in patterns that were written for a GPTModel, in a HybridModel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.job.layer_ranges import fold
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import places
from clora_inspect.rules.target_reading import (
    by_global_number,
    by_gpt_number,
    has_layer_number,
    in_hybrid_numbers,
    last_layer_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from clora_inspect.rules.linears import Linear
    from clora_inspect.rules.planned_job import PlannedJob


class HybridLayerNumber(Rule):
    """A pattern names a layer by number, and the model is a HybridModel whose layers are those of a
    GPTModel taken apart: layer i became the layers 2i, its attention, and 2i + 1, its MLP.

    A pattern that was written for the GPTModel selects other modules there, half as many of each
    kind. The finding is left out where a number is so high that only the HybridModel has it.

    Bad: `target_modules = ["*.layers.{0..3}.*"]` for the first four layers of the GPTModel
    Good: `target_modules = ["*.layers.{0..7}.*"]`
    """

    code = "CL122"
    name = "hybrid-layer-number"
    severity = Severity.WARNING

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        pattern = job.plan.pattern
        if pattern is None or not pattern.is_of_pairs:
            return
        numbered = {name: tuple(filter(has_layer_number, entries)) for name, entries in job.patterns.items()}
        entries = [entry for entries in numbered.values() for entry in entries]
        here, meant = by_global_number(entries, job.linears), by_gpt_number(entries, job.linears)
        for list_name, own in numbered.items():
            for entry in own:
                selected, as_gpt = here.of(entry), meant.of(entry)
                # CL101 and CL116 report an entry that selects nothing.
                if not selected or last_layer_of(entry) >= pattern.pairs or selected == as_gpt:
                    continue
                yield self.found(
                    f'"{entry}" selects {_layers(selected)} of a HybridModel, where layer i of the GPTModel is '
                    "layers 2i, the attention, and 2i + 1, the MLP; read as numbers of the GPTModel it means "
                    f"{_layers(as_gpt)}",
                    fix=_fix(job, entry),
                    details=places(one for one in as_gpt if one not in selected),
                    target=entry,
                    location=job.location_of_entry(list_name, entry),
                )


def _layers(linears: Sequence[Linear]) -> str:
    numbers = {one.layer for one in linears if one.layer is not None}
    return f"layer{'' if len(numbers) == 1 else 's'} {fold(numbers)}" if numbers else "no layer"


def _fix(job: PlannedJob, entry: str) -> str:
    written = in_hybrid_numbers(entry, job.linears)
    both = "allow this finding if the numbers of the HybridModel are meant"
    return f"write {written} for the modules that it selects in the GPTModel, or {both}" if written else both
