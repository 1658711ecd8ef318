"""Every adapter is alive, and only where it should be: a nudge to one B moves the model's output,
and in its linear its own rows alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from clora_inspect.verify.model.model_under_test import all_sites
from clora_inspect.verify.model.running import Outputs, module_outputs, outputs_of
from clora_inspect.verify.model.sites import rows_here
from clora_inspect.verify.outcome import Proved, Refuted
from clora_inspect.verify.proofs.compare import changed_columns, identical, ranges

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest
    from clora_inspect.verify.model.sites import Site

Inside = dict[tuple[int, str], torch.Tensor]
Seen = tuple[Outputs, Inside]


def prove(model: ModelUnderTest) -> Proved:
    """Nudge the B of one adapter after another, and put it back."""
    adapted = model.adapted()
    own = {site.key: site for site in adapted.planned}
    from megatron.core import parallel_state as mpu

    stage = mpu.get_pipeline_model_parallel_rank()
    before = model.together(lambda: _run(model, adapted))
    rows = 0
    for of_stage, chunk, module, part in all_sites(model, adapted.planned):
        site = own.get((chunk, module, part)) if of_stage == stage else None
        after = _nudged(model, adapted, site)
        moved = any(model.everywhere(not identical(after[0], before[0])))
        rows += model.together(partial(_moved_rows, adapted, site, before[1], after[1], moved=moved))
    return Proved(
        detail="a nudge to each B moves the output, and in its linear exactly the rows of its part",
        tensors=len(own),
        elements=rows,
    )


def _moved_rows(adapted: AdaptedModel, site: Site | None, before: Inside, after: Inside, *, moved: bool) -> int:
    """Rows of its linear that the nudge to `site` moved; None is another rank's."""
    if site is None:
        return 0
    if not moved:
        raise Refuted(
            "Nudging B changes no output of the model: this adapter is computed and thrown away, or not computed. "
            "It would train on nothing.",
            where=site.at,
        )
    return _rows(adapted, site, before, after)


def _run(model: ModelUnderTest, adapted: AdaptedModel) -> Seen:
    with module_outputs(adapted.chunks, [(site.chunk, site.module) for site in adapted.planned]) as inside:
        outputs = outputs_of(adapted.chunks, model.batch())
    return outputs, dict(inside)


def _nudged(model: ModelUnderTest, adapted: AdaptedModel, site: Site | None) -> Seen:
    kept = None if site is None else site.b.detach().clone()
    if site is not None:
        with torch.no_grad():
            site.b.mul_(-1)
    try:
        return model.together(lambda: _run(model, adapted))
    finally:
        if site is not None and kept is not None:
            with torch.no_grad():
                site.b.copy_(kept)


def _rows(
    adapted: AdaptedModel,
    site: Site,
    before: dict[tuple[int, str], torch.Tensor],
    after: dict[tuple[int, str], torch.Tensor],
) -> int:
    """Compare which columns of the linear's output moved with the rows of the part in
    megatron-core's packing; how many did.
    """
    key = (site.chunk, site.module)
    placement: Any = site.placement
    if key not in before or placement.wrapper == "LoRATopKRouter" or before[key].numel() == 0:
        return 0
    rows = rows_here(adapted.chunks[site.chunk], site.module, site.part, placement)
    moved = changed_columns(before[key], after[key])
    if rows is None:
        if not moved:
            raise Refuted("Nudging B moves no row of this linear's output.", where=site.at)
        return len(moved)
    expected = [number for number, (part, _) in enumerate(rows) if part == site.part]
    if not expected:
        return 0
    if set(moved) - set(expected):
        strange = sorted(set(moved) - set(expected))
        others = sorted({rows[number][0] for number in strange})
        raise Refuted(
            f"The adapter of {site.part} also moves rows {ranges(strange)} of the fused output, which are "
            f"{' and '.join(others)}'s: its delta is packed "
            f"in another order than the base's rows ({site.part} is rows {ranges(expected)}).",
            where=site.at,
        )
    still = sorted(set(expected) - set(moved))
    if still:
        raise Refuted(
            f"The adapter of {site.part} does not reach rows {ranges(still)} of the fused output, which are {site.part}'s.",
            where=site.at,
        )
    return len(moved)
