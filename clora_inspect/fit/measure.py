"""Measure ways to split a layer, each once, when it is first asked for."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from clora.errors import CloraError, GeometryError, ModelError, described
from clora_inspect.fit.bounds import SHARES, Bounds
from clora_inspect.fit.estimate import Estimator
from clora_inspect.fit.stage import Stages
from clora_inspect.job.layout import Layout
from clora_inspect.job.recompute import recompute_fields
from clora_inspect.machine.collector import collector_paused
from clora_inspect.machine.quiet import quiet
from clora_inspect.sources.model_name import run_file
from clora_inspect.sources.run.cost import cost_of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from clora_inspect.fit.candidates import Batch, Candidate
    from clora_inspect.fit.estimate import Machine
    from clora_inspect.fit.unit import Unit
    from clora_inspect.job.job import Job
    from clora_inspect.job.workload import Workload
    from clora_inspect.sources.definition import ModelDefinition


class MeasureError(CloraError):
    """The layers of a model cannot be measured."""


Key = tuple[int, int, int, int, str]
"""tp, cp, ep, etp, and what is recomputed: candidates with the same have equal layers."""


def key_of(candidate: Candidate) -> Key:
    """Return what decides what the layers of a candidate cost."""
    return (*_axes(candidate.layout), candidate.recompute)


def _axes(layout: Layout) -> tuple[int, int, int, int]:
    return layout.tp, layout.cp, layout.ep, layout.expert_tp


class Measurements:
    """The costs of layers of one model, measured or bounded."""

    def __init__(
        self,
        job: Job,
        definition: ModelDefinition,
        machine: Machine,
        workload: Workload,
        says: Callable[[str], None],
    ) -> None:
        """Begin with none.

        Args:
            job: the job, of which the LoRA and the model's fields are taken.
            definition: its model.
            machine: the speeds.
            workload: the tokens of a row, how optimizer states are kept, the allowance.
            says: told what is being measured.
        """
        self._job = job
        self._definition = definition
        self._batch: Batch | None = None
        self._machine = machine
        self._workload = workload
        self._says = says
        self._fields_of_run = cost_of_run(run_file(job.model)).fields
        # A reason instead where it cannot be measured.
        self._units: dict[Key, Unit | str] = {}
        self._estimators: dict[Key, Estimator] = {}
        self._least: dict[Key, Estimator] = {}
        self._bounds: dict[str, Bounds] = {}
        self._stages: Stages | None = None

    @property
    def batch(self) -> Batch:
        """The GPUs, and the rows of a step, of the candidates that are estimated."""
        if self._batch is None:
            raise ValueError("no candidates yet")
        return self._batch

    @batch.setter
    def batch(self, batch: Batch) -> None:
        if batch != self._batch:
            self._batch = batch
            # Measurements of layers stay valid.
            self._estimators.clear()
            self._least.clear()

    @property
    def count(self) -> int:
        """Ways that were measured."""
        return len(self._units)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Keep megatron-core on the meta device inside; every measurement needs it."""
        with quiet(), collector_paused():
            from clora_inspect.virtual import megatron_on

            with megatron_on("meta"):
                yield

    def estimator(self, candidate: Candidate) -> Estimator | str:
        """Return what estimates `candidate`, or the reason why its layers cannot be built.

        Raises:
            MeasureError: megatron-core cannot run them.
        """
        key = key_of(candidate)
        unit = self._unit(key)
        if isinstance(unit, str):
            return unit
        if key not in self._estimators:
            self._estimators[key] = self._estimator(unit)
        return self._estimators[key]

    def least(self, candidate: Candidate) -> Estimator:
        """Return what estimates less than `candidate` needs."""
        key = key_of(candidate)
        if key in self._estimators:
            return self._estimators[key]
        if key not in self._least:
            self._least[key] = self._estimator(self._bounds[candidate.recompute].unit(candidate.layout))
        return self._least[key]

    def bound(self, candidates: Sequence[Candidate]) -> dict[str, str]:
        """Measure what `least` needs for these candidates. Return the settings of recomputation
        that cannot be had, with the reason.
        """
        refused = {}
        split = self._split_on_each_axis(candidates)
        for recompute in dict.fromkeys(each.recompute for each in candidates):
            whole = self._unit((1, 1, 1, 1, recompute))
            if isinstance(whole, str):
                refused[recompute] = whole
            else:
                self._bounds[recompute] = Bounds(whole, split, sends_again=recompute == "full")
        return refused

    def _split_on_each_axis(self, candidates: Sequence[Candidate]) -> Mapping[str, tuple[Layout, Unit]]:
        """Return for each axis the smallest split that can be measured, without recomputation."""
        found = {}
        for number, axis in enumerate(SHARES):
            for size in sorted({_axes(each.layout)[number] for each in candidates} - {1}):
                layout = msgspec.structs.replace(Layout(etp=1), **{axis: size})
                unit = self._unit((*_axes(layout), "none"))
                if not isinstance(unit, str):
                    found[axis] = layout, unit
                    break
        return found

    def _unit(self, key: Key) -> Unit | str:
        if key not in self._units:
            self._says(f"measuring a layer: {len(self._units) + 1}")
            try:
                self._units[key] = self._measured(key)
            except GeometryError:
                self._units[key] = "tp or etp does not divide the LoRA rank"
            except MeasureError:
                # A failure without any split is a fault of the job, and not of a layout.
                if key[:4] == (1, 1, 1, 1):
                    raise
                self._units[key] = "one micro-batch cannot be run on the meta device, see plan --memory"
            except ModelError as error:
                # One reason for all sizes of an axis.
                self._units[key] = re.sub(r"= ?\d+", "=N", str(error).rstrip("."))
        return self._units[key]

    def _measured(self, key: Key) -> Unit:
        from clora_inspect.fit.unit import RunFields, measured

        tp, cp, ep, etp, recompute = key
        layout = Layout(tp=tp, cp=cp, ep=ep, etp=etp)
        written = self._job.model_overrides.keys() | recompute_fields(recompute).keys()
        of_run = {name: value for name, value in self._fields_of_run.items() if name not in written}
        definition = self._definition.override(recompute_fields(recompute))
        fields = RunFields(of_run, frozenset({*written, *of_run}))
        try:
            return measured(definition, self._job.lora, layout, self._workload, fields)
        except CloraError:
            raise
        except Exception as error:
            raise MeasureError(
                f"The layers of {self._definition.name} cannot be measured: one micro-batch on the meta device at "
                f"{layout.label}, --recompute {recompute}, ended in {described(error, 300)}"
            ) from error

    def _estimator(self, unit: Unit) -> Estimator:
        if self._stages is None:
            self._stages = Stages(self._definition, unit.layers)
        group = self._definition.config.get("microbatch_group_size_per_vp_stage")
        return Estimator(unit, self._stages, self.batch, self._machine, self._workload, group)
