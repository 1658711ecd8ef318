"""Record what a run is: the snapshot of its live modules, with its config and its versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from clora import linears
from clora.all_ranks import gather_objects, own_rank, together
from clora.errors import CloraError, described
from clora.folders.regular_file import refuse_file_in_place_of_folder
from clora.plan import merged_towers
from clora_inspect.job.towers import Towers, towers_to_record
from clora_inspect.launch.live import LiveRank, read_rank
from clora_inspect.launch.settings import RECORD_NAME
from clora_inspect.machine.atomic_file import write_atomically
from clora_inspect.snapshot.errors import SnapshotError
from clora_inspect.snapshot.record import Base, RunFacts, Snapshot, SnapshotLayout, encode, stage_text, with_placements
from clora_inspect.snapshot.record import SnapshotTotals as Totals
from clora_inspect.sources.module_tree import Module, stage_modules, tree_facts

if TYPE_CHECKING:
    from clora.linears import Model


def record_run(model: Model, folder: Path, live: LiveRank | None = None) -> None:
    """Write what the run is to `clora-run.json` in `folder`. All ranks call this; rank 0 writes.

    Args:
        model: one rank's model, or the list of its virtual pipeline chunks, after surgery.
        folder: usually that of the run's checkpoint; made if it is not there.
        live: what was read of this rank; None reads it now.

    Raises:
        CloraError: on all ranks: a rank cannot be read, or the file cannot be written.
    """
    stages = gather_objects(together(lambda: _stage(live or read_rank(model), model), _unreadable))
    if own_rank() == 0:
        snapshot = snapshot_of([stage for stage in stages if stage is not None], folder.name, len(stages))
    together(lambda: _write(folder, snapshot) if own_rank() == 0 else None, _unwritable)


def snapshot_of(stages: list[tuple[LiveRank, list[Module]]], job: str, world_size: int) -> Snapshot:
    """Return the snapshot of a run from one rank of each of its pipeline stages."""
    stages = sorted(stages, key=lambda stage: stage[0].stage)
    first = stages[0][0]
    towers = Towers(merged_towers(live.towers for live, _ in stages))
    tree = tree_facts(module for _, modules in stages for module in modules)
    lora = {name: next(iter(values)) for live, _ in reversed(stages) for name, values in live.settings.items()}
    empty = Snapshot(
        job=job,
        layout=SnapshotLayout(
            **first.layout.sizes(),
            sp=first.layout.sequence_parallel,
            stages=tuple(stage_text(live.decoder_layers(towers)) for live, _ in stages),
        ),
        base=Base(
            class_name=tree.class_name,
            fingerprint=tree.fingerprint,
            modules=tree.modules,
            params=sum(live.model_params for live, _ in stages),
            towers=towers_to_record(live.towers for live, _ in stages),
            layer_pattern=first.layer_letters,
        ),
        lora=lora,
        totals=Totals(params=0, placements=0),
        run=RunFacts(world_size=world_size, config=first.config, versions=first.versions),
        placements=(),
    )
    return with_placements(empty, {line.at: line for live, _ in stages for line in live.lines}.values())


def _stage(live: LiveRank, model: Model) -> tuple[LiveRank, list[Module]] | None:
    """Return what rank 0 needs of this rank; None if another one stands for its stage."""
    if not live.is_first_of_stage or live.base is None:
        return None
    return msgspec.structs.replace(live, base=None), stage_modules(live.base, linears.chunks_of(model))


def _write(folder: Path, snapshot: Snapshot) -> None:
    refuse_file_in_place_of_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RECORD_NAME, encode(snapshot))


def _unreadable(error: BaseException) -> CloraError:
    return SnapshotError(f"The run cannot be recorded, because its model cannot be read: {described(error)}")


def _unwritable(error: BaseException) -> CloraError:
    reason = error.strerror or error if isinstance(error, OSError) else error
    return SnapshotError(f"The record of the run cannot be written: {reason}. The run itself is untouched.")
