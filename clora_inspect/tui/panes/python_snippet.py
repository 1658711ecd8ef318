"""The job's LoRA as Python, ready to be pasted into a training script."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clora.canonical_lora import CanonicalLoRA

if TYPE_CHECKING:
    from collections.abc import Mapping

ALWAYS = ("target_modules", "dim", "alpha")
"""Fields that are written even where they have their defaults: readers look for them."""

LONGEST_LINE = 100


def python_snippet(lora: Mapping[str, Any]) -> str:
    """Return Python that builds `CanonicalLoRA`, plans and adapts a model.

    Fields with their default values are left out, except those of `ALWAYS`.
    """
    defaults = CanonicalLoRA()
    written = [
        f"    {field.name}={_python(lora[field.name])},"
        for field in fields(defaults)
        if field.init
        and field.name in lora
        and (field.name in ALWAYS or lora[field.name] != getattr(defaults, field.name))
    ]
    arguments = "\n".join(written)
    return (
        "from clora import CanonicalLoRA\n\n"
        f"lora = CanonicalLoRA(\n{arguments}\n)\n"
        "plan = lora.plan(model)  # what will be adapted; the model stays as it is\n"
        "lora(model)  # the surgery\n"
    )


def _python(value: Any) -> str:
    if isinstance(value, list | tuple):
        items = [_python(item) for item in value]
        on_one_line = f"[{', '.join(items)}]"
        # The indent and the name of the longest list take 20 columns: `    exclude_modules=`.
        if len(on_one_line) <= LONGEST_LINE - 20:
            return on_one_line
        inside = "\n".join(f"        {item}," for item in items)
        return f"[\n{inside}\n    ]"
    if isinstance(value, str):
        quoted = repr(value)
        return quoted if '"' in value or "\\" in value else f'"{quoted[1:-1]}"'
    return repr(value)
