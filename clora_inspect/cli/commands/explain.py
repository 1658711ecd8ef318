"""`clora-inspect explain THING`: explain a rule, a key of the configuration, or a module."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from clora_inspect.cli.options.base import Command, Option
from clora_inspect.cli.options.completion import complete_rules
from clora_inspect.cli.options.configuration import config_options
from clora_inspect.cli.options.display import display_of, display_options
from clora_inspect.cli.options.job import job_options
from clora_inspect.cli.options.output import Output
from clora_inspect.config.job_request import JobRequest
from clora_inspect.exit_code import ExitCode

if TYPE_CHECKING:
    from clora_inspect.cli.stdio.display import Display
    from clora_inspect.config.key_path import KeyPath
    from clora_inspect.rules.base import Rule

_STDOUT = Output("text", None)
"""A page for people has no other formats, so the command has no options for its output."""


@click.command(cls=Command)
@click.argument("thing", metavar="THING", required=False, shell_complete=complete_rules)
@click.option("--all", "all_", is_flag=True, cls=Option, group="View", help="List all rules, one a line.")
@job_options
@config_options
@display_options
@click.pass_context
def explain(context: click.Context, *, thing: str | None, all_: bool, request: JobRequest) -> ExitCode:
    r"""Explain THING: a rule, a key of the configuration, or why a module of JOB is adapted or not.

    A module may have the path that it has in the Hugging Face model.

    \b
    clora-inspect explain --all
    clora-inspect explain CL101
    clora-inspect explain unmatched-target
    clora-inspect explain check.fail-on
    clora-inspect explain decoder.layers.0.mlp.linear_fc2 llama3-8b --tp 4 --pp 2
    """
    display = display_of(context)
    if all_:
        if thing is not None:
            raise click.UsageError(f"--all lists the rules; '{thing}' asks for one thing. Leave one of them out.")
        from clora_inspect.formats.rules.listing import render as render_list

        _STDOUT.write(render_list, display)
        return ExitCode.OK
    if thing is None:
        raise click.UsageError("THING is missing: a rule, a key or a module. All rules: clora-inspect explain --all")
    # With a JOB, THING can only be one of its modules.
    if request.name:
        _explain_module(context, thing, request)
        return ExitCode.OK
    rule = _rule(thing)
    if rule is not None:
        from clora_inspect.formats.rules.page import render

        _STDOUT.write(lambda look: render(rule, look), display)
        return ExitCode.OK
    key = _key(thing)
    if key is not None:
        _explain_key(key, display)
        return ExitCode.OK
    raise click.UsageError(_unknown(thing), context)


def _explain_module(context: click.Context, thing: str, request: JobRequest) -> None:
    from clora_inspect.cli.job.requested_plan import requested_plan
    from clora_inspect.formats.plan.module_page import render
    from clora_inspect.formats.plan.module_search import find, similar

    plan = requested_plan(context, request).plan
    found = find(plan, thing)
    if not found:
        raise click.UsageError(f"{request.name} has no module '{thing}'. {similar(plan, thing)}")
    _STDOUT.write(lambda look: render(plan, found, look), display_of(context))


def _explain_key(key: KeyPath, display: Display) -> None:
    from clora_inspect.config.key_page import described, page

    node = described(key)
    lines = page(key, node) if node is not None else []
    _STDOUT.write(lambda look: "".join(f"{look.paint(line)}\n" for line in lines), display)


def _rule(thing: str) -> type[Rule] | None:
    from clora_inspect.rules import all_rules

    return next((rule for rule in all_rules() if thing.upper() == rule.code or thing == rule.name), None)


def _key(thing: str) -> KeyPath | None:
    from clora_inspect.config.key_page import described, key_of

    key = key_of(thing)
    return key if key is not None and described(key) is not None else None


def _unknown(thing: str) -> str:
    from clora_inspect.rules import all_rules

    known = [name for rule in all_rules() for name in (rule.code, rule.name)]
    # Codes are in capitals, names in small letters.
    near = get_close_matches(thing.upper(), known, n=2) or get_close_matches(thing, known, n=2)
    if near:
        return f"nothing is called '{thing}'. Did you mean {' or '.join(near)}?"
    if "." in thing:
        return (
            f"'{thing}' is no key of the configuration. For a module, name its job as well: "
            f"clora-inspect explain {thing} JOB"
        )
    return (
        f"nothing is called '{thing}'. It can be a rule (CL101; all of them: clora-inspect explain --all), "
        "a key of the configuration (check.fail-on), or a module of a JOB."
    )
