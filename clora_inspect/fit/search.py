"""Search the layouts in which a job fits, cheapest first."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING

import msgspec

from clora.errors import CloraError
from clora_inspect.fit.candidates import Batch, Candidate, Refused, candidates, recomputes
from clora_inspect.fit.estimate import Estimate, Machine
from clora_inspect.fit.measure import Measurements, key_of
from clora_inspect.fit.own import own_candidate
from clora_inspect.fit.refusal import refuse_fixed_layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.job.workload import Workload
from clora_inspect.sources.definition import load_definition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from clora_inspect.job.job import Job
    from clora_inspect.sources.definition import ModelDefinition


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The question that a search answers."""

    batch: Batch
    limit_bytes: int
    """Memory of a GPU."""
    machine: Machine = field(default_factory=Machine)
    workload: Workload = field(default_factory=Workload)
    """How optimizer states are kept, the allowance, and the micro-batch of the job itself."""
    recompute: tuple[str, ...] = ()
    """The settings of recomputation to try; those that the model can have where it is empty."""
    rows: int | None = None
    """Layouts that are wanted, the cheapest; None for all that fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The result of a search."""

    question: Question
    fitting: tuple[Estimate, ...]
    """Cheapest first."""
    candidates: int
    """All that can be built."""
    too_large: int
    """Candidates that are known to need more memory than a GPU has."""
    refused: Refused
    smallest: Estimate | None
    """The candidate that needs least memory; None where cheaper ones fit and the others were not
    looked at.
    """
    own: Estimate | None
    """The layout of the job itself on these GPUs; None where it cannot be built on them."""
    own_fault: str | None
    """Why it cannot."""
    smallest_change: Estimate | None
    """The fitting candidate that differs least from it; None where it fits or nothing does."""
    on_more: Estimate | None
    """Where nothing fits: what needs least on so many GPUs that it fits, if that was found."""
    measured: int
    """Ways to split a layer that were measured."""

    @property
    def not_looked_at(self) -> int:
        """Candidates of which it is not known whether they fit: they take longer."""
        return self.candidates - self.too_large - len(self.fitting)


FACTORS = (2, 4, 8)
"""Multiples of the GPUs that are tried where nothing fits."""


def _ignore(_news: object) -> None:
    pass


def fit(
    job: Job,
    question: Question,
    says: Callable[[str], None] = _ignore,
    begins: Callable[[int], None] = _ignore,
) -> Fit:
    """Return the layouts in which `job` fits into the memory of each rank.

    Args:
        job: the job.
        question: the GPUs, and what else is asked.
        says: told what is being done.
        begins: told before the first measurement how many there are, at most.

    Raises:
        CloraError: there is no such model, it cannot be laid out anew, or no layout can be built.
    """
    job.lora.validate()
    workload = msgspec.structs.replace(question.workload, seq_length=question.batch.seq_length)
    question = replace(question, workload=workload)
    definition = load_definition(job.model)
    refuse_fixed_layout(job, definition)
    own = definition.override(job.model_overrides)
    # Candidates recompute or not, whatever the job says.
    job = replace(job, model_overrides={**job.model_overrides, **recompute_fields("none")})
    definition = definition.override(job.model_overrides)
    says("listing layouts")
    settings = question.recompute or recomputes(definition)
    refused = Refused()
    found = list(candidates(definition, question.batch, refused, settings))
    if not found:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refused.reasons.most_common())
        raise CloraError(
            f"{definition.name} cannot be spread over {question.batch.gpus} GPUs in any layout: {reasons}."
        )
    begins(len({key_of(each) for each in found}))
    measurements = Measurements(job, definition, question.machine, question.workload, says)
    with measurements.ready():
        search = _Search(question, found, measurements, refused)
        result = search.result(own_candidate(job, own, question.batch, question.workload))
        if result.fitting:
            return result
        return replace(result, on_more=_on_more(definition, question, settings, measurements))


def _on_more(
    definition: ModelDefinition, question: Question, settings: Sequence[str], measurements: Measurements
) -> Estimate | None:
    """Return what needs least on a multiple of the GPUs, the smallest one where it fits."""
    for factor in FACTORS:
        gpus, rows = question.batch.gpus * factor, question.batch.rows * factor
        more = replace(question, batch=replace(question.batch, gpus=gpus, rows=rows))
        found = list(candidates(definition, more.batch, Refused(), settings))
        smallest = _Search(more, found, measurements, Refused()).fits() if found else None
        if smallest is not None:
            return smallest
    return None


