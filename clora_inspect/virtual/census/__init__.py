"""What a source tree of megatron-core asks of other packages, and what the virtual world lacks.

    python -m clora_inspect.virtual.census PATH

It is for developers, who run it first when a new release of megatron-core appears. All of it reads
source text: nothing of the tree is imported or run.

1. `core_tree.py` finds the Python files of a tree.
2. `reading.py` reads one file: what it asks for, and under which conditions.
3. `offered.py` knows what stand-ins and required packages have.
4. `verdict.py` decides which conditions hold in the virtual world: which asks are made when
   megatron-core is imported, and what an ask that fails takes with it.
5. `report.py` gathers all of it by name; `text.py` prints it.
"""

from __future__ import annotations

from clora_inspect.virtual.census.core_tree import NotACoreTreeError
from clora_inspect.virtual.census.report import CensusReport, take_census

__all__ = ["CensusReport", "NotACoreTreeError", "take_census"]
