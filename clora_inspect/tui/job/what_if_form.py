"""The what-if form: strings as they were typed -> a request, or what is wrong with them; and the
form as TOML. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from clora.canonical_lora import DEFAULT_TARGETS
from clora.errors import CloraError
from clora_inspect.job.layout import Layout
from clora_inspect.tui.job.plan_request import AXES, layout_fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from clora_inspect.tui.job.plan_request import PlanRequest


class FormError(CloraError):
    """A field of the form holds what it cannot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The form, as it was typed."""

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


def draft_of(request: PlanRequest) -> Draft:
    """The form filled with a request."""
    lora, layout = request.lora, Layout(**request.layout)
    return Draft(
        target_modules="\n".join(lora.get("target_modules") or ()),
        exclude_modules=", ".join(lora.get("exclude_modules") or ()),
        dim=str(lora.get("dim", 32)),
        alpha=f"{lora.get('alpha', 32):g}",
        dropout=f"{lora.get('dropout', 0.0):g}",
        normalize_moe_lora=bool(lora.get("normalize_moe_lora", False)),
        share_expert_adapters=bool(lora.get("share_expert_adapters", True)),
        sp=layout.sequence_parallel,
        **{axis: str(getattr(layout, axis)) for axis in AXES},
    )


def request_from(draft: Draft, job: PlanRequest) -> PlanRequest:
    """`job` with what the form says.

    Raises:
        CloraError: a field that cannot be; the message names it.
    """
    axes: dict[str, Any] = {axis: _number(axis, getattr(draft, axis), int) for axis in AXES}
    same_world = all(axes[axis] == job.layout.get(axis, 1) for axis in AXES)
    layout = {
        **axes,
        "sp": draft.sp and axes["tp"] > 1,
        "world_size": job.layout.get("world_size") if same_world else None,
    }
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
    written = job.targets_written or set(lora["target_modules"]) != set(DEFAULT_TARGETS)
    request = msgspec.structs.replace(job, lora=lora, layout=layout, targets_written=written)
    return msgspec.structs.replace(request, layout=layout_fields(request.job().layout))


def as_toml(request: PlanRequest, name: str) -> str:
    """The tables that make this job, as they stand in a `clora-inspect.toml`."""
    lora = "\n".join(f"{key} = {_toml(value)}" for key, value in request.lora.items() if not _is_default(key, value))
    axes = ", ".join(f"{axis} = {_toml(request.layout[axis])}" for axis in (*AXES, "sp") if _counts(request, axis))
    fields = f"set = {_toml({'model': request.model_overrides})}\n" if request.model_overrides else ""
    return (
        f"[lora.{name}]\n{lora}\n\n"
        f"[jobs.{name}]\nmodel = {_toml(request.model)}\nlora = {_toml(name)}\nlayouts = {{ what-if = {{ {axes} }} }}\n{fields}"
    )


def _counts(request: PlanRequest, axis: str) -> bool:
    value = request.layout.get(axis)
    if axis == "sp":
        return value is not None and int(request.layout.get("tp") or 1) > 1
    return value not in (None, 1)


def _is_default(key: str, value: Any) -> bool:
    from clora.canonical_lora import CanonicalLoRA

    return key not in ("target_modules", "dim", "alpha") and getattr(CanonicalLoRA(), key) == value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml(str(key))} = {_toml(each)}' for key, each in value.items())} }}"
    if isinstance(value, str):
        # A basic string of TOML is one of JSON, but for the slash and U+007F.
        import json

        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{value}"


def _names(text: str) -> list[str]:
    return [name for piece in text.replace("\n", ",").split(",") if (name := piece.strip().strip("\"'"))]


def _number(name: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text.strip().replace("_", ""))
    except ValueError:
        expected = "a whole number" if kind is int else "a number"
        raise FormError(f"{name} = {text.strip() or 'nothing'}: it is {expected}.") from None
