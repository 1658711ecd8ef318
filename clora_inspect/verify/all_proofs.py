"""Run the proofs one after another on a world of ranks, and join the answers of all ranks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora_inspect.job.layer_ranges import fold
from clora_inspect.verify.outcome import BrokenOffError
from clora_inspect.verify.proof_table import HANDOVER, PROOF_NAMES, PROOFS, Need, Proof, proof_named
from clora_inspect.verify.report import ProofResult, ProofStatus
from clora_inspect.verify.task import ProofTask, RankAnswer, answer_of

if TYPE_CHECKING:
    from clora_inspect.verify.ranks.worlds import World
    from clora_inspect.verify.request import Listener


def prove_all(task: ProofTask, world: World, listener: Listener, *, only: tuple[str, ...] = ()) -> list[ProofResult]:
    """Run every proof of the table in its order; with `only` just the proofs of those names.

    A proof that an earlier failure has made meaningless is not run; its result says why.
    """
    results: list[ProofResult] = []
    blocked = Blocked()
    if task.definition.is_user_function and task.layout.pp > 1:
        listener.doing("running the stages one after another")
        task, refuted = _with_lengths(task, world)
        if refuted is not None:
            results.append(refuted)
            blocked.everything = refuted.detail if refuted.status is ProofStatus.SKIPPED else _NO_PIPELINE
            if world.is_first:
                listener.proved(refuted)
            only = tuple(name for name in only or PROOF_NAMES if name != refuted.proof)
    for proof in PROOFS:
        if (task.one_layer and Need.WHOLE_MODEL in proof.needs) or (only and proof.name not in only):
            continue
        listener.doing(f"proving {proof.name}")
        began = time.perf_counter()
        reason = blocked.reason(proof)
        # All ranks come to the same decision here, because it rests on the answers of all ranks.
        answers = [RankAnswer(status="skipped", detail=reason)] if reason else _asked(task, world, proof.name)
        result = _result(proof, answers, 0.0 if reason else time.perf_counter() - began)
        blocked.learn(proof, result, crashed=any(each.crashed for each in answers))
        results.append(result)
        if world.is_first:
            listener.proved(result)
    return results


_NO_PIPELINE = "the model does not run in a pipeline (see base-twice)"


def _with_lengths(task: ProofTask, world: World) -> tuple[ProofTask, ProofResult | None]:
    """Return the task with lengths of rows that suit the model; else the result that says why there
    are none.
    """
    began = time.perf_counter()
    answers = _asked(task, world, HANDOVER.name)
    lengths = answers[0].lengths
    if all(each.status == "passed" for each in answers) and lengths is not None:
        return msgspec.structs.replace(task, length=lengths[0], handed_on=lengths[1]), None
    return task, _result(proof_named("base-twice"), answers, time.perf_counter() - began)


def _asked(task: ProofTask, world: World, proof: str) -> list[RankAnswer]:
    try:
        return world.ask(task, proof)
    except BrokenOffError as error:
        return [answer_of(error)]


@dataclass
class Blocked:
    """Reasons not to run later proofs: after some failures they would say nothing."""

    everything: str | None = None
    """Reason not to run any of them."""
    forward: str | None = None
    """Reason not to run those that need `Need.FORWARD`."""

    def reason(self, proof: Proof) -> str | None:
        """Return why `proof` would say nothing; None when it can be run."""
        return self.everything or (self.forward if Need.FORWARD in proof.needs else None)

    def learn(self, proof: Proof, result: ProofResult, *, crashed: bool) -> None:
        """Update the reasons after `proof` has ended.

        Args:
            proof: the proof.
            result: its result.
            crashed: whether the adapted model could not run on some rank.
        """
        if result.status is not ProofStatus.FAILED:
            return
        if proof.name == "base-twice":
            self.everything = "the base does not equal itself, so nothing can be compared with it"
        # Without a module to blame, surgery was refused as a whole.
        elif proof.name == "surgery" and (crashed or result.where is None):
            self.everything = "there is no adapted model to run (see surgery)"
        # The first crash is the cause; later ones are its consequences.
        elif crashed and self.forward is None:
            self.forward = f"the adapted model does not run (see {proof.name})"


def _result(proof: Proof, answers: list[RankAnswer], seconds: float) -> ProofResult:
    """Return the first rank's failure, else the first reason for not running, else the sum of all
    ranks.
    """
    failed = next(((rank, each) for rank, each in enumerate(answers) if each.status == "failed"), None)
    # A failure on one rank counts more than a proof that another rank did not run.
    skipped = next((each for each in answers if each.status == "skipped"), None)
    known: dict[str, Any] = {"proof": proof.name, "code": proof.code, "seconds": round(seconds, 3)}
    if failed is not None:
        rank, first = failed
        return ProofResult(
            **known,
            status=ProofStatus.FAILED,
            detail=first.detail,
            where=first.where,
            rank=rank,
            largest_error=_finite(first.largest_error),
            bound=first.bound,
        )
    if skipped is not None:
        return ProofResult(**known, status=ProofStatus.SKIPPED, detail=skipped.detail)
    errors = [each.largest_error for each in answers if each.largest_error is not None]
    return ProofResult(
        **known,
        status=ProofStatus.PASSED,
        detail=_joined_details([each.detail for each in answers]),
        tensors=sum(each.tensors for each in answers),
        elements=sum(each.elements for each in answers),
        largest_error=max(errors) if errors else None,
        bound=answers[0].bound,
    )


def _joined_details(details: list[str]) -> str:
    """Return the one detail of all ranks, or each detail with its ranks: pipeline stages have
    different adapters.
    """
    ranks_of = {detail: fold(rank for rank, own in enumerate(details) if own == detail) for detail in details}
    if len(ranks_of) == 1:
        return details[0]
    return "; ".join(f"rank {ranks}: {detail}" for detail, ranks in ranks_of.items())


def _finite(error: float | None) -> float | None:
    """Return None for infinity and NaN, which JSON does not have."""
    return error if error is not None and math.isfinite(error) else None
