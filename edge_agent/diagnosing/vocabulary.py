"""Which words a support archive may keep: those that the agent itself says, never a list of what to leave out.

Whatever is not among them is replaced, in whatever spelling it comes. Standard library only.
"""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import signal
import sys
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Final

from edge_agent.diagnosing.installation import DEPENDENCIES, PACKAGE, WINDOWS_DEPENDENCIES
from edge_agent.model_names import shipped_models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WORD: Final = re.compile(r"[^\s,;:()\[\]{}\"'<>=|`]+")
_PERCENT: Final = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})")
_EDGE: Final = ".!?*&#-…\\/_~"
_WINDOWS_MESSAGES: Final = 1500
_LARGEST_MANIFEST_BYTES: Final = 1 << 20
USUAL_NAMES: Final = frozenset(
    """
    usr lib lib64 bin sbin etc var tmp home mnt media opt proc sys dev run srv root share local state cache .local
    .cache .config .venv venv Users Windows System32 Program ProgramData AppData Local Roaming LocalLow Temp Public
    Default Volumes Library Application Support site-packages dist-packages Lib Scripts scopewatch models.json
    agent.log status.json heartbeat.json store.json drift.json agent.lock page.token page-open.html agent.toml
    pictures second-look second-look.json config.toml models journal.sqlite journal.sqlite-wal journal.sqlite-shm
    scopewatch.toml python python3 python.exe pythonw.exe UNC self mountinfo
    python3.11 python3.12 python3.13 python3.14 python311 python312 python313 python314 scopewatch-locks
    edge_agent commands deploy hosting keeping packing diagnosing
    journaling processes trials watching live_page page labelling announcing configuring
    """.casefold().split()
)
"""Folders and files that stand on every PC, or that the agent makes: they name nobody."""
_SAID_BY_PYTHON: Final = """
    OSError JSONDecodeError errno WinError Errno line File in most recent call last Traceback UTF-8 cp1252 x86_64
    AMD64 aarch64 arm64 PYTHONPATH PYTHONHOME PYTHONUTF8 PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE LANG LC_ALL
    LC_CTYPE OMP_NUM_THREADS OPENBLAS_NUM_THREADS NOTIFY_SOCKET INVOCATION_ID
"""


def canonical(text: str) -> str:
    """Return what all spellings of a name have in common: escapes, percent signs, NFC or NFD, either case."""
    text = _ESCAPE.sub(lambda found: chr(int(found.group()[2:], 16) % 0x110000), text)
    text = _PERCENT.sub(_unquoted, text)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _unquoted(found: re.Match[str]) -> str:
    return bytes.fromhex(found.group().replace("%", "")).decode("utf-8", "replace")


def bare(word: str) -> str:
    """Return a word without the punctuation around it."""
    return word.strip(_EDGE)


@cache
def our_words(package: Path = PACKAGE) -> frozenset[str]:
    """Return every word of the agent's own source, of its models' manifests and of the system's messages."""
    words = set(USUAL_NAMES) | set(_words_of(_SAID_BY_PYTHON))
    for file in package.rglob("*.py"):
        words |= set(_words_of(file.read_text("utf-8", "replace")))
        words |= set(_words_of(".".join(file.relative_to(package.parent).with_suffix("").parts)))
        words |= {file.name.casefold(), file.stem.casefold()}
    words |= set(_words_of(" ".join((*DEPENDENCIES, *WINDOWS_DEPENDENCIES, *sys.stdlib_module_names))))
    words |= set(_words_of("\n".join(_system_messages())))
    return frozenset(words | set(_model_words()))


def _words_of(text: str) -> Iterator[str]:
    for word in WORD.findall(text):
        plain = canonical(bare(word))
        if plain:
            yield plain


def _system_messages() -> Iterator[str]:
    yield from (os.strerror(code) for code in errno.errorcode)
    yield from errno.errorcode.values()
    yield from (name for name, value in vars(builtins).items() if isinstance(value, type))
    yield from (item.name for item in signal.Signals)
    if sys.platform == "win32":
        import ctypes

        yield from (ctypes.FormatError(code) for code in range(1, _WINDOWS_MESSAGES))


def _model_words() -> Iterator[str]:
    """Names, labels and hashes of the shipped models; a facility's own models may be called after somebody."""
    for folder in shipped_models():
        yield folder.name.casefold()
        try:
            manifest = json.loads((folder / "manifest.json").read_bytes()[:_LARGEST_MANIFEST_BYTES])
        except (OSError, ValueError):
            continue
        yield from (
            str(label).casefold() for label in (*manifest.get("labels", ()), manifest.get("name", ""))
        )
        yield from manifest.get("sha256", {}).values()
