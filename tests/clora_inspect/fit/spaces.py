"""Small models and what fit finds of them, for the tests of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clora import CanonicalLoRA
from clora_inspect.fit.candidates import Batch, Candidate, Refused, candidates, recomputes
from clora_inspect.fit.estimate import Estimator, Machine
from clora_inspect.fit.measure import Key, Measurements
from clora_inspect.fit.unit import Unit
from clora_inspect.job.job import Job
from clora_inspect.job.workload import Workload
from clora_inspect.sources.definition import load_definition

LORA = CanonicalLoRA(dim=4)
DENSE: dict[str, Any] = {
    "num_layers": 8,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 4,
    "kv_channels": 16,
}
EXPERTS: dict[str, Any] = {
    **DENSE,
    "moe_layer_freq": [0, 1, 1, 1, 1, 1, 1, 1],
    "num_moe_experts": 8,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 32,
}


class Space:
    """All candidates of a model on some GPUs."""

    def __init__(
        self,
        model: str,
        fields: dict[str, Any],
        gpus: int,
        *,
        settings: tuple[str, ...] = (),
        seq_length: int = 256,
        lora: CanonicalLoRA = LORA,
    ) -> None:
        self.job = Job(model=model, model_overrides=fields, lora=lora)
        self.definition = load_definition(model).override(fields)
        self.batch = Batch(gpus=gpus, seq_length=seq_length, rows=2 * gpus)
        self.settings = settings or recomputes(self.definition)
        self.candidates = list(candidates(self.definition, self.batch, Refused(), self.settings))
        self._units: dict[Key, Unit] = {}

    @property
    def workload(self) -> Workload:
        return Workload(seq_length=self.batch.seq_length)

    def measurements(self) -> Measurements:
        """Return measurements that begin with none, and copy those that were made before."""
        units = self._units

        class Copied(Measurements):
            def _measured(self, key: Key) -> Unit:
                if key not in units:
                    units[key] = super()._measured(key)
                return units[key]

        found = Copied(self.job, self.definition, Machine(), self.workload, lambda _: None)
        found.batch = self.batch
        return found

    @contextmanager
    def ready(self) -> Iterator[None]:
        with self.measurements().ready():
            yield


def estimator(measurements: Measurements, candidate: Candidate) -> Estimator:
    found = measurements.estimator(candidate)
    assert isinstance(found, Estimator), found
    return found
