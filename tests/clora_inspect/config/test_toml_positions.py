"""Where keys and values of a TOML document stand, held against `tomllib`, which reads the same
document without places.
"""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clora_inspect.config.toml_positions import scan

DOCUMENT = """\
# a comment with [brackets] and = signs
name = "x"   # hello
"quoted.key" = 'lit"eral'
dotted.inner . key = 3

[table]
array = [1, [2, 3],  # comment ]
         "four", { five = 5 }]
date = 1979-05-27 07:32:00
multi = \"\"\"
text with "quotes" and ] [
= \\"\"\"\"\"\"
raw = '''one
two'''

[[aot]]
x = 1
[aot.sub]
y = true
[[aot]]
x = 2.5e3
[deep.er."and er"]
z = -1
inline = { a = 1, b = { c = "}" } , d=[ ] }
"""


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Any]:
    """Every value that is no table and no array."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in leaves(inner, (*path, name)).items()}
    if isinstance(value, list):
        return {key: leaf for number, inner in enumerate(value) for key, leaf in leaves(inner, (*path, number)).items()}
    return {path: value}


def text_at(document: str, line: int, column: int, length: int) -> str:
    return document.split("\n")[line - 1][column - 1 : column - 1 + length]


def test_every_value_has_a_place_and_the_text_there_is_the_value() -> None:
    positions = scan(DOCUMENT)
    for path, value in leaves(tomllib.loads(DOCUMENT)).items():
        span = positions.values[path]
        text = text_at(DOCUMENT, span.line, span.column, span.length)
        if "multi" in path or "raw" in path:
            assert text in ('"""', "'''one")
        else:
            assert tomllib.loads(f"v = {text}")["v"] == value, path


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [
        (("name",), 2, "name"),
        (("quoted.key",), 3, '"quoted.key"'),
        (("dotted", "inner", "key"), 4, "key"),
        (("table",), 6, "table"),
        (("aot", 0), 16, "aot"),
        (("aot", 1), 20, "aot"),
        (("aot", 0, "sub"), 18, "sub"),
        (("deep", "er", "and er"), 22, '"and er"'),
        (("deep", "er", "and er", "inline", "b", "c"), 24, "c"),
    ],
)
def test_keys_have_places_of_their_own(path: tuple[str | int, ...], line: int, text: str) -> None:
    span = scan(DOCUMENT).keys[path]
    assert (span.line, text_at(DOCUMENT, span.line, span.column, span.length)) == (line, text)


def test_lines_may_end_in_carriage_returns() -> None:
    span = scan('a = 1\r\nb = ["x",\r\n  "yy"]\r\n').values["b", 1]
    assert (span.line, span.column, span.length) == (3, 3, 4)


def test_the_document_may_end_without_a_newline() -> None:
    assert scan("a = 1\nb = 22").values["b",].length == 2
    assert scan("a = 1 # comment").values["a",].length == 1


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True)
VALUES = st.recursive(
    st.integers(-99, 99).map(str)
    | st.booleans().map(lambda value: str(value).lower())
    | TEXTS.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(NAMES, inner, max_size=3).map(
            lambda table: f"{{ {', '.join(f'{k} = {v}' for k, v in table.items())} }}"
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.dictionaries(NAMES, VALUES, max_size=3))
def test_the_text_at_every_place_reads_as_the_value_there(top: dict[str, str], below: dict[str, str]) -> None:
    lines = [f"{name} = {value}" for name, value in top.items()]
    lines += ["[table.of-its.own]", *(f"{name}   =   {value} # comment" for name, value in below.items())]
    document = "\n".join(lines)
    try:
        expected = leaves(tomllib.loads(document))
    except tomllib.TOMLDecodeError:
        return
    positions = scan(document)
    for path, value in expected.items():
        span = positions.values[path]
        assert tomllib.loads(f"v = {text_at(document, span.line, span.column, span.length)}")["v"] == value
