"""A plan as JSON: the contract of `clora_inspect.job.plan`, whatever is shown on a screen. Pure
text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.job.plan import encode

if TYPE_CHECKING:
    from clora_inspect.formats.look import Look
    from clora_inspect.formats.plan.view import View
    from clora_inspect.job.plan import JobPlan


def render(plan: JobPlan, _look: Look | None = None, _view: View | None = None) -> str:
    """The whole document: neither colour nor view has a say in it."""
    return encode(plan).decode()
