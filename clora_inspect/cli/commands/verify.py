"""`clora-inspect verify JOB`: carry out the surgery, and prove that nothing else changed and that
everything works.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from clora_inspect.cli.job.chosen_jobs import one_job
from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.configuration import config_options, configuration_of
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.number import Number
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode
from clora_inspect.verify.proof_table import PROOF_NAMES
from clora_inspect.verify.request import LARGEST_SEED, MOST_PROCS, TIMEOUT_S, Dtype, Size

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.verify.report import ProofResult, VerifyReport


def _option(*names: str, **attributes: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=Option, group="Verify", **attributes)


@click.command(cls=Command)
@job_options
@_option(
    "--size",
    type=click.Choice(get_args(Size)),
    default="tiny",
    show_default=True,
    help="A small model with the same kinds of layers; one layer of each kind at its true width; or all of it.",
)
@_option(
    "--procs",
    type=click.IntRange(1, MOST_PROCS),
    default=1,
    metavar="N",
    help="Local processes to run the job's layout on.",
)
@_option(
    "--dtype",
    type=click.Choice(get_args(Dtype)),
    default="float32",
    show_default=True,
    help="Dtype of the parameters.",
)
@_option(
    "--seed",
    type=click.IntRange(0, LARGEST_SEED),
    default=1234,
    show_default=True,
    metavar="N",
    help="Seed of all drawn values.",
)
@_option(
    "--timeout",
    type=Number(1, 86_400),
    default=TIMEOUT_S,
    show_default=True,
    metavar="SECONDS",
    help="Longest time of one proof; after it the exit status is 3.",
)
@_option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    metavar="DIR",
    help="Checkpoint of the base, with --size full: a distributed one of megatron-core; default: drawn values.",
)
@_option(
    "--proof",
    "proofs",
    type=click.Choice(PROOF_NAMES),
    multiple=True,
    help="Run only this proof. Repeatable; default: all of them.",
)
@output_options(("text", "json", "jsonl"), {".json": "json", ".jsonl": "jsonl"})
@click.option("--no-progress", is_flag=True, cls=Option, group="Output", help="Never say what is being done.")
@config_options
@display_options
@click.pass_context
def verify(
    context: click.Context,
    *,
    request: JobRequest,
    size: Any,
    procs: int,
    dtype: Any,
    seed: int,
    timeout: float,
    weights: Path | None,
    proofs: tuple[str, ...],
    output: Output,
    no_progress: bool,
) -> ExitCode:
    r"""Prove the surgery of JOB: nothing changes until training does, every adapter is alive, and
    it merges, saves and exports.

    \b
    clora-inspect verify llama3-8b
    clora-inspect verify qwen3-30b-a3b --tp 2 --ep 2 --etp 1 --procs 4
    clora-inspect verify llama3-70b --size layer
    torchrun --nproc-per-node 8 -m clora_inspect verify llama3-8b --tp 8 --size full --device cuda
    """
    from clora_inspect.cli.stdio.progress import progress
    from clora_inspect.config.working_folder import working_in
    from clora_inspect.verify.job import verify as run
    from clora_inspect.verify.ranks.launch import launched
    from clora_inspect.verify.request import Listener, Request

    if request.device == "meta":
        raise click.BadParameter(
            "verify runs forwards, and tensors on the meta device have no values. Use cpu, or cuda.",
            context,
            param_hint="'--device'",
        )
    display = display_of(context)
    launch = launched()
    # All launched ranks run this command; only the first prints.
    prints = launch is None or launch.is_first
    configured = one_job(configuration_of(context), request, display if prints else replace(display, quiet=True))
    output.keep(request.name, request.lora_name, *configured.sources)
    wanted = Request(
        # Planned on the meta device; `device` below is for the proofs. They compare what any
        # implementation does with clora's plan.
        job=replace(configured.job, device="meta", planned_by="clora"),
        size=size,
        dtype=dtype,
        device="cuda" if request.device == "cuda" else "cpu",
        seed=seed,
        timeout_s=timeout,
        weights=weights,
        procs=procs,
        implementation=configured.implementation,
        proofs=proofs,
    )
    with progress(display, wanted=prints and not no_progress) as doing, working_in(configured.folder):
        report = run(wanted, Listener(doing, _line_printer(output, display) if prints else _print_nothing))
    if prints:
        _write(report, output, display)
        _note_on_cudnn(wanted.device)
    return ExitCode.OK if report.ok else ExitCode.FOUND


def _note_on_cudnn(device: str) -> None:
    """Tell of two releases of cuDNN, which change what real kernels compute."""
    if device == "cuda":
        from clora_inspect.cli.stdio.narration import narrate
        from clora_inspect.machine.cudnn import note_on_this_machine

        note = note_on_this_machine()
        if note:
            narrate(f"note: {note}")


def _print_nothing(_result: ProofResult) -> None:
    """Do nothing: the proof is printed with the report, or by another rank."""


def _line_printer(output: Output, display: Display) -> Callable[[ProofResult], None]:
    """Return a listener that prints each proof as soon as it has ended, for `-f jsonl` on stdout: a
    viewer shows it while the next one runs.
    """
    if output.format != "jsonl" or output.path is not None:
        return _print_nothing

    def line(result: ProofResult) -> None:
        from clora_inspect.formats.verify.json import proof_line

        output.write(lambda _look: proof_line(result), display)

    return line


def _write(report: VerifyReport, output: Output, display: Display) -> None:
    from clora_inspect.formats.verify import json as verify_json
    from clora_inspect.formats.verify import text as verify_text

    if output.format == "text":
        output.write(lambda look: verify_text.render(report, look, failures_only=display.quiet), display)
    elif output.format == "json":
        output.write(lambda _look: verify_json.render(report), display)
    else:
        # On stdout the lines of the proofs are there already.
        proofs = "" if output.path is None else "".join(verify_json.proof_line(each) for each in report.proofs)
        output.write(lambda _look: proofs + verify_json.report_line(report), display)
