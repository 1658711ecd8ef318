"""Parse `--set lora.FIELD=VALUE`, and the same for `model` and `workload`. Pure text."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click

OWNERS = ("lora", "model", "workload")


def parse_assignments(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return owner (one of `OWNERS`) -> field -> value.

    A value is JSON; what is not JSON is a string, so that words need no quotes. The last
    assignment to a field counts.

    Raises:
        BadParameter: a text is no assignment, its owner is none of `OWNERS`, or its
            value begins like a JSON list, object or string and is not valid.
    """
    fields: dict[str, dict[str, Any]] = {owner: {} for owner in OWNERS}
    for text in texts:
        key, equals, value = text.partition("=")
        owner, dot, field = key.strip().partition(".")
        if not equals or not dot or not field:
            raise _bad(
                text, "write lora.FIELD=VALUE, model.FIELD=VALUE or workload.FIELD=VALUE, for example lora.dropout=0.1"
            )
        if owner not in OWNERS:
            near = get_close_matches(owner, OWNERS, n=1)
            raise _bad(
                text,
                f"'{owner}' is none of {', '.join(OWNERS)}" + (f". Did you mean {near[0]}.{field}?" if near else ""),
            )
        fields[owner][field] = _value(text, value.strip())
    return fields


def _value(text: str, value: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        # It was meant as JSON, so taking it for a string would hide the mistake.
        if value[:1] in tuple('[{"'):
            raise _bad(
                text,
                f"the value is no JSON ({error}). A shell removes quotes, so put single quotes around it all: "
                f'--set \'{text.partition("=")[0]}=["a", "b"]\'',
            ) from None
        return value


def _bad(text: str, why: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r}: {why}", param_hint="--set")
