"""`verify()`, the whole of `clora-inspect verify` from a job to a report. Read this file first.

job -> its plan, and surgery on its own model without values (preflight)
-> a model that can run here (small/, or the job's own)
-> the proofs on it, one after another (all_proofs, on the ranks of ranks/)
-> a report
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from clora.errors import LayoutError
from clora_inspect.job.job import lora_fields
from clora_inspect.job.layout import Layout
from clora_inspect.job.versions import versions
from clora_inspect.machine.ending import cleaned_up_on_signals
from clora_inspect.sources.definition import ModelDefinition, load_definition
from clora_inspect.sources.model_name import shown_name
from clora_inspect.verify.all_proofs import prove_all
from clora_inspect.verify.model.randomness import lora_dropout_off, switched_off
from clora_inspect.verify.model.weights import WeightsError, weights_folder
from clora_inspect.verify.preflight import Preflight, preflight
from clora_inspect.verify.proof_table import PROOFS
from clora_inspect.verify.ranks.worlds import World, open_world
from clora_inspect.verify.report import ProofResult, ProofStatus, VerifyReport
from clora_inspect.verify.request import Listener, Request
from clora_inspect.verify.small.fitting import fitted
from clora_inspect.verify.small.layerwise import NotByLayerError, OneLayer, one_of_each
from clora_inspect.verify.small.shrink import Shrunk, explicit_targets, shrink, single_rank_targets
from clora_inspect.verify.task import ProofTask

if TYPE_CHECKING:
    from pathlib import Path

    from clora_inspect.job.plan import JobPlan

RECOMPUTE_FIELDS = ("recompute_granularity", "recompute_method", "recompute_num_layers", "recompute_modules")

FUNCTION_SIZE = (
    "Nothing: a function's model runs at its own size and in its own dtype. "
    "Off, if it has them: dropout, load-balancing losses and noise in routers."
)
"""Text of the report's `shrunk` for a model that a user's function makes."""


def verify(request: Request, listener: Listener | None = None) -> VerifyReport:
    """Prove the surgery of a job.

    Raises:
        CloraError: the job cannot be built, or cannot be verified at this size.
        BuildError: the model's own code failed.
        DeviceError: the device or the implementation is not there.
        WeightsError: the weights cannot be read, or belong to another model.
        LaunchError: the environment of a launcher is malformed.
        RankLostError: a rank died, did not answer in time, or had no memory.
    """
    listener = listener or Listener()
    weights = _weights(request)
    # The world is opened before the job is planned, so that a wrong --procs is reported at once.
    with cleaned_up_on_signals(), open_world(request.procs, request.device, request.timeout_s) as world:
        listener.doing("planning the job")
        definition = load_definition(request.job.model).override(request.job.model_overrides)
        checked = preflight(request.job, definition, request.implementation, listener.doing)
        if world.is_first:
            listener.proved(checked.result)
        if checked.refusals:
            return _refused(request, checked, world, listener)
        if request.size == "layer":
            return _verify_layers(request, definition, checked, world, listener)
        return _verify_model(request, definition, checked, world, listener, weights)


def _weights(request: Request) -> Path | None:
    if request.weights is None:
        return None
    if request.size != "full":
        raise WeightsError(
            f"--weights needs --size full: at --size {request.size} the model has other sizes than the checkpoint."
        )
    return weights_folder(request.weights)


def _refused(request: Request, checked: Preflight, world: World, listener: Listener) -> VerifyReport:
    """Report a job whose base megatron-core cannot train: no rank runs anything."""
    codes = ", ".join(dict.fromkeys(str(refusal.code) for refusal in checked.refusals))
    skipped = [
        ProofResult(
            proof=proof.name,
            code=proof.code,
            status=ProofStatus.SKIPPED,
            detail=f"the base raises in its first training step (see {codes})",
        )
        for proof in PROOFS
        if not request.proofs or proof.name in request.proofs
    ]
    results = (*checked.refusals, *skipped)
    for result in results if world.is_first else ():
        listener.proved(result)
    return _report(
        request,
        layout=checked.plan.layout,
        ranks=world.ranks,
        dtype=request.dtype,
        shrunk=(),
        dropped=("all proofs: none was run.",),
        proofs=(checked.result, *results),
    )


def _verify_model(
    request: Request,
    definition: ModelDefinition,
    checked: Preflight,
    world: World,
    listener: Listener,
    weights: Path | None,
) -> VerifyReport:
    """Prove a small model or the job's own, on as much of the layout as the ranks can show."""
    run, dropped = fitted(checked.plan.layout, world.ranks)
    if run.pp > 1 and checked.no_pipeline is not None:
        raise checked.no_pipeline
    sized = _sized(request, definition, checked, run)
    task = ProofTask(
        definition=sized.definition,
        layout=run,
        lora=lora_fields(request.job.lora),
        targets=sized.targets,
        single_rank_targets=sized.single_rank_targets,
        layers=sized.layers,
        implementation=request.implementation,
        seed=request.seed,
        recompute={name: definition.config[name] for name in RECOMPUTE_FIELDS if definition.config.get(name)},
        weights=None if weights is None else str(weights),
    )
    results = prove_all(task, world, listener, only=request.proofs)
    return _report(
        request,
        layout=checked.plan.layout,
        ranks=world.ranks,
        dtype=sized.definition.config["params_dtype"],
        weights=task.weights,
        shrunk=sized.changes,
        dropped=(*dropped, *sized.missing, *checked.doubts),
        proofs=(checked.result, *results),
    )


