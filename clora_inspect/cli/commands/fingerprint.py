"""`clora-inspect fingerprint PATH`: print the fingerprint of an adapter."""

from __future__ import annotations

from pathlib import Path

import click

from clora_inspect.cli.options.base import Command
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.exit_code import ExitCode


@click.command(cls=Command)
@click.argument("path", metavar="PATH", type=click.Path())
@output_options(("text", "json"), {".json": "json"})
@display_options
@click.pass_context
def fingerprint(context: click.Context, *, path: str, output: Output) -> ExitCode:
    r"""Print the fingerprint of the adapter in PATH, a Hugging Face PEFT folder.

    Two folders have one fingerprint when their A, B and alpha / r are equal in fp32 for every
    linear, whatever layout they were trained on.

    \b
    clora-inspect fingerprint my-adapter
    clora-inspect fingerprint my-adapter -f json
    """
    import msgspec

    from clora.folders.fingerprint import fingerprint as fingerprint_of
    from clora.folders.hf_folder import read_folder

    _refuse_checkpoint(Path(path))
    found = fingerprint_of(read_folder(Path(path)))

    def render(_look: object) -> str:
        if output.format == "json":
            return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
        return f"{found.sha256}\n"

    output.write(render, display_of(context))
    return ExitCode.OK


def _refuse_checkpoint(path: Path) -> None:
    """Raise for a distributed checkpoint, which does not say how Hugging Face calls its linears."""
    from clora.errors import CheckpointError
    from clora.folders.adapter_scales import FILE
    from clora.folders.checkpoint_metadata import INDEX

    if (path / FILE).exists() or (path / INDEX).exists():
        raise CheckpointError(
            f"{path} is a distributed checkpoint, and a fingerprint is of the linears of the Hugging Face model: it "
            "cannot be compared as it is. Load it into the model with clora.load_adapters, write a folder with "
            "clora.export_hf, and give that."
        )
