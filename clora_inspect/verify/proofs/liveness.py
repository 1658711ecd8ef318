"""Prove that every adapter is alive, and only where it should be: a nudge to one B moves the
model's output, and in its linear the rows of its own part alone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from clora_inspect.verify.model.model_under_test import all_sites
from clora_inspect.verify.model.running import ModuleOutputs, Outputs, module_outputs, outputs_of
from clora_inspect.verify.model.sites import rows_here
from clora_inspect.verify.outcome import NotRun, Proved, Refuted
from clora_inspect.verify.proofs.compare import changed_columns, identical, ranges

if TYPE_CHECKING:
    from clora_inspect.verify.model.model_under_test import AdaptedModel, ModelUnderTest
    from clora_inspect.verify.model.packing import PackedRow
    from clora_inspect.verify.model.sites import Site

Run = tuple[Outputs, ModuleOutputs]
"""Outputs of the model, and those of the adapted linears."""


def prove(model: ModelUnderTest) -> Proved:
    """Nudge the B of one adapter after another, and put it back each time."""
    from megatron.core import parallel_state as mpu

    adapted = model.adapted()
    judged = [site for site in adapted.planned if not adapted.unfed.holds(site)]
    own = {site.key: site for site in judged}
    stage = mpu.get_pipeline_model_parallel_rank()
    before = model.together(lambda: _run(model, adapted))
    rows = 0
    keys = all_sites(model, judged)
    if not keys:
        raise NotRun(f"no adapter can be judged{model.unfed.note}")
    for site_stage, key in keys:
        site = own.get(key) if site_stage == stage else None
        after = _run_nudged(model, adapted, site)
        output_moved = any(model.everywhere(not identical(after[0], before[0])))
        if site is None:
            action = _nothing
        else:
            action = partial(_check_site, adapted, site, before[1], after[1], output_moved=output_moved)
        rows += model.together(action)
    return Proved(
        detail="a nudge to each B moves the output, and in its linear exactly the rows of its part" + model.unfed.note,
        tensors=len(own),
        elements=rows,
    )


def _nothing() -> int:
    return 0


def _run(model: ModelUnderTest, adapted: AdaptedModel) -> Run:
    with module_outputs(adapted.chunks, [(site.chunk, site.module) for site in adapted.planned]) as inside:
        outputs = outputs_of(adapted.chunks, model.batch())
    return outputs, inside


def _run_nudged(model: ModelUnderTest, adapted: AdaptedModel, site: Site | None) -> Run:
    """Run the model with the B of `site` negated; None where the site is on another rank."""
    if site is None:
        return model.together(lambda: _run(model, adapted))
    original = site.b.detach().clone()
    with torch.no_grad():
        # Negating is a large nudge in every dtype, and changes every value that is not zero.
        site.b.mul_(-1)
    try:
        return model.together(lambda: _run(model, adapted))
    finally:
        with torch.no_grad():
            site.b.copy_(original)


def _check_site(
    adapted: AdaptedModel, site: Site, before: ModuleOutputs, after: ModuleOutputs, *, output_moved: bool
) -> int:
    """Check what the nudge to `site` moved; return how many rows of its linear moved.

    Raises:
        Refuted: nothing moved, or other rows than those of its part.
    """
    if not output_moved:
        raise Refuted(
            "Nudging B changes no output of the model: this adapter is computed and thrown away, or not computed. "
            "It would train on nothing.",
            where=site.at,
        )
    key = (site.chunk, site.module)
    # A router returns choices, not rows of a linear, and experts that got no token return nothing.
    if site.placement is None or site.placement.wrapper == "LoRATopKRouter":
        return 0
    if key not in before or before[key].numel() == 0:
        return 0
    moved = changed_columns(before[key], after[key])
    rows = rows_here(adapted.chunks[site.chunk], site.placement)
    if rows is not None:
        return _check_rows(site, rows, moved)
    if not moved:
        raise Refuted("Nudging B moves no row of this linear's output.", where=site.at)
    return len(moved)


def _check_rows(site: Site, rows: list[PackedRow], moved: list[int]) -> int:
    """Compare the rows of a fused linear that moved with those of the part in megatron-core's
    packing.
    """
    expected = [number for number, (part, _) in enumerate(rows) if part == site.part]
    if not expected:
        # Where key-value groups are cut over ranks, a rank may have no row of the part.
        return 0
    strange = sorted(set(moved) - set(expected))
    if strange:
        owners = sorted({rows[number][0] for number in strange})
        raise Refuted(
            f"The adapter of {site.part} also moves rows {ranges(strange)} of the fused output, which are "
            f"{' and '.join(owners)}'s: its delta is packed in another order than the base's rows ({site.part} is "
            f"rows {ranges(expected)}).",
            where=site.at,
        )
    still = sorted(set(expected) - set(moved))
    if still:
        raise Refuted(
            f"The adapter of {site.part} does not reach rows {ranges(still)} of the fused output, which are "
            f"{site.part}'s.",
            where=site.at,
        )
    return len(moved)
