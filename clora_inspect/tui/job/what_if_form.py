"""The what-if form without its widgets: turn the typed values into a request or an error, and a
request into TOML.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import DEFAULT_TARGETS, CanonicalLoRA
from clora.errors import CloraError
from clora_inspect.job.job import lora_fields
from clora_inspect.job.layout import AXES, Layout
from clora_inspect.job.recompute import SHOWN, is_recompute, recompute_fields
from clora_inspect.job.workload import Workload, replacing

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.tui.job.plan_request import PlanRequest


_MAY_BE_EMPTY = ("packed", "num_microbatches")
"""Numbers of the workload that may be left out."""


class FormError(CloraError):
    """A field of the form has a value that cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The text of each field and the state of each check box."""

    target_modules: str
    exclude_modules: str
    dim: str
    alpha: str
    dropout: str
    normalize_moe_lora: bool
    share_expert_adapters: bool
    tp: str
    pp: str
    vpp: str
    cp: str
    ep: str
    etp: str
    sp: bool
    seq_length: str
    micro_batch_size: str
    packed: str
    """Empty for rows of one sequence."""
    num_microbatches: str
    """Empty for as many as fill the pipeline, or as the global batch size asks for."""
    imbalance: str
    recompute: str
    """Empty for what the model's config says."""
    counts_memory: bool = False


def draft_of(request: PlanRequest, *, counts_memory: bool = False) -> Draft:
    """Return the form filled with the values of a request."""
    workload = request.workload
    lora, sizes = {**lora_fields(CanonicalLoRA()), **request.lora}, request.layout.sizes()
    return Draft(
        # Targets have a box of several lines, one target in each; exclusions have one line.
        target_modules="\n".join(lora["target_modules"]),
        exclude_modules=", ".join(lora["exclude_modules"]),
        dim=str(lora["dim"]),
        alpha=f"{lora['alpha']:g}",
        dropout=f"{lora['dropout']:g}",
        normalize_moe_lora=lora["normalize_moe_lora"],
        share_expert_adapters=lora["share_expert_adapters"],
        sp=request.layout.sequence_parallel,
        seq_length=str(workload.seq_length),
        micro_batch_size=str(workload.micro_batch_size),
        packed=str(workload.packed or ""),
        num_microbatches=str(workload.num_microbatches or ""),
        imbalance=f"{workload.imbalance:g}",
        recompute=workload.recompute or "",
        counts_memory=counts_memory,
        # An etp that is not set stays so, and follows a tp that is typed.
        **{axis: "" if request.layout.etp is None and axis == "etp" else str(size) for axis, size in sizes.items()},
    )


def request_from(draft: Draft, job: PlanRequest) -> PlanRequest:
    """Return `job` with the values of the form.

    Raises:
        CloraError: a field cannot be read, or LoRA or the layout refuses its value; the message
            names the field.
    """
    sizes = {axis: _number(axis, getattr(draft, axis), int) for axis in AXES if axis != "etp" or draft.etp.strip()}
    lora = {
        **job.lora,
        "target_modules": _names(draft.target_modules),
        "exclude_modules": _names(draft.exclude_modules),
        "dim": _number("dim", draft.dim, int),
        "alpha": _number("alpha", draft.alpha, float),
        "dropout": _number("dropout", draft.dropout, float),
        "normalize_moe_lora": draft.normalize_moe_lora,
        "share_expert_adapters": draft.share_expert_adapters,
    }
    # A user who changes the default targets has written them: one that matches nothing is an error.
    written = job.targets_written or set(lora["target_modules"]) != set(DEFAULT_TARGETS)
    layout = Layout(
        **sizes,
        # The check box keeps its state while tp is 1, where sequence parallelism cannot be.
        sp=draft.sp and sizes["tp"] > 1,
        # The job's world size fits the job's own axes and need not be a multiple of others.
        world_size=job.layout.world_size if sizes == _written_sizes(job.layout) else None,
    )
    workload = _workload(draft, job.workload)
    request = msgspec.structs.replace(
        job,
        lora=lora,
        layout=layout,
        targets_written=written,
        workload=workload,
        model_overrides=_overrides(job, workload.recompute),
    )
    # Building the job refuses what CanonicalLoRA refuses, before the planner is started for it.
    request.job()
    return request


