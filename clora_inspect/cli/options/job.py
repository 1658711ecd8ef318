"""The options that describe a job, for every command that takes one.

A `JobRequest` keeps only what the user typed. `cli/job` finds the job that is meant, which may be a
configured one, and applies the options to it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, get_args

import click

from clora_inspect.cli.options.assignments import parse_assignments
from clora_inspect.cli.options.base import Option
from clora_inspect.cli.options.completion import complete_job, complete_layout, complete_lora, complete_targets
from clora_inspect.config.job_request import JobRequest
from clora_inspect.job.implementation import ImplementationName
from clora_inspect.job.model_class import ModelClass

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.job.job import Device

    Command = Callable[..., Any]

LAYOUT = {
    "tp": "Ranks on the tensor-parallel axis.",
    "pp": "Pipeline stages.",
    "vpp": "Model chunks on each rank of an interleaved pipeline.",
    "cp": "Ranks on the context-parallel axis.",
    "ep": "Ranks that share the routed experts.",
    "etp": "Tensor-parallel ranks of each routed expert; default: as many as --tp.",
    "world_size": "Ranks of the whole job; default: the smallest world that holds the layout.",
}
"""Field of `Layout` -> help of its option."""


def job_options(command: Command) -> Command:
    """Add [JOB] and its options; the command gets them as one `JobRequest` named `request`."""

    @wraps(command)
    def named(*, job: str, request: JobRequest, **values: Any) -> Any:
        return command(request=replace(request, name=job), **values)

    return click.argument("job", required=False, metavar="[JOB]", shell_complete=complete_job, callback=_job_name)(
        job_change_options(named)
    )


def job_change_options(command: Command) -> Command:
    """Add the options alone, for a command that takes several JOBs and changes all of them.

    The command gets them as one `JobRequest` named `request`, whose `name` is empty.
    """

    @wraps(command)
    def collected(
        *,
        layout: str | None,
        lora: str | None,
        lora_as_canonical: bool,
        set_: tuple[str, ...],
        device: Device | None,
        implementation: ImplementationName | None,
        via: str | None,
        model_class: ModelClass | None,
        **values: Any,
    ) -> Any:
        # Popped, so that what is left in `values` goes to the command.
        sizes = {name: values.pop(name) for name in (*LAYOUT, "sp")}
        fields = {name: values.pop(name) for name in ("dim", "alpha", "target_modules", "exclude_modules")}
        assigned = parse_assignments(set_)
        request = JobRequest(
            layout_name=layout,
            lora_name=lora,
            lora_as_canonical=lora_as_canonical,
            layout=_given(sizes),
            lora=_merged(_given(fields), assigned["lora"]),
            model=assigned["model"],
            workload=assigned["workload"],
            device=device,
            implementation=implementation,
            via_bridge=via == "bridge",
            model_class=model_class,
        )
        return command(request=request, **values)

    optioned: Command = collected
    # Decorators apply from the bottom up, so the last one comes first in `--help`.
    for option in reversed(_OPTIONS):
        optioned = option(optioned)
    return optioned


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    # None means that the option was not typed. False, as from --no-sp, is a value.
    return {name: value for name, value in values.items() if value is not None}


def _merged(options: dict[str, Any], assigned: dict[str, Any]) -> dict[str, Any]:
    # The same value twice is harmless: a script may add --dim to a --set that it was given.
    for name in options.keys() & assigned.keys():
        if options[name] != assigned[name]:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{option} and --set lora.{name}={assigned[name]} contradict each other. Leave one out."
            )
    return options | assigned


def _job_name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    # Path("") is the current folder, so an empty JOB from an unset shell variable would mean that.
    if value is not None and not value.strip():
        raise click.BadParameter("JOB is empty. Is a variable of the shell not set?", param=parameter)
    return value or ""


def _names(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Split a comma-separated list.

    Raises:
        BadParameter: the list is empty, which an unset shell variable makes of it.
    """
    if value is None:
        return None
    if not value.strip():
        raise click.BadParameter(
            "the list is empty. Name modules, separated by commas, or leave the option out.", param=parameter
        )
    return [name.strip() for name in value.split(",")]


def _job_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="Job", **attributes)


_OPTIONS = (
    _job_option("--layout", metavar="NAME", shell_complete=complete_layout, help="Use the configured layout NAME."),
    _job_option(
        "--lora",
        metavar="NAME|FILE",
        shell_complete=complete_lora,
        help="Use the configured LoRA NAME, an adapter_config.json or run_config.yaml, or the folder of one.",
    ),
    _job_option(
        "--lora-as-canonical",
        is_flag=True,
        help="Plan the file's LoRA or DoRA, one pair for a fused linear, as canonical LoRA.",
    ),
    *(_job_option(f"--{name.replace('_', '-')}", type=int, metavar="N", help=words) for name, words in LAYOUT.items()),
    _job_option("--sp/--no-sp", default=None, help="Sequence parallelism; default: on when tp > 1."),
    _job_option("--dim", type=int, metavar="N", help="LoRA rank of every adapter."),
    _job_option("--alpha", type=float, metavar="X", help="The adapter's output is scaled by alpha / dim."),
    _job_option(
        "--target-modules",
        metavar="LIST",
        callback=_names,
        shell_complete=complete_targets,
        help="Modules to adapt: linear_q,linear_v",
    ),
    _job_option(
        "--exclude-modules", metavar="LIST", callback=_names, help="Modules not to adapt; adapt all other linears."
    ),
    _job_option(
        "--set",
        "set_",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set lora.FIELD, model.FIELD or workload.FIELD to JSON or a word. Repeatable.",
    ),
    _job_option(
        "--device",
        type=click.Choice(["meta", "cpu", "cuda"]),
        help="Where to build the models; default: meta, which takes no memory.",
    ),
    _job_option(
        "--via",
        type=click.Choice(["bridge"]),
        help="Let the installed Megatron-Bridge convert and build the model, as JOB bridge:MODEL does.",
    ),
    _job_option(
        "--model-class",
        type=click.Choice(get_args(ModelClass)),
        help="Build an architecture as megatron-core's GPTModel, the default, or as its HybridModel.",
    ),
    _job_option(
        "--implementation",
        type=click.Choice(get_args(ImplementationName)),
        help="Whose canonical LoRA adapts the model: clora's, or that of the installed Megatron-Bridge.",
    ),
)
