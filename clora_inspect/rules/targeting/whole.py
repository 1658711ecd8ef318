"""CL1, targeting: fused linears that get one adapter although some of their parts are targeted."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from clora.fused import PARTS_BY_TARGET
from clora.patterns import PatternSet
from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule
from clora_inspect.rules.linears import Linear, places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class _WholeFused(Rule):
    """The finding about one fused linear, for the rules below."""

    fused: ClassVar[str]
    """Last name of the fused linear."""

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # Linears of one tower with the same targeted parts and the same others.
        alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[Linear]] = {}
        targets = PatternSet(job.targets)
        for linear in job.adapted:
            # Several names and no part: all parts were adapted as one linear.
            if len(linear.names) < 2 or linear.part or linear.last_name != self.fused:
                continue
            wanted = tuple(name.rsplit(".", 1)[-1] for name in linear.names if targets.matching(name))
            others = tuple(name for each in linear.names if (name := each.rsplit(".", 1)[-1]) not in wanted)
            if wanted and others:
                alike.setdefault((linear.tower.path, wanted, others), []).append(linear)
        for (_, wanted, others), linears in alike.items():
            for place in places(linears):
                yield self.found(
                    f"{_parts(wanted)} alone {_is(wanted)} targeted, and {place} is adapted as a whole: "
                    f"{_parts(others)} {_is(others)} trained as well",
                    fix=_fix(job, linears[0], wanted, others),
                    where=place,
                    location=job.location_of("lora.target_modules"),
                )


class WholeFC1(_WholeFused):
    """Only up or only gate is targeted, but the fc1 gets one adapter for both, so that the other
    part is trained as well.

    The fused fc1 of grouped experts and of a `vision_model` gets one adapter as a whole, in clora
    and in Megatron-Bridge.

    Bad: `target_modules = ["linear_fc1_up"]` on a model with grouped experts.
    Good: both names, or `moe_grouped_gemm = false` for an adapter of each part.
    """

    code = "CL113"
    name = "whole-fc1"
    severity = Severity.WARNING
    fused = "linear_fc1"


class WholeQKV(_WholeFused):
    """Only some of q, k and v are targeted, but the `linear_qkv` of a vision tower gets one adapter
    for all three, so that the others are trained as well.

    clora adapts every fused linear below a module called `vision_model` as a whole. In the language
    model, and in towers of other names, each part has an adapter of its own.

    Bad: `target_modules = ["linear_q"]` on a model with a `vision_model`.
    Good: `target_modules = ["language_model.decoder.*.linear_q"]`, or all three names.
    """

    code = "CL121"
    name = "whole-qkv"
    severity = Severity.WARNING
    fused = "linear_qkv"


def _fix(job: PlannedJob, linear: Linear, wanted: tuple[str, ...], others: tuple[str, ...]) -> str:
    """Say which targets leave the tower out, and which say that all parts are meant."""
    if job.towers.in_decoder(linear.local_path):
        return f"say so: add {', '.join(others)}"
    head = f"{linear.tower.path}.*." if linear.tower.path else ""
    say_so = f"say so: add {', '.join(head + name for name in others)}"
    inside = job.decoder_targets(wanted)
    return f"for the language model alone write: {', '.join(inside)}; or {say_so}" if inside else say_so


def _parts(names: tuple[str, ...]) -> str:
    return " and ".join(PARTS_BY_TARGET[name][1] for name in names)


def _is(names: tuple[str, ...]) -> str:
    return "is" if len(names) == 1 else "are"
