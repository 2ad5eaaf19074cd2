"""What is wrong with a configuration, in plain words: which key, what was seen, what is wanted.

What a key wants is read from the schema, so that no sentence here can contradict it.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

from edge_agent.configuring.key_lines import KeyPath, key_text, toml_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pydantic_core import ErrorDetails

Schema = dict[str, Any]

_LONGEST_VALUE: Final = 60
_LIKENESS: Final = 0.7
"""Of two names, as difflib measures it: a slip of the finger, and no more."""
_KINDS: Final = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text in quotes",
    "object": "a table of its own",
}
_BACKSLASH: Final = (
    "in double quotes a backslash means something else; write paths of Windows in single quotes"
)
_TOML_HINTS: Final = (
    ("Unescaped '\\'", _BACKSLASH),
    ("Invalid hex value", _BACKSLASH),
    ("Invalid value", "a text stands in quotes; true and false are written in small letters"),
    ("Expected '=' after a key", "a line is a key, an = and a value"),
    ("Expected newline", "a line is one key, an = and one value; decimals have a point, not a comma"),
    ("Cannot overwrite a value", "this key stands twice"),
    ("Cannot declare", "this table stands twice; put its keys together"),
    ("Unclosed array", "a list ends with ]"),
)
_PLACE_IN_TOML: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class ConfigRefused(Exception):
    """The configuration cannot be used; the text names the file, the line, the key and the reason, a line each."""


def reason_of(error: ErrorDetails, schema: Schema) -> tuple[KeyPath, str]:
    """Return the key that one of pydantic's errors is about, and what is wrong with it."""
    path: KeyPath = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] == "extra_forbidden":
        return path, _unknown_key(path, schema)
    if error["type"] == "value_error":
        return path, error["msg"].removeprefix("Value error, ")
    wanted = wanted_text(at_path(schema, path))
    seen = _shortened(toml_value(error["input"]))
    hint = ""
    if path[:-1] == ("instrument", "pixel_size_nm") and isinstance(error["input"], dict):
        hint = '; a magnification with a point in it needs quotes, for example "2.5"'
    return path, f"is {seen}, must be {wanted}{hint}"


def wanted_text(schema: Schema) -> str:
    """Return what a key wants, for example `a number between 0.05 and 600`."""
    if schema.get("type") == "array":
        items = wanted_text(schema.get("items", {})).removeprefix("a ")
        return f"a list in brackets, each item a {items}"
    if schema.get("type") == "string" and schema.get("format") == "path":
        return "a path in quotes"
    kind = _KINDS.get(str(schema.get("type")), "another value")
    least, most = schema.get("minimum"), schema.get("maximum")
    return kind if least is None or most is None else f"{kind} between {least:.10g} and {most:.10g}"


def at_path(schema: Schema, path: KeyPath) -> Schema:
    """Return what a schema says of one key, with references followed and "or nothing" left out; {} if nothing."""
    found = _resolved(schema, schema)
    for part in path:
        if isinstance(part, int):
            inner = found.get("items", {})
        else:
            inner = found.get("properties", {}).get(part) or found.get("additionalProperties") or {}
        found = _resolved(inner if isinstance(inner, dict) else {}, schema)
    return found


def known_keys(schema: Schema, table: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield every key that has a value, those of tables below `table` included, in their order."""
    for name in at_path(schema, table).get("properties", {}):
        path = (*table, name)
        inner = tuple(known_keys(schema, path))
        yield from inner or (path,)


def toml_complaint(error: ValueError, text: str) -> tuple[int | None, str]:
    """Return the line in which a text is no TOML, where that is known, and why."""
    said = str(error)
    place = _PLACE_IN_TOML.search(said)
    what = said[: place.start()] if place else said
    line, column = None, ""
    if place is not None and place[1]:
        line, column = int(place[1]), f" (column {place[2]})"
    elif place is not None:
        line = max(1, len(text.splitlines()))
    else:  # a number of thousands of digits, of which only Python speaks
        digits = re.search(r"[0-9][0-9_]{4000}", text)
        line = None if digits is None else text.count("\n", 0, digits.start()) + 1
    hint = next((f"; {hint}" for start, hint in _TOML_HINTS if what.startswith(start)), "")
    return line, f"is not valid TOML: {what}{column}{hint}"


def _unknown_key(path: KeyPath, schema: Schema) -> str:
    """Say that there is no such key, and which was meant: of this name elsewhere, or nearly of this name."""
    table, name = path[:-1], str(path[-1])
    said = f"there is no such key in [{key_text(table)}]" if table else "there is no such key"
    known = list(known_keys(schema))
    for other in known:
        if other[-1] == name:
            return f"{said}; {_where_it_belongs(other)}"
    here = list(at_path(schema, table).get("properties", {}))
    near = [key for key in here if key.startswith(f"{name}_")] or _alike(name, here)
    if near:
        return f"{said}; did you mean {key_text((*table, near[0]))}?"
    names = {str(other[-1]): key_text(other) for other in known}
    return said + "".join(f"; did you mean {names[other]}?" for other in _alike(name, names))


def _alike(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), 1, _LIKENESS)


def _where_it_belongs(known: KeyPath) -> str:
    if len(known) == 1:
        return f"{known[0]} belongs above the first [table] of the file"
    return f"{known[-1]} belongs below [{key_text(known[:-1])}]"


def _resolved(schema: Schema, top: Mapping[str, Any]) -> Schema:
    """Follow a reference, and take the part of `anyOf` that is not null; what stands beside it stays."""
    if "$ref" in schema:
        target = top["$defs"][schema["$ref"].rpartition("/")[2]]
        return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            beside = {key: value for key, value in schema.items() if key != "anyOf"}
            return {**_resolved(choice, top), **beside}
    return schema


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
