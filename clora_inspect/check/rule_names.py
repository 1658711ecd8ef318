"""Check that the rules named in a configuration exist, and have the settings that it sets.

`config` cannot check this when it reads the file, because it knows no rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clora_inspect.config.errors import Problem
from clora_inspect.config.key_path import KeyPath, written
from clora_inspect.rules import all_rules
from clora_inspect.rules.base import RuleSettingsError
from clora_inspect.rules.selection import UnknownRuleError, resolved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clora_inspect.config.load import Configuration


def rule_problems(configuration: Configuration) -> list[Problem]:
    """Return a problem for every unknown rule and every setting that a rule does not have."""
    return [*_unknown_rules(configuration), *_unknown_settings(configuration)]


def _unknown_rules(configuration: Configuration) -> Iterator[Problem]:
    rules = all_rules()
    for key, selector in _selectors(configuration):
        try:
            resolved(selector, rules)
        except UnknownRuleError as error:
            yield _problem(configuration, key, str(error))


def _selectors(configuration: Configuration) -> Iterator[tuple[KeyPath, str]]:
    settings = configuration.settings
    for name, selectors in (
        ("select", settings.check.select),
        ("ignore", settings.check.ignore),
        ("extend-select", settings.check.extend_select),
    ):
        for number, selector in enumerate(selectors):
            yield ("check", name, number), selector
    for number, entry in enumerate(settings.allow):
        yield ("allow", number, "rule"), entry.rule


def _unknown_settings(configuration: Configuration) -> Iterator[Problem]:
    rules = {rule.code: rule for rule in all_rules()}
    for code, values in configuration.settings.rules.items():
        key: KeyPath = ("rules", code)
        if code not in rules:
            yield _problem(
                configuration,
                key,
                f"there is no rule {code}; settings stand under a rule's code, such as [rules.CL105]",
            )
            continue
        try:
            rules[code].read_settings(values, rules[code].settings)
        except RuleSettingsError as error:
            yield _problem(configuration, key, str(error))


def _problem(configuration: Configuration, key: KeyPath, message: str) -> Problem:
    location = configuration.location(key)
    # A key that an environment variable or an option set stands in no file: then name its origin.
    return Problem(message, location, "" if location else f"{configuration.origin(key)} {written(key)}")
