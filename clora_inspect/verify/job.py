"""The story of `verify`: the job's plan -> a model that can run here -> the proofs, one after
another -> a report. Read this first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.errors import LayoutError
from clora_inspect.job.job import lora_fields
from clora_inspect.job.layer_ranges import fold
from clora_inspect.job.layout import Layout
from clora_inspect.job.versions import versions
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.verify.model.randomness import switched_off
from clora_inspect.verify.model.weights import WeightsError, weights_folder
from clora_inspect.verify.preflight import Preflight, preflight
from clora_inspect.verify.proofs import PROOFS, Proof
from clora_inspect.verify.ranks.worlds import World, world_of
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport
from clora_inspect.verify.small.fitting import fitted
from clora_inspect.verify.small.layerwise import NotByLayerError, one_of_each
from clora_inspect.verify.small.shrink import Shrunk, explicit_targets, shrink, whole_targets
from clora_inspect.verify.task import ImplementationName, ProofTask, RankAnswer, Size

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.job import Device, Job
    from clora_inspect.job.plan import JobPlan

DTYPES = ("float32", "bfloat16", "float64")
RECOMPUTE = ("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user wants proved, and on what."""

    job: Job
    size: Size = "tiny"
    dtype: str = "float32"
    device: Device = "cpu"
    seed: int = 1234
    procs: int = 1
    implementation: ImplementationName = "clora"
    proofs: tuple[str, ...] = ()
    """Names of the only proofs to run; all of them when empty. What is looked at on the job's own
    model is always looked at.
    """
    weights: Path | None = None
    """A distributed checkpoint of the base, with `size="full"`; drawn values when None."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told how it goes."""

    doing: Callable[[str], None] = lambda _: None
    """A few words for what is being done."""
    proved: Callable[[ProofResult], None] = lambda _: None
    """A proof that has ended."""


def verify(request: Request, listener: Listener | None = None) -> VerifyReport:
    """Prove the surgery of a job.

    Raises:
        CloraError: the job cannot be, or not be verified at this size.
        BuildError: the model's own code failed.
        DeviceError: a device or an implementation that is not there.
        WeightsError: the weights cannot be had, or are of another model.
    """
    listener = listener or Listener()
    weights = _weights(request)
    with world_of(request.procs, request.device) as world:
        listener.doing("planning the job")
        definition = load_definition(request.job.model).override(request.job.model_overrides)
        seen = preflight(request.job, definition, request.implementation, listener.doing)
        if world.is_first:
            listener.proved(seen.result)
        if request.size == "layer":
            return _by_layer(request, definition, seen, world, listener)
        run, dropped = fitted(request.job.layout, world.ranks, keeps_cp=request.device == "cuda")
        shrunk = _sized(request, definition, seen, run)
        task = ProofTask(
            definition=shrunk.definition,
            layout=run,
            lora=lora_fields(request.job.lora),
            targets=shrunk.targets,
            whole_targets=shrunk.whole_targets,
            layers=shrunk.layers,
            implementation=request.implementation,
            seed=request.seed,
            recompute={name: definition.config[name] for name in RECOMPUTE if definition.config.get(name)},
            weights=None if weights is None else str(weights),
        )
        proofs = [seen.result, *prove_all(task, world, listener, only=request.proofs)]
    return _report(
        request,
        world.ranks,
        shrunk.said,
        (*dropped, *shrunk.missing),
        proofs,
        dtype=task.definition.config["params_dtype"],
        weights=task.weights,
    )


def _weights(request: Request) -> Path | None:
    if request.weights is None:
        return None
    if request.size != "full":
        raise WeightsError(
            f"--weights needs --size full: at --size {request.size} the model has other sizes than the checkpoint."
        )
    return weights_folder(request.weights)


def _report(
    request: Request,
    ranks: int,
    said: tuple[str, ...],
    dropped: tuple[str, ...],
    proofs: list[ProofResult],
    *,
    dtype: str,
    weights: str | None = None,
) -> VerifyReport:
    return VerifyReport(
        versions=versions(device=request.device),
        job=request.job.model,
        layout=request.job.layout.label,
        implementation=request.implementation,
        size=request.size,
        dtype=dtype,
        weights=weights,
        device=request.device,
        seed=request.seed,
        ranks=ranks,
        shrunk=said,
        dropped=dropped,
        proofs=tuple(proofs),
    )


def _by_layer(
    request: Request,
    definition: ModelDefinition,
    seen: Preflight,
    world: World,
    listener: Listener,
) -> VerifyReport:
    """One layer of each kind at its true width, each through its own proofs."""
    if world.ranks > 1:
        raise NotByLayerError(
            f"--size layer runs on one rank, and there are {world.ranks}: layouts are proved with --size tiny."
        )
    proofs = [seen.result]
    layers = list(one_of_each(definition, seen.plan, dtype=request.dtype))
    said: list[str] = []
    for number, one in enumerate(layers, 1):
        words = f"layer{'' if one.like.isdigit() else 's'} {one.like}"
        said += [f"{words}: layer {one.layer} at its true width.", *(f"{words}: {sentence}" for sentence in one.said)]
        bar = "#" * number + "." * (len(layers) - number)
        task = ProofTask(
            definition=one.definition,
            layout=Layout(),
            lora=lora_fields(request.job.lora),
            targets=one.targets,
            layers=(one.layer,),
            implementation=request.implementation,
            seed=request.seed,
            ends=False,
            streamed=True,
        )
        heard = _of_layers(listener, words, f"[{bar}] {words}")
        results = prove_all(task, world, heard, only=request.proofs)
        proofs += [_named(result, words) for result in results]
    dropped = (
        (f"{request.job.layout.label}: one rank has all of a layer; --size tiny --procs N shows the layout.",)
        if request.job.layout.model_world > 1
        else ()
    )
    dropped = (*dropped, "embedding and output layer are not built.")
    return _report(request, 1, tuple(said), dropped, proofs, dtype=request.dtype)


