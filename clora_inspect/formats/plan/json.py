"""A plan as JSON, in the schema of `clora_inspect.job.plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.plan import encode

if TYPE_CHECKING:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.plan.view import View
    from clora_inspect.job.plan import JobPlan


def render(plan: JobPlan, _look: Look | None = None, _view: View | None = None) -> str:
    """Return the whole document; look and view change nothing in it."""
    return encode(plan).decode()