def as_toml(request: PlanRequest, name: str) -> str:
    """Return the tables of a `clora-inspect.toml` that configure this job."""
    lora = "\n".join(f"{key} = {_toml(value)}" for key, value in request.lora.items() if not _is_default(key, value))
    layout = request.layout
    sizes: dict[str, int | bool] = {axis: size for axis, size in _written_sizes(layout).items() if size > 1}
    if layout.etp is not None and layout.etp != layout.tp:
        sizes["etp"] = layout.etp
    if layout.sp is not None and layout.tp > 1:
        sizes["sp"] = layout.sp
    axes = ", ".join(f"{axis} = {_toml(size)}" for axis, size in sizes.items())
    job = [f"model = {_toml(request.model)}", f"lora = {_toml(name)}", f"layouts = {{ what-if = {{ {axes} }} }}"]
    workload = msgspec.to_builtins(request.workload)
    if changed := {key: value for key, value in workload.items() if value != getattr(Workload(), key)}:
        job.append(f"workload = {_toml(changed)}")
    # The key `recompute` of the workload sets its fields of the model.
    recomputed = recompute_fields("none") if request.workload.recompute else {}
    if overrides := {key: value for key, value in request.model_overrides.items() if key not in recomputed}:
        job.append(f"set = {_toml({'model': overrides})}")
    return f"[lora.{name}]\n{lora}\n\n[jobs.{name}]\n" + "\n".join(job) + "\n"


def _workload(draft: Draft, job: Workload) -> Workload:
    """Return the workload of the form.

    Raises:
        FormError: a field cannot be read, or has a value that cannot be.
    """
    numbers = {
        name: _at_least_one(name, getattr(draft, name), int)
        for name in ("seq_length", "micro_batch_size", *_MAY_BE_EMPTY)
        if name not in _MAY_BE_EMPTY or getattr(draft, name).strip()
    }
    recompute = draft.recompute.strip() or None
    if recompute is not None and not is_recompute(recompute):
        raise FormError(
            f"recompute = {recompute} does not say what is recomputed: write {SHOWN}, such as full:block:4. "
            "Leave it empty for what the model's config says."
        )
    return msgspec.structs.replace(
        job,
        **replacing({**dict.fromkeys(_MAY_BE_EMPTY), **numbers}),
        imbalance=_at_least_one("imbalance", draft.imbalance, float),
        recompute=recompute,
    )


def _at_least_one(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    value = _number(name, text, kind)
    # Not `value < 1`, which no comparison with NaN is.
    if not 1 <= value < float("inf"):
        raise FormError(f"{name} = {text.strip()} cannot be: write 1 or more.")
    return value


def _overrides(job: PlanRequest, recompute: str | None) -> dict[str, Any]:
    """Return the fields of the model that are set, with those that `recompute` stands for."""
    if recompute == job.workload.recompute:
        return job.model_overrides
    fields = recompute_fields(recompute or "none")
    others = {name: value for name, value in job.model_overrides.items() if name not in fields}
    return {**others, **fields} if recompute else others


def _written_sizes(layout: Layout) -> dict[str, int]:
    """Return the sizes without an etp that is not set."""
    return {axis: size for axis, size in layout.sizes().items() if axis != "etp" or layout.etp is not None}


def _is_default(key: str, value: Any) -> bool:
    # The three that readers look for are always written.
    return key not in ("target_modules", "dim", "alpha") and getattr(CanonicalLoRA(), key) == value


def _toml(value: Any) -> str:
    # Booleans before numbers: Python's `bool` is an `int`.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml_key(str(key))} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, str):
        # A string of JSON is a basic string of TOML, except that TOML wants U+007F escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{value}"


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _names(text: str) -> list[str]:
    # Names may be pasted from TOML or Python, with quotes and commas.
    return [name for piece in text.replace("\n", ",").split(",") if (name := piece.strip().strip("\"'"))]


def _number(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    text = text.strip()
    try:
        return kind(text.replace("_", ""))
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        problem = f"{name} = {text} is not {expected}" if text else f"{name} is empty: write {expected}"
        raise FormError(f"{problem}.") from None
