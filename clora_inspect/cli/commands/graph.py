"""`clora-inspect graph JOB`: write the placement graph for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.job.plan_errors import report_errors
from clora_inspect.cli.job.requested_plan import requested_plan
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.config.job_request import JobRequest
from clora_inspect.graph.formats import FORMATS, SUFFIXES, renderer
from clora_inspect.machine.collector import collector_paused

if TYPE_CHECKING:
    from clora_inspect.exit_code import ExitCode


@click.command(cls=Command)
@job_options
@click.option(
    "--expand",
    cls=Option,
    group="View",
    is_flag=True,
    help="Show every layer of every stage: do not fold equal layers.",
)
@click.option(
    "--depth",
    cls=Option,
    group="View",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show modules whose path has at most N names.",
)
@output_options(tuple(FORMATS), SUFFIXES)
@config_options
@display_options
@click.pass_context
def graph(context: click.Context, *, request: JobRequest, expand: bool, depth: int | None, output: Output) -> ExitCode:
    r"""Write the placement graph of JOB.

    \b
    clora-inspect graph llama3-8b -o placements.svg
    clora-inspect graph llama3-8b -f dot | dot -Tpng -o placements.png
    clora-inspect graph plan.json -o placements.graphml
    """
    display = display_of(context)
    output.keep(request.name)
    made = requested_plan(context, request)
    output.keep(*made.sources)
    plan = made.plan
    # Imported only now: networkx takes a tenth of a second, and a mistake in JOB comes before it.
    from clora_inspect.graph.folding import folded
    from clora_inspect.graph.placement_graph import PlacementGraph
    from clora_inspect.graph.trimming import to_depth

    # networkx makes dicts for each node, and none of them is garbage before the graph is written.
    with collector_paused():
        shown = PlacementGraph.from_job_plan(plan)
        if not expand:
            shown = folded(shown)
        if depth:
            shown = to_depth(shown, depth)
        render = renderer(output.format)
        output.write(lambda _look: render(shown), display)
    return report_errors(plan, request)
