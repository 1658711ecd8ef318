"""`clora-inspect fingerprint PATH`: print the fingerprint of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.number import Number
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.narration import narrate
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.checkpoint.fingerprint import FoundFingerprint


@click.command(cls=Command)
@click.argument("path", metavar="PATH", type=click.Path())
@click.option(
    "--alpha",
    cls=Option,
    type=Number(min=0, min_open=True),
    help="The alpha of adapters in a checkpoint that does not have it.",
)
@output_options(("text", "json"), {".json": "json"})
@display_options
@click.pass_context
def fingerprint(context: click.Context, *, path: str, alpha: float | None, output: Output) -> ExitCode:
    r"""Print the fingerprint of the adapters in PATH: a Hugging Face PEFT folder, what
    clora.save_adapters wrote, or a distributed checkpoint of Megatron-Bridge or megatron-core.

    It is computed from the tensors. Two paths have one fingerprint when their A, B and alpha / r
    are equal in fp32 for every linear, whatever layout they were trained on.

    \b
    clora-inspect fingerprint my-adapter
    clora-inspect fingerprint checkpoints/iter_0001000 --alpha 32
    clora-inspect fingerprint my-adapter -f json

    Exits with 1 if another fingerprint is written beside the tensors.
    """
    from clora_inspect.checkpoint.fingerprint import fingerprint_of

    output.keep(path)
    found = fingerprint_of(Path(path), alpha)
    output.write(lambda _look: _json(found) if output.format == "json" else f"{found.sha256}\n", display_of(context))
    if found.remark:
        narrate(found.remark)
    return ExitCode.FOUND if found.differs else ExitCode.OK


def _json(found: FoundFingerprint) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
