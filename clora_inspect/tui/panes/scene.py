"""`Scene`: everything that the panes show at one moment. A change makes a new scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from clora_inspect.tui.tree.rows import TreeFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clora_inspect.job.finding import Finding, Location
    from clora_inspect.job.plan import JobPlan
    from clora_inspect.snapshot.drift import Drift
    from clora_inspect.tui.tree.rows import TreeModel


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A plan, its tree, the chosen rank, findings and drift."""

    name: str
    """The job's name."""
    layout_name: str
    plan: JobPlan
    tree: TreeModel
    rank: int | None = None
    """A global rank; None for the whole cluster."""
    findings: tuple[Finding, ...] = ()
    drift: Drift | None = None
    snapshot_note: str = ""
    """The reason why `drift` is None: there is no snapshot, or it cannot be read."""
    gpu_memory_gib: float | None = None
    """Memory of one GPU, where the configuration of the job says it."""
    memory_note: str = ""
    """The reason why the plan has no memory: it is being counted, was stopped, or cannot be
    counted. Empty before anybody has asked for it.
    """
    location_of: Callable[[str], Location | None] = lambda _: None
    """Returns the line of the configuration that holds a key, such as `lora.target_modules[4]`."""
    file_lines: Callable[[str, int, int], list[str]] = lambda *_: []
    """Returns the lines of a file of the configuration, from a first to a last line number."""

    @property
    def next_filter(self) -> TreeFilter:
        """The filter after the tree's own, without those that nothing can match here."""
        empty = {TreeFilter.DRIFTED: self.drift is None, TreeFilter.FINDINGS: not self.findings}
        order = [each for each in TreeFilter if not empty.get(each)]
        here = order.index(self.tree.only) if self.tree.only in order else 0
        return order[(here + 1) % len(order)]


def key_of(name: str, entries: Sequence[str] | None, entry: str | None) -> str | None:
    """Return the key of an entry of a list of the LoRA settings, such as `lora.target_modules[4]`.

    None where the list has no such entry.
    """
    return f"lora.{name}[{entries.index(entry)}]" if entries and entry in entries else None