def _of_layers(inner: Listener, words: str, doing: str) -> Listener:
    """Tells `inner` of each result for which layers it holds."""
    return Listener(lambda said: inner.doing(f"{doing}: {said}"), lambda result: inner.proved(_named(result, words)))


def _named(result: ProofResult, words: str) -> ProofResult:
    """The result with the layers before its detail."""
    return msgspec.structs.replace(result, detail=f"{words}: {result.detail}")


FUNCTION = (
    "Nothing: a function's model runs at its own size and in its own dtype. "
    "Off, if it has them: dropout, load-balancing losses and noise in routers."
)
"""What is said of the size of a model that a function makes."""


def _sized(request: Request, definition: ModelDefinition, seen: Preflight, run: Layout) -> Shrunk:
    if request.size == "tiny" and not definition.is_user_function:
        return shrink(definition, seen.plan, request.job.layout, run, dtype=request.dtype)
    layers = tuple(range(int(definition.config.get("num_layers", 0))))
    if definition.is_user_function:
        # What the function makes is what its values are compared as, whatever is asked for.
        as_made = msgspec.structs.replace(definition, config={**definition.config, "params_dtype": seen.dtype})
        return Shrunk(definition=as_made, layers=layers, said=(FUNCTION,))
    said: list[str] = []
    off = switched_off({**definition.config, **definition.model}, said)
    sized = definition.override({"params_dtype": request.dtype, **off})
    if run.pp == 1:
        sized = sized.without_split()
    return Shrunk(
        definition=sized,
        layers=layers,
        targets=_targets_of_all(seen.plan, request.job.layout, run, layers),
        whole_targets=whole_targets(seen.plan, layers),
        said=tuple(said),
    )


def _targets_of_all(
    plan: JobPlan, job: Layout, run: Layout, layers: tuple[int, ...]
) -> tuple[tuple[str, ...], ...] | None:
    """Explicit targets for the job's own layers, where its own name layers by number and the run
    has other stages.

    Raises:
        LayoutError: it has fewer stages than the job, and more than one.
    """
    if run.pp * run.vpp == job.pp * job.vpp:
        return None
    if run.pp == 1:
        return explicit_targets(plan, layers, [len(layers)])
    if whole_targets(plan, layers) is None:
        return None
    raise LayoutError(
        f"The targets name layers by number, which are other layers on {run.pp} stages than on the job's {job.pp}. Verify on as many "
        "ranks as the job's pipeline needs, or with --pp 1."
    )


def prove_all(task: ProofTask, world: World, listener: Listener, *, only: tuple[str, ...] = ()) -> list[ProofResult]:
    """Every proof in its order. One that later ones rely on ends the rest when it fails."""
    results: list[ProofResult] = []
    blocked = Blocked()
    for proof in PROOFS:
        if (task.streamed and not proof.streamed) or (only and proof.name not in only):
            continue
        listener.doing(f"proving {proof.name}")
        began = time.perf_counter()
        reason = blocked.reason(proof)
        answers = [RankAnswer(status="skipped", detail=reason)] if reason else world.ask(task, proof.name)
        result = _result(proof, answers, 0.0 if reason else time.perf_counter() - began)
        blocked.learn(proof, result, crashed=any(each.crashed for each in answers))
        results.append(result)
        if world.is_first:
            listener.proved(result)
    return results


@dataclass
class Blocked:
    """What earlier failures have made meaningless."""

    everything: str | None = None
    running: str | None = None

    def reason(self, proof: Proof) -> str | None:
        """Why `proof` would say nothing; None when it would say something."""
        return self.everything or (self.running if proof.runs else None)

    def learn(self, proof: Proof, result: ProofResult, *, crashed: bool) -> None:
        """Take in how a proof ended."""
        if result.status is not ProofStatus.FAILED:
            return
        if proof.name == "base-twice":
            self.everything = "the base does not equal itself, so nothing can be compared with it"
        elif proof.name == "surgery" and (crashed or result.where is None):
            self.everything = "there is no adapted model to run (see surgery)"
        elif crashed and self.running is None:
            self.running = f"the adapted model does not run (see {proof.name})"


def _result(proof: Proof, answers: list[RankAnswer], seconds: float) -> ProofResult:
    """One result of the answers of all ranks: the first failure, else the first reason, else the
    sum.
    """
    failed = next(((rank, each) for rank, each in enumerate(answers) if each.status == "failed"), None)
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
        detail=_of_ranks([each.detail for each in answers]),
        tensors=sum(each.tensors for each in answers),
        elements=sum(each.elements for each in answers),
        largest_error=max(errors) if errors else None,
        bound=answers[0].bound,
    )


def _of_ranks(details: list[str]) -> str:
    """What the ranks say, once where they say the same: pipeline stages have adapters of their own."""
    distinct = {detail: fold(rank for rank, its in enumerate(details) if its == detail) for detail in details}
    if len(distinct) == 1:
        return details[0]
    return "; ".join(f"rank {ranks}: {detail}" for detail, ranks in distinct.items())


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or value == float("inf") or value != value else value  # noqa: PLR0124 - NaN
