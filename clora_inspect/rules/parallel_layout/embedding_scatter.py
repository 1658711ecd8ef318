"""CL3, parallel layout: an embedding that hands on whole sequences where layers expect parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.finding import Finding, Severity
from clora_inspect.rules.base import Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.rules.planned_job import PlannedJob


class UnscatteredEmbedding(Rule):
    """Sequence parallelism is on, and the embedding does not split its output over the ranks.

    `scatter_embedding_sequence_parallel = false` is for models that put other embeddings between
    the tokens' and split them afterwards. A language model by itself takes every rank's sequence
    for a part, runs each token tp times, and fails at its labels.

    Bad: `scatter_embedding_sequence_parallel = false` with tp = 2 and sp on.
    Good: the field left out.
    """

    code = "CL328"
    name = "unscattered-embedding"
    severity = Severity.ERROR
    stops_training = True

    def check(self, job: PlannedJob) -> Iterator[Finding]:
        # An argument of the model class, so only what the user set is known; a function that makes
        # a model of several parts sets it with reason.
        scattered = (job.plan.model.overrides or {}).get("scatter_embedding_sequence_parallel", True)
        if not scattered and job.sequence_parallel:
            yield self.found(
                f"scatter_embedding_sequence_parallel is off with tp = {job.plan.layout.tp} and sp: the layers take "
                "whole sequences for parts, and the loss fails at its labels",
                fix="leave scatter_embedding_sequence_parallel out, or use --no-sp",
                location=job.location_of("model.scatter_embedding_sequence_parallel"),
            )
