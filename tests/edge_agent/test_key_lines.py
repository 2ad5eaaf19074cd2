"""Where in a TOML text a key stands, and how a value is written there."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path, PureWindowsPath

import pytest

from edge_agent.configuring.key_lines import key_lines, key_text, line_of, toml_value

TEXT = '''\
# a = 1
a = 1  # b = 2
"b" = "x = 1 # no comment"

c = """
d = 2
"""
e = [
  1,   # one
  [2,
   3],
]
f = {x = 1, y = {z = 2}}
g.h.i = 4
[page]
port = 1
[ "qu.oted" . 'k' ]
q = 'it is \\'
[[many]]
n = 1
[[many]]
n = 2
t = 1979-05-27T07:32:00Z
m = \'\'\'
''two'' quotes\'\'\'
z = """a\\"""" # " "
last = 1e5'''
LINES = {
    ("a",): 2,
    ("b",): 3,
    ("c",): 5,
    ("e",): 8,
    ("e", 0): 9,
    ("e", 1): 10,
    ("e", 1, 0): 10,
    ("e", 1, 1): 11,
    ("f",): 13,
    ("f", "x"): 13,
    ("f", "y", "z"): 13,
    ("g",): 14,
    ("g", "h", "i"): 14,
    ("page",): 15,
    ("page", "port"): 16,
    ("qu.oted", "k", "q"): 18,
    ("many", 0, "n"): 20,
    ("many", 1, "n"): 22,
    ("many", 1, "t"): 23,
    ("many", 1, "m"): 24,
    ("many", 1, "z"): 26,
    ("many", 1, "last"): 27,
}


def test_every_key_table_and_item_has_its_line():
    tomllib.loads(TEXT)
    found = key_lines(TEXT)

    assert {path: found.get(path) for path in LINES} == LINES
    assert ("d",) not in found
    assert ("x",) not in found


def test_every_key_that_tomllib_finds_has_a_line_in_which_it_stands():
    def paths(value, above=()):
        pairs = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for part, inner in pairs:
            yield (*above, part)
            yield from paths(inner, (*above, part))

    found, lines = key_lines(TEXT), TEXT.split("\n")
    for path in paths(tomllib.loads(TEXT)):
        line = lines[found[path] - 1]
        assert not isinstance(path[-1], str) or path[-1] in line


@pytest.mark.parametrize("text", ["[" * 5000, "a = [", "a = {", "a", "= 1", "a = [}", "[[", '"""', "a = "])
def test_what_is_no_toml_ends_without_a_word(text):
    assert set(key_lines(text).values()) <= {1}


def test_cut_texts_always_come_to_an_end():
    rng = random.Random(1)
    for _ in range(300):
        at = rng.randrange(len(TEXT))
        cut = TEXT[:at] + rng.choice("[]{}\"'=#,\n.") + TEXT[at + rng.randrange(3) :]
        assert set(key_lines(cut).values()) <= set(range(1, cut.count("\n") + 2))


def test_a_key_without_a_line_has_that_of_its_table():
    assert line_of({("page",): 4}, ("page", "port")) == 4
    assert line_of({("page",): 4}, ("events", "url")) is None


@pytest.mark.parametrize(
    ("path", "text"),
    [
        pytest.param(("page", "port"), "page.port", id="a table's"),
        pytest.param(
            ("instrument", "pixel_size_nm", "40000"), 'instrument.pixel_size_nm."40000"', id="quoted"
        ),
        pytest.param(("folders", 1), "folders (item 2)", id="an item"),
        pytest.param(("",), '""', id="without a name"),
    ],
)
def test_a_key_is_written_as_a_person_writes_it(path, text):
    assert key_text(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(True, "true", id="bool"),
        pytest.param(1.5, "1.5", id="number"),
        pytest.param(("a", "b"), '["a", "b"]', id="list"),
        pytest.param({"40000": 0.25}, '{"40000" = 0.25}', id="table"),
        pytest.param(PureWindowsPath("D:/data"), r"'D:\data'", id="path of Windows"),
        pytest.param(Path("/it's a \\ path"), '"/it\'s a \\\\ path"', id="both kinds of quotes needed"),
        pytest.param('a\n\x7f"é', '"a\\n\\u007f\\"é"', id="control characters"),
    ],
)
def test_a_value_is_written_so_that_it_reads_back(value, text):
    assert toml_value(value) == text
    back = tomllib.loads(f"k = {text}")["k"]
    assert back == (
        list(value)
        if isinstance(value, tuple)
        else value
        if isinstance(value, bool | float | dict)
        else str(value)
    )


def test_nothing_is_none():
    assert toml_value(None) == "none"
