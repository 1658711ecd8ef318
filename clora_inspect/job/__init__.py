"""The nouns of the tool: a job, its layout, its plan, and what is found in it. Pure data.

`Job` and `Layout` are what a user of the Python API writes; they can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clora_inspect.job.job import Job as Job
    from clora_inspect.job.layout import Layout as Layout


# Imported when they are asked for: `clora-inspect --help` needs other modules of this package, and
# neither of the two.
def __getattr__(name: str) -> Any:
    if name == "Job":
        from clora_inspect.job.job import Job

        return Job
    if name == "Layout":
        from clora_inspect.job.layout import Layout

        return Layout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