def _verify_layers(
    request: Request, definition: ModelDefinition, checked: Preflight, world: World, listener: Listener
) -> VerifyReport:
    """Prove one layer of each kind at its true width, one layer after another."""
    if world.ranks > 1:
        raise NotByLayerError(
            f"--size layer runs on one rank, and there are {world.ranks}: layouts are proved with --size tiny."
        )
    # All are listed first, because the progress bar needs their number; none is built yet.
    layers = list(one_of_each(definition, checked.plan, dtype=request.dtype))
    results = [checked.result]
    changes: list[str] = []
    for number, layer in enumerate(layers, 1):
        label = f"layer{'' if layer.alike.isdigit() else 's'} {layer.alike}"
        bar = "#" * number + "." * (len(layers) - number)
        results += _prove_layer(request, layer, label, world, _layer_listener(listener, label, bar))
        changes += [f"{label}: layer {layer.layer} at its true width.", *(f"{label}: {each}" for each in layer.changes)]
    layout = checked.plan.layout
    dropped = ["embedding and output layer are not built."]
    if layout.model_world > 1:
        dropped.insert(0, f"{layout.label}: one rank has all of a layer; --size tiny --procs N shows the layout.")
    return _report(
        request,
        layout=layout,
        ranks=1,
        dtype=request.dtype,
        shrunk=tuple(changes),
        dropped=(*dropped, *checked.doubts),
        proofs=tuple(results),
    )


def _prove_layer(request: Request, layer: OneLayer, label: str, world: World, listener: Listener) -> list[ProofResult]:
    task = ProofTask(
        definition=layer.definition,
        layout=Layout(),
        lora=lora_fields(request.job.lora),
        targets=layer.targets,
        layers=layer.built,
        implementation=request.implementation,
        seed=request.seed,
        one_layer=True,
    )
    return [_labelled(result, label) for result in prove_all(task, world, listener, only=request.proofs)]


def _layer_listener(inner: Listener, label: str, bar: str) -> Listener:
    """Return a listener that tells `inner` which layers a message or a result is about."""
    return Listener(
        lambda doing: inner.doing(f"[{bar}] {label}: {doing}"),
        lambda result: inner.proved(_labelled(result, label)),
    )


def _labelled(result: ProofResult, label: str) -> ProofResult:
    return msgspec.structs.replace(result, detail=f"{label}: {result.detail}")


def _sized(request: Request, definition: ModelDefinition, checked: Preflight, run: Layout) -> Shrunk:
    """Return the model that is run for `--size tiny` and `--size full`.

    Raises:
        LayoutError: the model cannot be made small, or its targets cannot be given on layout `run`.
    """
    if request.size == "tiny" and not definition.is_user_function:
        return shrink(definition, checked.plan, checked.plan.layout, run, dtype=request.dtype)
    layers = tuple(range(definition.built_layers)) if "num_layers" in definition.config else ()
    if definition.is_user_function:
        # The function decides the dtype, whatever --dtype says, and the bounds follow it.
        as_made = msgspec.structs.replace(definition, config={**definition.config, "params_dtype": checked.dtype})
        return Shrunk(definition=as_made, layers=layers, changes=(FUNCTION_SIZE,))
    off, changes = switched_off({**definition.config, **definition.model})
    sized = definition.override({"params_dtype": request.dtype, **off})
    if run.pp == 1:
        sized = sized.without_split()
    return Shrunk(
        definition=sized,
        layers=layers,
        targets=_targets_at_full_size(checked.plan, checked.plan.layout, run, layers),
        single_rank_targets=single_rank_targets(checked.plan, layers),
        changes=tuple(changes),
    )


def _targets_at_full_size(
    plan: JobPlan, job: Layout, run: Layout, layers: tuple[int, ...]
) -> tuple[tuple[str, ...], ...] | None:
    """Return explicit targets if the job's own name layers by number and `run` has another number
    of virtual stages, where the numbers would mean other layers; else None.

    Raises:
        LayoutError: `run` has several stages, but fewer than the job.
    """
    if run.pp * run.vpp == job.pp * job.vpp:
        return None
    if run.pp == 1:
        return explicit_targets(plan, layers, [len(layers)])
    if single_rank_targets(plan, layers) is None:
        return None
    raise LayoutError(
        f"The targets name layers by number, which are other layers on {run.pp} stages than on the job's {job.pp}. "
        "Verify on as many ranks as the job's pipeline needs, or with --pp 1."
    )


def _report(
    request: Request,
    *,
    layout: Layout,
    ranks: int,
    dtype: str,
    shrunk: tuple[str, ...],
    dropped: tuple[str, ...],
    proofs: tuple[ProofResult, ...],
    weights: str | None = None,
) -> VerifyReport:
    return VerifyReport(
        versions=versions(device=request.device),
        job=shown_name(request.job.model),
        layout=layout.label,
        implementation=request.implementation,
        size=request.size,
        dtype=dtype,
        weights=weights,
        device=request.device,
        seed=request.seed,
        ranks=ranks,
        shrunk=(*shrunk, *lora_dropout_off(request.job.lora.dropout, request.job.lora.dropout_position)),
        dropped=dropped,
        proofs=proofs,
    )
