"""Compare a planned job with the checkpoint that it is to load, by the checkpoint's index alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clora.errors import CheckpointError, CloraError
from clora.folders.adapter_scales import refuse_other_scales
from clora.sharding.saved_names import saved_in
from clora_inspect.check.cache import hashed
from clora_inspect.checkpoint.asked import Asked, asked_by
from clora_inspect.checkpoint.comparison import compare, divided
from clora_inspect.checkpoint.folder import open_checkpoint
from clora_inspect.rules.checkpoint import (
    BaseNotSavable,
    CheckpointScaleDiffers,
    CheckpointUnreadable,
    adapter_findings,
    difference_findings,
)
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.check.cache import Cache
    from clora_inspect.checkpoint.comparison import Saved
    from clora_inspect.checkpoint.folder import Checkpoint
    from clora_inspect.config.jobs import ConfiguredJob
    from clora_inspect.job.finding import Finding


@dataclass(frozen=True, slots=True)
class Loadable:
    """The outcome of comparing one job with its checkpoint."""

    findings: tuple[Finding, ...] = ()
    holds: str | None = None
    """Content of the checkpoint, in words; None when it cannot be read, or none is named."""
    is_unreadable: bool = False


def compare_with_checkpoint(job: ConfiguredJob, cache: Cache | None) -> Loadable:
    """Compare `job`, which can be planned, with its checkpoint, if it names one.

    Call it inside `working_in(job.folder)`: the job's paths are relative to it.
    """
    if job.checkpoint is None:
        return Loadable()
    try:
        checkpoint = open_checkpoint(Path(job.checkpoint))
    except CheckpointError as error:
        return Loadable((_of(job, _reported(CheckpointUnreadable, error, job)),), is_unreadable=True)
    saved = divided(checkpoint.tensors)
    try:
        asked = _asked(job, checkpoint, saved, cache)
    except CloraError as error:
        # The job can be planned, so that only the description of its shards can fail.
        return Loadable((_of(job, _reported(BaseNotSavable, error, job)),), _holds(checkpoint, saved))
    found = (_of(job, finding) for finding in _findings(job, checkpoint, saved, asked))
    return Loadable(tuple(found), _holds(checkpoint, saved))


def _asked(job: ConfiguredJob, checkpoint: Checkpoint, saved: Saved, cache: Cache | None) -> Asked:
    """Return what `job` asks for, from the cache where possible."""
    adapters, per_layer = saved_in(checkpoint.folder) if saved.adapters else None, saved.has_a_key_per_layer
    plan_key = cache.plan_key(job.job) if cache else None
    # The names under which it asks for adapters are those of the checkpoint.
    names = adapters and [sorted(adapters.shapes), adapters.pattern and adapters.pattern.letters]
    key = plan_key and hashed({"asked": plan_key, "adapters": names, "per_layer": per_layer})
    known = cache.get(key, Asked) if cache else None
    if known is not None:
        return known
    # This import brings in torch, which takes seconds.
    from clora_inspect.pipeline import as_built

    definition = load_definition(job.job.model).override(job.job.model_overrides)
    made = asked_by(as_built(job.job, definition), definition, adapters=adapters, per_layer=per_layer)
    if cache:
        cache.put(key, made)
    return made


def _findings(job: ConfiguredJob, checkpoint: Checkpoint, saved: Saved, asked: Asked) -> Iterator[Finding]:
    name, location = _name(job, checkpoint), job.location_of("checkpoint")
    if saved.holds_base:
        yield from difference_findings(compare(asked.base, saved.base), name, location)
    if not saved.adapters:
        return
    difference = compare(asked.adapters, saved.adapters)
    yield from adapter_findings(difference, name, location)
    # Adapters that are not in the checkpoint have no scale there either.
    if difference.missing or difference.reshaped:
        return
    try:
        refuse_other_scales(checkpoint.folder, asked.scales)
    except CheckpointError as error:
        yield _reported(CheckpointScaleDiffers, error, job)


def _reported(
    rule: type[CheckpointUnreadable | CheckpointScaleDiffers | BaseNotSavable], error: CloraError, job: ConfiguredJob
) -> Finding:
    """Make a finding of an error: its first sentence says what is wrong, the rest what to do."""
    message, _, fix = str(error).partition(". ")
    return rule.found(message.removesuffix("."), fix=fix or None, location=job.location_of("checkpoint"))


def _of(job: ConfiguredJob, finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, job=job.name, layout=job.layout_name)


def _name(job: ConfiguredJob, checkpoint: Checkpoint) -> str:
    """Return the checkpoint as the user named it, with its iteration if that was looked up."""
    written = Path(job.checkpoint or "")
    last = checkpoint.folder.name
    return str(written if written.resolve() == checkpoint.folder else written / last)


def _holds(checkpoint: Checkpoint, saved: Saved) -> str:
    parts = ((saved.base, "of the base"), (saved.adapters, "of adapters"))
    counts = " and ".join(f"{len(tensors):,} tensors {what}" for tensors, what in parts if tensors)
    return f"{checkpoint.folder.name}, {counts or 'no tensors of a model'}"
