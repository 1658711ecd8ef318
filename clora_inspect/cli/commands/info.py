"""`clora-inspect info`: print the facts for a bug report, or the completion script of a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.output import Output, output_options
from clora_inspect.cli.stdio.terminal import print_data
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES = ("torch", "megatron-core", "transformer-engine", "networkx", "textual", "rich", "click", "msgspec")
IMPORT_NAMES = {"megatron-core": "megatron.core", "transformer-engine": "transformer_engine"}
"""Package -> the module that it is imported as, where that has another name."""


@click.command(cls=Command)
@click.option(
    "--completion",
    cls=Option,
    type=click.Choice(["bash", "zsh", "fish"]),
    help="Print the completion script of a shell instead.",
)
@output_options(("text", "json"), {".json": "json"})
@display_options
@click.pass_context
def info(context: click.Context, *, completion: str | None, output: Output) -> ExitCode:
    r"""Show versions and which packages can be imported, for bug reports.

    \b
    eval "$(clora-inspect info --completion bash)"
    """
    if completion:
        print_data(_completion_script(completion))
        return ExitCode.OK
    facts = collect()

    def render(_look: object) -> str:
        return _json(facts) if output.format == "json" else _text(facts)

    output.write(render, display_of(context))
    return ExitCode.OK


def collect() -> dict[str, object]:
    """Return versions, platform, and which packages can be imported. It imports none of them."""
    import os
    import platform

    from clora_inspect.job.versions import versions
    from clora_inspect.machine.cudnn import cudnn_note, cudnn_of_packages, cudnn_of_system

    packages, system = cudnn_of_packages(), cudnn_of_system(os.environ)
    note = cudnn_note(packages, system)
    return {
        # The installed Transformer Engine, which only a GPU uses; not our stand-in for it.
        "versions": versions(device="cuda"),
        "platform": platform.platform(),
        "executable_bits": 64 if platform.architecture()[0] == "64bit" else 32,
        "cpus": os.cpu_count(),
        "cudnn": [str(each) for each in (*packages, *system)],
        "notes": [note] if note else [],
        "importable": {package: _is_importable(IMPORT_NAMES.get(package, package)) for package in PACKAGES},
        # Names only: values may be private, and bug reports are public.
        "environment": sorted(name for name in os.environ if name.startswith("CLORA_INSPECT_")),
    }


def _is_importable(name: str) -> bool:
    # `find_spec("megatron.core")` would import megatron, so its parts are looked for one by one.
    from importlib.machinery import PathFinder
    from importlib.util import find_spec

    top, _, rest = name.partition(".")
    spec = find_spec(top)
    if spec is None or not rest:
        return spec is not None
    return PathFinder.find_spec(name, spec.submodule_search_locations) is not None


def _json(facts: Mapping[str, object]) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(facts), indent=2).decode() + "\n"


def _text(facts: Mapping[str, object]) -> str:
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key:<20} {_word(word)}" for key, word in value.items())]
        else:
            lines.append(f"{name}: {', '.join(value) or 'none' if isinstance(value, list) else _word(value)}")
    return "".join(f"{line}\n" for line in lines)


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _completion_script(shell: str) -> str:
    from click.shell_completion import get_completion_class

    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion for {shell}")
    root = click.get_current_context().find_root().command
    return completion(root, {}, "clora-inspect", "_CLORA_INSPECT_COMPLETE").source() + "\n"
