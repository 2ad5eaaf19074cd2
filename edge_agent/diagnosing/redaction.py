"""Text without names: of people, PCs, folders, files, addresses and keys; the same name gets the same token.

Nothing is searched for that might be a name: a word stays only when it is one of the agent's own (`vocabulary`),
a number or a time; the rest is replaced. Before that, paths are taken as a whole, because a folder may be called by
a word that the agent uses too. Tokens are numbered in the order of appearance. Standard library only.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from edge_agent.diagnosing.vocabulary import USUAL_NAMES, WORD, bare, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NOBODY: Final = frozenset(
    {"root", "system", "localservice", "networkservice", "local service", "network service", "administrator",
     "scopewatch", "user", "admin", "localhost", "nobody"}
)  # fmt: skip
"""Accounts and hosts that every PC has."""
_KNOWN_ENDS: Final = (
    "dm3", "dm4", "dm5", "ser", "emi", "emd", "mrc", "mrcs", "tif", "tiff", "png", "jpg", "jpeg", "bmp", "json",
    "toml", "log", "txt", "part", "tmp", "npz", "onnx", "sqlite", "lock", "py", "zip", "exe", "dll", "csv",
)  # fmt: skip
_END: Final = rf"\.(?:{'|'.join(_KNOWN_ENDS)})"
_OUR_SUFFIXES: Final = re.compile(r"(?:\.heatmap\.png|\.label\.json|\.json|\.tmp|\.\d+)+$", re.IGNORECASE)
_FILE_END: Final = re.compile(_END + r"$", re.IGNORECASE)
_BARE_FILE: Final = re.compile(rf"\S{_END}(?=$|[\s:;,'\")\]>|.])", re.IGNORECASE)
_PATH_FILE: Final = re.compile(rf".*?{_END}(?=$|[\s:;,'\")\]>|])", re.IGNORECASE)
_PATH_START: Final = re.compile(
    r"(?<![A-Za-z0-9])[A-Za-z]:[\\/]|(?<![\\\w])\\\\+(?=[\w?.%])|(?<![\w:/.\\%~-])//?(?=[^/\s])|(?<![\w.])(?:~|\.\.?)[\\/]"
)
_NEXT_PATH: Final = re.compile(r"[:;,(=] ?(?:/[^/\s]|[A-Za-z]:[\\/]|\\\\)|['\"]| -> |\s(?:and|or|to|from) /")
_PATH_STOP: Final = re.compile(r": |; | \(|  | -> |['\"`|<>]|, (?=[A-Za-z]:[\\/]|/|\\\\)|[:;,.]?$")
_WORD_START: Final = re.compile(r"(?<![^\s'\"(\[=:,;])\S")
_SEGMENT: Final = re.compile(
    r"(: |; |, | \(|  | -> |[\"'`=\[\]|<>()]|\b(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b)"
)
_URL: Final = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{1,20})://[^\s\"'<>]*")
_LOOPBACK: Final = re.compile(r"https?://(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?(?=/|$)", re.IGNORECASE)
_SECRET: Final = re.compile(
    r"((?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|private[_-]?key|authorization|credentials?|bearer|cookie)"
    r"[\"']?\s*[=:]\s*(?:(?:bearer|basic)\s+)?|\b(?:bearer|basic)\s+)(\"[^\"]*\"|'[^']*'|[^\s,;]+)",
    re.IGNORECASE,
)
_SECRET_KEY: Final = re.compile(
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|private|authorization|credential|trusted_keys|signature",
    re.IGNORECASE,
)
_ADDRESS: Final = re.compile(
    r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)|(?<![\w:-])(?:[0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}(?![\w:-])"
    r"|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}(?![\w:])|(?<![\w:])(?:[0-9a-fA-F]{0,4}:){1,6}:[0-9a-fA-F:]+"
)
_OWN_ADDRESSES: Final = frozenset({"127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104 - names of addresses, none is bound
_NUMBER: Final = re.compile(
    r"[+~-]?\d+(?:[.,]\d+){0,2}(?:e[+-]?\d+)?(?:%|s|ms|px|nm|MiB|GiB|KiB|B|bit)?|\d+x\d+|0x[0-9a-f]{1,8}|v?\d+(?:\.\d+){1,3}"
    r"|\d{4}-\d\d-\d\d(?:T\d\d)?|\d\d(?:\.\d+)?Z",
    re.IGNORECASE,
)
_PATH_KEYS: Final = frozenset({"path", "folder", "folders", "output", "file"})
_PERHAPS_PATH_KEYS: Final = frozenset({"state", "model", "config", "heatmap"})
"""These also hold one word of the agent's own."""
_LABORATORY_KEYS: Final = frozenset({"instrument", "microscope", "camera", "host", "node"})
_PATTERN_KEYS: Final = frozenset({"include", "exclude"})
_LONGEST_NAME: Final = 256
_LONGEST_PATH: Final = 1024
_PRIVATE_AREAS: Final = frozenset({"home", "users"})
_SLASHES: Final = re.compile(r"([\\/]+)")


