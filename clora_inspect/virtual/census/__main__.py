"""The command `python -m clora_inspect.virtual.census PATH`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from clora_inspect.virtual.census.core_tree import NotACoreTreeError
from clora_inspect.virtual.census.report import take_census, without_names_of
from clora_inspect.virtual.census.text import render

# The meanings are those of `clora_inspect.exit_code`, which is a layer above the virtual world.
_OK, _FOUND, _USAGE = 0, 1, 2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--since", type=click.Path(path_type=Path), help="Another tree: leave out names that it asks for as well."
)
@click.option("-f", "--format", "form", type=click.Choice(["text", "json"]), default="text", help="Default: text.")
def census(path: Path, since: Path | None, form: str) -> None:
    """List what the megatron-core source tree at PATH asks of Transformer Engine, Triton and other
    packages, and what clora-inspect's stand-ins lack.

    PATH is a checkout of Megatron-LM, or another folder that holds megatron/core, such as
    site-packages. It is read as text: nothing of it is imported.

    Exit status: 0 if everything is there that megatron-core cannot be imported without, 1 if a
    name is missing or a file cannot be read, 2 if PATH is no such tree.
    """
    try:
        report = take_census(path)
        if since is not None:
            report = without_names_of(report, take_census(since))
    except NotACoreTreeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_USAGE)
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(report)))
    else:
        click.echo(render(report, str(path)), nl=False)
    sys.exit(_OK if report.is_clean else _FOUND)


if __name__ == "__main__":
    census(prog_name="python -m clora_inspect.virtual.census")
