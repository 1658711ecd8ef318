"""The positions of keys and values in TOML documents, compared with what `tomllib` reads there."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    """Return every value that is neither a table nor an array, by its path."""
    if isinstance(value, dict):
        return {key: leaf for name, inner in value.items() for key, leaf in leaves(inner, (*path, name)).items()}
    if isinstance(value, list):
        return {key: leaf for number, inner in enumerate(value) for key, leaf in leaves(inner, (*path, number)).items()}
    return {path: value}


def text_at(document: str, line: int, column: int, length: int) -> str:
    return document.split("\n")[line - 1][column - 1 : column - 1 + length]


def assert_every_value_is_found(document: str) -> None:
    """Parse the text at every position again: it must be the value that `tomllib` has there."""
    positions = scan(document)
    for path, value in leaves(tomllib.loads(document)).items():
        place = positions.values[path]
        text = text_at(document, place.line, place.column, place.length)
        if text.startswith(('"""', "'''")):
            # Only the first line is in the range. That the end was found shows at what follows.
            continue
        assert tomllib.loads(f"v = {text}") == {"v": value}, path
        assert isinstance(value, str) or "#" not in text, "the comment behind it is no part of a value"


# Each document has one thing that a scanner can get wrong, and a key behind it.
DOCUMENTS = [
    DOCUMENT,
    # strings: where they end
    'a = "\\"quoted\\""\nb = 1',
    'a = "ends with a backslash \\\\"\nb = 1',
    "a = 'no escape \\'\nb = 1",
    "a = ''\nb = \"\"\nc = 1",
    'a = """text with "" inside"""\nb = 1',
    'a = """its last two characters are quotes"""""\nb = 1',
    "a = '''its last character is a quote''''\nb = 1",
    'a = """escaped \\""" quotes"""\nb = 1',
    'a = """over\nlines \\\n   joined"""\nb = 1',
    'a = "[not] an {array} = # no comment"\nb = 1',
    # other scalars: what ends them
    "a = [1,2 ,3\t, 4]\nb = {c=1,d=2 }",
    'a = 1# comment\nb = 2 # "comment" = 3\n',
    "a = 1979-05-27 07:32:00.5-07:00\nb = 07:32:00\nc = 1",
    "a = 0x1f\nb = -inf\nc = 1_000.5e+3\nd = true",
    # arrays and inline tables
    "a = []\nb = {}\nc = [[], [[]], {}]\nd = 1",
    "a = [\n  1, # one ]\n  [2, # }\n  3,],\n\n]\nb = 1",
    "a = { b = { c = [{ d = 1 }, { d = 2 }] }, e.f.g = 3 }\nh = 4",
    # keys
    '"a.b" . \'c"d\' . e = 1\nf = 2',
    '"\\u00e9\\t\\"" = 1\nb = 2',
    '"" = 1\n1 = 2\n3.1 = 4\n- = 5',
    # tables
    "[ a . b ]\nc = 1\n[ a ]\nd = 2\n[a.b.e]#\nf = 3",
    "[[a]]\n[[a]]\nb = 1\n[[a.c]]\nd = 2\n[[a.c]]\nd = 3\n[a.c.e]\nf = 4\n[[a]]\n[[a.c]]\nd = 5",
    # ends of lines, and of the document
    "\n\r\n\t a = 1\r\nb = [\r\n2]\r\n[c]\r\nd = 3",
    "a = 1\n\n# last",
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_text_at_every_position_is_the_value(document: str) -> None:
    assert_every_value_is_found(document)


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
    place = scan(DOCUMENT).keys[path]
    assert (place.line, text_at(DOCUMENT, place.line, place.column, place.length)) == (line, text)


def test_lines_may_end_in_carriage_returns() -> None:
    place = scan('a = 1\r\nb = ["x",\r\n  "yy"]\r\n').values["b", 1]
    assert (place.line, place.column, place.length) == (3, 3, 4)


def test_the_document_may_end_without_a_newline() -> None:
    assert scan("a = 1\nb = 22").values["b",].length == 2
    assert scan("a = 1 # comment").values["a",].length == 1


# The documents above have what is known to be difficult; these find what nobody thought of. They
# are small and few because drawing them is slow: a scanner fails where two kinds of value meet, and
# four leaves make every such pair.
TEXTS = st.text("\"\\'#,]}= é", max_size=4)
NAMES = st.text("ab_-1", min_size=1, max_size=2)
VALUES = st.recursive(
    st.sampled_from(["-7", "true", "1.5"]) | TEXTS.map(lambda text: json.dumps(text, ensure_ascii=False)),
    lambda inner: (
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(NAMES, inner, max_size=2).map(
            lambda table: f"{{ {', '.join(f'{k} = {v}' for k, v in table.items())} }}"
        )
    ),
    max_leaves=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=2), st.dictionaries(NAMES, VALUES, max_size=1))
def test_the_text_at_every_position_is_the_value_in_random_documents(
    top: dict[str, str], below: dict[str, str]
) -> None:
    lines = [f"{name} = {value}" for name, value in top.items()]
    lines += ["[table.of-its.own]", *(f"{name}   =   {value} # comment" for name, value in below.items())]
    assert_every_value_is_found("\n".join(lines))
