"""The options that say what a job is, for every command that takes one; and what they make: a `Job`.

Only what the user gave is kept, so that a configuration may fill the rest: `JobRequest` knows what was said, `job_of` what it means.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import click

from clora_inspect.cli.assignments import parse_assignments
from clora_inspect.cli.completion import complete_job, complete_targets
from clora_inspect.cli.options import Option

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from clora_inspect.job import Job

    Command = Callable[..., Any]
    Device = Literal["meta", "cpu", "cuda"]

LAYOUT = {
    "tp": "Ranks on the tensor-parallel axis.",
    "pp": "Pipeline stages.",
    "vpp": "Model chunks on each rank of an interleaved pipeline.",
    "cp": "Ranks on the context-parallel axis.",
    "ep": "Ranks that share the routed experts.",
    "etp": "Tensor-parallel ranks of each routed expert.",
    "world_size": "Ranks of the whole job; default: the smallest world that holds the layout.",
}
"""Field of `Layout` -> help of its option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What the user said about the job, and nothing that he did not say."""

    name: str
    """JOB itself."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    lora: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    device: Device | None = None

    @property
    def changes_anything(self) -> bool:
        """Whether anything but the name was said."""
        return bool(self.layout or self.lora or self.model or self.device)


def job_options(command: Command) -> Command:
    """Add JOB and its options; the command gets them as one `JobRequest` called `request`."""
    return _with_job(command, required=True)


def optional_job_options(command: Command) -> Command:
    """The same for a command that asks when JOB is left out; its name is empty then."""
    return _with_job(command, required=False)


def _with_job(command: Command, *, required: bool) -> Command:

    @wraps(command)
    def collected(*, job: str, set_: tuple[str, ...], device: Device | None, **values: Any) -> Any:
        layout = {name: values.pop(name) for name in (*LAYOUT, "sp")}
        lora = {name: values.pop(name) for name in ("dim", "alpha", "target_modules", "exclude_modules")}
        assigned = parse_assignments(set_)
        request = JobRequest(
            name=job,
            layout=_given(layout),
            lora=_merged(_given(lora), assigned["lora"]),
            model=assigned["model"],
            device=device,
        )
        return command(request=request, **values)

    optioned: Command = collected
    for option in reversed(_OPTIONS):
        optioned = option(optioned)
    metavar = "JOB" if required else "[JOB]"
    return click.argument("job", required=required, metavar=metavar, shell_complete=complete_job, callback=_job_name)(
        optioned
    )


def job_of(request: JobRequest) -> Job:
    """The job that `request` describes.

    Raises:
        CloraError: a layout or a LoRA that cannot be.
        UsageError: `--set lora.FIELD` names no field of `CanonicalLoRA`.
    """
    from clora.canonical_lora import CanonicalLoRA
    from clora_inspect.job import Job
    from clora_inspect.layout import Layout

    known = [each.name for each in fields(CanonicalLoRA) if each.init]
    for name in request.lora:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"Did you mean lora.{near[0]}?" if near else f"Its fields: {', '.join(known)}."
            raise click.BadParameter(f"CanonicalLoRA has no field '{name}'. {hint}", param_hint="--set")
    lora = dict(request.lora)
    if lora.get("exclude_modules") and "target_modules" not in lora:
        # Excluding means: all linears but these.
        lora["target_modules"] = []
    return Job(
        model=request.name,
        lora=CanonicalLoRA(**lora),
        layout=Layout(**request.layout),
        model_overrides=request.model,
        targets_written=bool(lora.get("target_modules")),
        device=request.device or "meta",
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _merged(options: dict[str, Any], assigned: dict[str, Any]) -> dict[str, Any]:
    for name in options.keys() & assigned.keys():
        if options[name] != assigned[name]:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(
                f"{option} and --set lora.{name}={assigned[name]} contradict each other. Leave one out."
            )
    return options | assigned


def _job_name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """Refuse an empty JOB, which a path would take for the current folder. One that was left out is empty."""
    if value is not None and not value.strip():
        raise click.BadParameter("JOB is empty. Is a variable of the shell not set?", param=parameter)
    return value or ""


def _names(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """A comma-separated list.

    Raises:
        BadParameter: it is empty, as an unset variable of a shell makes it.
    """
    if value is None:
        return None
    if not value.strip():
        raise click.BadParameter(
            "the list is empty. Name modules with commas between, or leave the option out.", param=parameter
        )
    return [name.strip() for name in value.split(",")]


def _job_option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    return click.option(*names, cls=Option, group="Job", **attributes)


_OPTIONS = (
    *(_job_option(f"--{name.replace('_', '-')}", type=int, metavar="N", help=words) for name, words in LAYOUT.items()),
    _job_option("--sp/--no-sp", default=None, help="Sequence parallelism; default: on when tp > 1."),
    _job_option("--dim", type=int, metavar="N", help="LoRA rank of every adapter."),
    _job_option("--alpha", type=float, metavar="X", help="Adapters are scaled by alpha / dim."),
    _job_option(
        "--target-modules",
        metavar="LIST",
        callback=_names,
        shell_complete=complete_targets,
        help="What to adapt: linear_q,linear_v",
    ),
    _job_option("--exclude-modules", metavar="LIST", callback=_names, help="Adapt all linears but these."),
    _job_option(
        "--set",
        "set_",
        multiple=True,
        metavar="KEY=VALUE",
        help="lora.FIELD or model.FIELD; JSON or a word. Repeatable.",
    ),
    _job_option(
        "--device",
        type=click.Choice(["meta", "cpu", "cuda"]),
        help="Where the models are built; default: meta, which takes no memory.",
    ),
)
