"""In which line of a TOML text each key, table and list item stands, and how a value is written there.

`tomllib` says what is written, not where. This reads the text once more, after `tomllib` has found it sound, and
understands no more of it than the ends of strings, lists and tables.
"""

from __future__ import annotations

import contextlib
import json
import re
import tomllib
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

KeyPath = tuple[str | int, ...]
"""For example ("page", "port"), or ("folders", 0) for the first item of a list."""

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY_PART: Final = re.compile(r"""[ \t]*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)[ \t]*(\.?)""")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|' r"'''(?:[^']|'(?!''))*'{3,5}|" r'"(?:[^"\\\n]|\\.)*"|' r"'[^'\n]*'",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line (from 1) of every key, table and list item in a sound TOML text.

    What cannot be made out is left out; nothing is raised.
    """
    reader = _Reader(text)
    with contextlib.suppress(ValueError, RecursionError):
        reader.read()
    return reader.lines


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """Return the line of a key, or of the nearest table or list that it stands in; None where it is not there."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return None


def key_text(path: KeyPath) -> str:
    """Return a key as one writes it: `page.port`, `instrument.pixel_size_nm."40000"`, `folders (item 1)`."""
    names = [_quoted_where_needed(part) for part in path if isinstance(part, str)]
    items = [f" (item {part + 1})" for part in path if isinstance(part, int)]
    return ".".join(names) + "".join(items)


def toml_value(value: object) -> str:
    r"""Return a value as TOML; paths of Windows in single quotes, where a backslash is only that.

    None, for which TOML has no word, is `none`.
    """
    if value is None:
        return "none"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{json.dumps(str(key))} = {toml_value(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    text = str(value)
    if "\\" in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


class _Reader:
    """One pass through the text. Raises ValueError where it is not what was expected."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: Counter[KeyPath] = Counter()
        self.lines: dict[KeyPath, int] = {}

    def read(self) -> None:
        """Fill `lines`."""
        table: KeyPath = ()
        while self._next():
            table = self._statement(table)

    def _statement(self, table: KeyPath) -> KeyPath:
        """Read one header or one `key = value`; return the table that what follows stands in."""
        brackets = 2 if self._text.startswith("[[", self._at) else 1 if self._next() == "[" else 0
        self._at += brackets
        line = self._line()
        path = (*(() if brackets else table), *self._key())
        if brackets:
            self._at += brackets
            if brackets == 2:
                self._tables[path] += 1
                path = (*path, self._tables[path] - 1)
            self._note(path, line)
            return path
        self._pair(path, line)
        return table

    def _pair(self, path: KeyPath, line: int) -> None:
        self._note(path, line)
        self._expect("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._next()
        if first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        elif first in ('"', "'"):
            self._skip(_STRING)
        else:
            self._skip(_BARE)

    def _list(self, path: KeyPath) -> None:
        self._expect("[")
        number = 0
        while self._next() != "]":
            self._note((*path, number), self._line())
            self._value((*path, number))
            number += 1
            if self._next() == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._expect("{")
        while self._next() != "}":
            line = self._line()
            self._pair((*path, *self._key()), line)
            if self._next() == ",":
                self._at += 1
        self._at += 1

    def _key(self) -> KeyPath:
        parts: list[str] = []
        more = True
        while more:
            match = _KEY_PART.match(self._text, self._at)
            if match is None:
                raise ValueError("no key")
            self._at = match.end()
            written, more = match[1], bool(match[2])
            parts.append(tomllib.loads(f"k = {written}")["k"] if written[0] in "\"'" else written)
        return tuple(parts)

    def _note(self, path: KeyPath, line: int) -> None:
        # A dotted key stands for the tables above it, too.
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)
        self.lines[path] = min(line, self.lines[path])

    def _next(self) -> str:
        """Pass over blanks and comments; return the character there, "" at the end."""
        self._skip(_BLANK)
        return self._text[self._at : self._at + 1]

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise ValueError(f"no {character}")
        self._at += 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError("no end")
        self._at = match.end()

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)


def _quoted_where_needed(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", part) else json.dumps(part, ensure_ascii=False)
