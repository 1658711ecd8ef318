"""Inspect, check and prove canonical LoRA on megatron-core models.

    from clora_inspect import gate, inspect, load_plan

    report = inspect("llama3-8b", layout={"tp": 4, "pp": 2})  # a dry run, and what the rules find
    gate(model, "snapshots/llama3-8b/train.json")  # ends a run whose ranks differ from the snapshot

    plan, lora = load_plan("plan.json").for_rank(model)
    clora.apply(plan, model, lora)  # adapts exactly what was planned, or refuses

Names are imported when they are first used.
"""

from __future__ import annotations

# `python -m clora_inspect` imports this file while the current folder comes first on the path, and
# nothing in that folder may run: not even `typing` is imported here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from clora_inspect.api.inspection import inspect as inspect
    from clora_inspect.api.report import Report as Report
    from clora_inspect.launch.gate import gate as gate
    from clora_inspect.launch.saved import load_plan as load_plan

_MODULE_OF = {
    "Report": "clora_inspect.api.report",
    "gate": "clora_inspect.launch.gate",
    "inspect": "clora_inspect.api.inspection",
    "load_plan": "clora_inspect.launch.saved",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