class _Search:
    """One search, which measures no more than it has to."""

    def __init__(
        self, question: Question, found: Sequence[Candidate], measurements: Measurements, refused: Refused
    ) -> None:
        measurements.batch = question.batch
        self._limit = question.limit_bytes
        self._question = question
        self._measurements = measurements
        self._refused = refused
        unknown = measurements.bound(found)
        for each in found:
            if each.recompute in unknown:
                refused.add(unknown[each.recompute])
        self._candidates = [each for each in found if each.recompute not in unknown]
        if not self._candidates:
            raise CloraError("No layer can be measured: " + "; ".join(dict.fromkeys(unknown.values())))
        # The exact estimates so far. None where it cannot be built.
        self._estimates: dict[Candidate, Estimate | None] = {}
        self._too_large: set[Candidate] = set()

    def result(self, own: Candidate | str) -> Fit:
        """Search, also for the least change of `own`: the candidate that is the job itself, or why
        it is none.
        """
        cheapest = self._cheapest(self._candidates)
        fitting = tuple(cheapest if self._question.rows is None else islice(cheapest, self._question.rows))
        asked = None if isinstance(own, str) else self._estimate(own)
        change = None
        if asked is not None and asked.peak_bytes > self._limit and fitting:
            change = self._nearest(asked.candidate)
        smallest = None
        if not fitting or self._question.rows is None:
            smallest = self._smallest()
        built = sum(self._estimates.get(each, False) is not None for each in self._candidates)
        return Fit(
            question=self._question,
            fitting=fitting,
            candidates=built,
            too_large=len(self._too_large),
            refused=self._refused,
            smallest=smallest,
            own=asked,
            own_fault=own if isinstance(own, str) else None,
            on_more=None,
            smallest_change=change,
            measured=self._measurements.count,
        )

    def _cheapest(self, found: Iterable[Candidate]) -> Iterator[Estimate]:
        """Yield those that fit, cheapest first. A candidate is measured when none of the others can
        be cheaper than it may be.
        """
        measurements = self._measurements
        waiting = sorted(
            ((measurements.least(each).seconds(each), number, each) for number, each in enumerate(found)),
            key=lambda each: each[:2],
        )
        ready: list[tuple[float, int, Estimate]] = []
        for least, number, candidate in waiting:
            while ready and ready[0][:2] < (least, number):
                yield heapq.heappop(ready)[2]
            estimate = self._fitting(candidate)
            if estimate is not None:
                heapq.heappush(ready, (estimate.seconds, number, estimate))
        while ready:
            yield heapq.heappop(ready)[2]

    def _fitting(self, candidate: Candidate) -> Estimate | None:
        """Return the estimate of a candidate, None if it does not fit."""
        if self._measurements.least(candidate).least_bytes(candidate) > self._limit:
            self._too_large.add(candidate)
            return None
        estimate = self._estimate(candidate)
        if estimate is None or estimate.peak_bytes <= self._limit:
            return estimate
        self._too_large.add(candidate)
        return None

    def _estimate(self, candidate: Candidate) -> Estimate | None:
        """Return the estimate of a candidate, None if it cannot be built."""
        if candidate not in self._estimates:
            estimator = self._measurements.estimator(candidate)
            if isinstance(estimator, str):
                self._refused.add(estimator)
                self._estimates[candidate] = None
            else:
                self._estimates[candidate] = estimator.estimate(candidate)
        return self._estimates[candidate]

    def _nearest(self, own: Candidate) -> Estimate | None:
        """Return the fitting candidate with the fewest other options, of these the cheapest."""

        def changes(candidate: Candidate) -> int:
            return len(candidate.changes(own))

        for _, alike in groupby(sorted(self._candidates, key=changes), key=changes):
            nearest = next(self._cheapest(alike), None)
            if nearest is not None:
                return nearest
        return None

    def fits(self) -> Estimate | None:
        """Return the first candidate that fits, from the one on that needs least by its bound."""
        for at_least, candidate in self._by_memory():
            if at_least > self._limit:
                return None
            estimate = self._fitting(candidate)
            if estimate is not None:
                return estimate
        return None

    def _by_memory(self) -> list[tuple[int, Candidate]]:
        """Return the candidates with the memory that they need at least, the smallest first."""
        least = [(self._measurements.least(each).least_bytes(each), each) for each in self._candidates]
        return sorted(least, key=lambda each: each[0])

    def _smallest(self) -> Estimate | None:
        """Return the candidate that needs least memory. One is measured while it may need less than
        those before.
        """
        smallest: Estimate | None = None
        for at_least, candidate in self._by_memory():
            if smallest is not None and at_least >= smallest.peak_bytes:
                break
            estimate = self._estimate(candidate)
            if estimate is not None and (smallest is None or estimate.peak_bytes < smallest.peak_bytes):
                smallest = estimate
        return smallest