class Redactor:
    """Replaces names. One object for one archive: its tokens count up, and mean the same everywhere in it."""

    def __init__(
        self,
        words: frozenset[str],
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
        roots: Iterable[str] = (),
        models: Iterable[str] = (),
    ) -> None:
        """`roots` are folders known whole, so that a blank in their names ends no path; `models` those shipped."""
        self._words = words
        self._usual = USUAL_NAMES | {canonical(name) for name in models}
        self._users = {canonical(name) for name in users if len(name) > 1} - NOBODY
        self._hosts = {canonical(name) for name in hosts if len(name) > 1} - NOBODY
        spellings = {spelling for root in roots for spelling in _spellings(root)}
        ordered = sorted(spellings, key=len, reverse=True)
        self._roots = re.compile("|".join(map(re.escape, ordered)) or r"(?!)", re.IGNORECASE)
        self._numbers: dict[str, dict[str, int]] = {}
        self._files: set[str] = set()
        self._known: dict[str, str] = {}

    def learn_file(self, name: str) -> None:
        """Note the name of a file, so that it is known where it stands in a text without its folder."""
        self._files.add(canonical(_OUR_SUFFIXES.sub("", name)))

    def value(self, value: Any, key: str = "") -> Any:  # noqa: ANN401 - any JSON
        """Return a JSON value without names; keys stay when they are the agent's own."""
        if isinstance(value, dict):
            inner = key if key in _LABORATORY_KEYS else ""
            return {
                self._key(str(name)): self.value(item, inner or str(name)) for name, item in value.items()
            }
        if isinstance(value, list):
            return [self.value(item, key) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if _SECRET_KEY.search(key):
            return self._token("secret", str(value))
        return self._text_of_key(value, key) if isinstance(value, str) else value

    def _text_of_key(self, value: str, key: str) -> str:
        """What some keys hold is known: a path is taken whole; what an instrument is called is a name."""
        if key == "model" and not re.search(r"[\\/]", value):
            return self.text(value)  # a name, perhaps with its version
        if key in _PATH_KEYS or (key in _PERHAPS_PATH_KEYS and not self._is_ours(value)):
            return self.path(value)
        if key in _LABORATORY_KEYS:
            return self._token("text", value)
        if key in _PATTERN_KEYS:
            return value if re.fullmatch(rf"\*{_END}", value) else self._token("pattern", value)
        return self.text(value)

    def _key(self, key: str) -> str:
        plain = canonical(key)
        return key if plain in self._words and not plain.startswith("/") else self.text(key)

    def package(self, name: str) -> str:
        """Return the name of an installed package, unless it is called after this PC's user or host."""
        parts = {canonical(part) for part in re.split(r"[-_.]", name)}
        return self._token("package", name) if parts & (self._users | self._hosts) else name

    def text(self, text: str) -> str:
        """Return a text, of one or several lines, without names."""
        return "\n".join(self._line(line) for line in text.split("\n"))

    def path(self, path: str) -> str:
        """Return a path: known places stay, every other folder and file is a token."""
        splitter = _SLASHES if "\\" in path and not path.startswith("/") else re.compile(r"(/+)")
        parts = splitter.split(path)
        is_share = bool(re.match(r"\\\\+[^?.\\]", path)) or path.startswith("//")
        told, before = [], ""
        for number, part in enumerate(parts):
            if number % 2 or not part:
                told.append(part)
                continue
            first_of_share = is_share and not before
            told.append(self._token("host", part) if first_of_share else self._component(part, before))
            before = canonical(part)
        return "".join(told)

    def _component(self, part: str, before: str) -> str:
        plain = canonical(part)
        if plain in self._users or (before in _PRIVATE_AREAS and plain not in self._usual):
            return self._person(part)
        if plain in self._hosts:
            return self._token("host", part)
        if re.fullmatch(r"[A-Za-z]:|\.{1,2}|~|\?|\*", part) or self._is_usual(plain):
            return part
        if part.startswith("*.") and _FILE_END.fullmatch(part[1:]):
            return part
        return self._file(part) if _FILE_END.search(part) else self._token("folder", part)

    def _is_usual(self, plain: str) -> bool:
        return plain in self._usual or (plain.endswith(".py") and plain in self._words)

    def _file(self, name: str) -> str:
        """Return for example `<file-3>.dm3.json`: all outputs of a file share its token."""
        suffixes = _OUR_SUFFIXES.search(name)
        stem = name[: suffixes.start()] if suffixes and suffixes.start() else name
        rest = name[len(stem) :]
        end = _FILE_END.search(stem)
        self._files.add(canonical(stem))
        plain = stem[: end.start()] if end and end.start() else stem
        return self._token("file", plain) + stem[len(plain) :].lower() + rest.lower()

    def _file_or_path(self, name: str) -> str:
        return self.path(name) if "/" in name or "\\" in name else self._file(name)

    def _person(self, name: str) -> str:
        return "<user>" if canonical(name) in self._users else self._token("user", name)

    def _token(self, kind: str, name: str) -> str:
        plain = canonical(name)
        if kind == "host" and plain in self._hosts:
            return "<host>"
        numbers = self._numbers.setdefault(kind, {})
        return f"<{kind}-{numbers.setdefault(plain, len(numbers) + 1)}>"

    def _line(self, line: str) -> str:
        """URLs first, then secrets, addresses, paths, words; what became a token is not looked at again."""
        return _replaced(_URL, line, self._url, self._without_urls)

    def _without_urls(self, text: str) -> str:
        return _replaced(_SECRET, text, lambda found: f"{found.group(1)}<secret>", self._without_secrets)

    def _without_secrets(self, text: str) -> str:
        return _replaced(_ADDRESS, text, self._address, self._without_paths)

    def _url(self, found: re.Match[str]) -> str:
        """Loopback addresses stay (the page's); of every other only the scheme does."""
        whole, scheme = found.group(), found.group(1)
        own = _LOOPBACK.match(whole)
        if own and "@" not in whole:
            return own.group()
        scheme = scheme.lower() if canonical(scheme) in self._words else "url"
        return f"{scheme}://{self._token('address', whole)}"

    def _address(self, found: re.Match[str]) -> str:
        address = found.group()
        return address if address in _OWN_ADDRESSES else self._token("address", address)

    def _without_paths(self, text: str) -> str:
        told, end = [], 0
        while found := _PATH_START.search(text, end):
            stop = self._path_end(text, found.start())
            told += [self._without_names(text[end : found.start()]), self.path(text[found.start() : stop])]
            end = stop
        return "".join([*told, self._without_names(text[end:])])

    def _path_end(self, text: str, start: int) -> int:
        """Say where a path ends: at its quote, at the end of a known folder, at a known extension, or at a stop."""
        quote = text[start - 1] if start and text[start - 1] in "'\"`" else ""
        closing = text.find(quote, start) if quote else -1
        if closing > start:
            return closing
        root = self._roots.match(text, start)
        if root and not re.match(r"[\\/\w.-]", text[root.end() :]):
            return root.end()
        begin = root.end() if root else start
        file = _PATH_FILE.match(text, begin, begin + _LONGEST_PATH)
        if file and not _NEXT_PATH.search(file.group()[1:]):
            return file.end()
        stop = _PATH_STOP.search(text, begin + 1)
        return max(stop.start() if stop else len(text), start + 1)

    def _without_names(self, text: str) -> str:
        """Take out names of files that stand without a folder, then every word that is not the agent's."""
        told, end = [], 0
        for found in _BARE_FILE.finditer(text):
            start = self._start_of_known(text, end, found.end())
            if start is not None:
                told += [self._without_words(text[end:start]), self._file_or_path(text[start : found.end()])]
                end = found.end()
        return "".join([*told, self._without_words(text[end:])])

    def _start_of_known(self, text: str, begin: int, end: int) -> int | None:
        """Return where the name of a known file begins that ends at `end`; commas and brackets may be in it."""
        begin = max(begin, end - _LONGEST_NAME)
        for found in _WORD_START.finditer(text, begin, end):
            if canonical(_OUR_SUFFIXES.sub("", text[found.start() : end])) in self._files:
                return found.start()
        return None

    def _without_words(self, text: str) -> str:
        pieces = _SEGMENT.split(text) if text else []
        return "".join(piece if number % 2 else self._segment(piece) for number, piece in enumerate(pieces))

    def _segment(self, segment: str) -> str:
        """Every word before an unknown file's end may be a part of its name, unless the last is the agent's."""
        told, end = [], 0
        while found := _BARE_FILE.search(segment, end):
            words = [item.start() for item in _WORD_START.finditer(segment, end, found.end())]
            last = segment[words[-1] : found.end()]
            start = words[-1] if self._is_ours(last) else words[0]
            told.append(WORD.sub(self._word, segment[end:start]))
            told.append(last if self._is_ours(last) else self._file_or_path(segment[start : found.end()]))
            end = found.end()
        return "".join([*told, WORD.sub(self._word, segment[end:])])

    def _is_ours(self, word: str) -> bool:
        return canonical(bare(word)) in self._words

    def _word(self, found: re.Match[str]) -> str:
        word = found.group()
        told = self._known.get(word)
        if told is None:
            told = self._told(word)
            if len(self._known) < 100_000:
                self._known[word] = told
        return told

    def _told(self, word: str) -> str:
        core = bare(word)
        plain = canonical(core)
        if plain in self._users:
            return word.replace(core, "<user>")
        if plain in self._hosts:
            return word.replace(core, "<host>")
        if not core or plain in self._words or _NUMBER.fullmatch(core) or _NUMBER.fullmatch(word):
            return word
        if "@" in core:
            return word.replace(core, self._token("email", core))
        if "/" in core or "\\" in core:
            return word.replace(core, self.path(core))
        return word.replace(core, self._token("word", core))


def _spellings(root: str) -> set[str]:
    """Return how a known folder may be written: slashes, NFC and NFD, percent signs, escapes."""
    found = {root, root.replace("\\", "\\\\"), root.replace("\\", "/")}
    found |= {unicodedata.normalize(form, text) for text in tuple(found) for form in ("NFC", "NFD")}
    found |= {quote(text) for text in found}
    found |= {json.dumps(text)[1:-1] for text in tuple(found)}
    return {text for text in found if len(text) > 1}


def _replaced(
    pattern: re.Pattern[str],
    text: str,
    told: Callable[[re.Match[str]], str],
    rest: Callable[[str], str],
) -> str:
    """Return the text with every match replaced by what is told of it, and everything between by `rest`."""
    parts, end = [], 0
    for found in pattern.finditer(text):
        parts += [rest(text[end : found.start()]), told(found)]
        end = found.end()
    return "".join([*parts, rest(text[end:])])
