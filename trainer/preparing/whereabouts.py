"""Which file holds the bytes that somebody labelled, wherever it was moved and whatever it is called now.

Only this module knows where such a file is looked for: beside its label file; where the sidecar says that it lay;
under the same name anywhere; and only then among all pictures, of its size where the sidecar tells that. A file is
what it was only if its bytes are the same: every find is hashed. What was hashed is remembered in the data set
folder, so that looking again costs a `stat` a file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_agent.files import identify, read_whole, stamp_of, write_durably
from edge_agent.micrograph import SNAPSHOT_LIMIT_MIB
from edge_agent.output_places import LABEL_SUFFIX, SIDECAR_SUFFIX, is_own_output
from trainer.preparing.corrections import files_below
from trainer.preparing.raw_folder import PICTURE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_FINGERPRINT: Final = re.compile(r"fp1:(\d{1,18}):")
_MEMORY: Final = Path("cache") / "contents.json"
_LONGEST_SIDECAR_BYTES: Final = 16 * 2**20
_LONGEST_MEMORY_BYTES: Final = 2**30


@dataclass(frozen=True, slots=True)
class Found:
    """A micrograph and its content's name as the trainer's own reader gives it."""

    path: Path
    content: str


def locate(
    wanted: Mapping[str, Sequence[Path]],
    folders: Sequence[Path],
    out: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Found]:
    """Find the micrographs whose contents are `wanted` (with their label files); those not found are left out.

    Looks below `folders`, and never into `out`, the data set folder. A file that cannot be read is none.
    """
    memory = _Memory(out)
    found: dict[str, Found] = {}
    sizes: dict[str, int | None] = {}
    for done, (content, label_files) in enumerate(wanted.items(), start=1):
        hints = _Hints(content, label_files, folders)
        sizes[content] = hints.size_bytes
        for path in hints.paths:
            if (size := _size(path)) is not None and hints.size_bytes in (None, size):
                if content in (held := memory.names(path)):
                    found[content] = Found(path, held[0])
                    break
        progress("labelled micrographs", done, len(wanted))
    waiting = {content: size for content, size in sizes.items() if content not in found}
    if waiting:
        names = {path.name.removesuffix(LABEL_SUFFIX) for content in waiting for path in wanted[content]}
        found |= _searched(waiting, names, _pictures(folders, out), memory, progress)
    memory.save()
    return found


class _Hints:
    """What label files and the sidecars beside them say about where a micrograph lies and how long it is."""

    def __init__(self, content: str, label_files: Sequence[Path], folders: Sequence[Path]) -> None:
        self.paths: list[Path] = []
        self.size_bytes: int | None = None
        for label_file in label_files:
            whole_name = label_file.name.removesuffix(LABEL_SUFFIX)
            self.paths.append(label_file.with_name(whole_name))
            source = _source_of(label_file.with_name(whole_name + SIDECAR_SUFFIX))
            if content in (source.get("sha256"), source.get("fingerprint")):
                if isinstance(told := source.get("path"), str) and _may_be_opened(told, folders):
                    self.paths.append(Path(told))
                if isinstance(source.get("bytes"), int):
                    self.size_bytes = source["bytes"]
        if (told := _FINGERPRINT.match(content)) is not None:
            self.size_bytes = int(told[1])


def _may_be_opened(told: str, folders: Sequence[Path]) -> bool:
    """Whether a path out of a file that anybody may have written is no other computer's, unless we were sent there.

    Windows greets the computer of a UNC path with the user's name and a hash of the password.
    """
    elsewhere = told.startswith(("\\\\", "//"))
    return not elsewhere or any(Path(told).is_relative_to(folder) for folder in folders)


def _source_of(sidecar: Path) -> dict[str, Any]:
    """The record's part about its file; {} where there is none to be had."""
    try:
        record = json.loads(read_whole(sidecar, _LONGEST_SIDECAR_BYTES) or b"{}")
        source = record.get("source")
    except (ValueError, AttributeError, RecursionError):
        return {}
    return source if isinstance(source, dict) else {}


def _size(path: Path) -> int | None:
    try:
        return stamp_of(path).size_bytes
    except (OSError, ValueError):
        return None


def _pictures(folders: Sequence[Path], out: Path) -> Iterator[Path]:
    for folder in folders:
        for path in files_below(folder, out, []):
            if path.suffix.lower() in PICTURE_SUFFIXES and not is_own_output(path.name):
                yield path


def _searched(
    waiting: dict[str, int | None],
    names: set[str],
    pictures: Iterator[Path],
    memory: _Memory,
    progress: Callable[[str, int, int], None],
) -> dict[str, Found]:
    """Hash pictures until nothing is waited for; those of the same names first."""
    found: dict[str, Found] = {}
    queue = sorted(dict.fromkeys(pictures), key=lambda path: (path.name not in names, path))
    for done, path in enumerate(queue, start=1):
        if not waiting:
            break
        size = _size(path)
        if size is not None and (None in (sizes := set(waiting.values())) or size in sizes):
            held = memory.names(path)
            for content in held:
                if content in waiting:
                    del waiting[content]
                    found[content] = Found(path, held[0])
        progress("looking for moved micrographs", done, len(queue))
    return found


class _Memory:
    """Contents of files by path, size and time."""

    def __init__(self, out: Path) -> None:
        self._path = out / _MEMORY
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        try:
            known = json.loads(read_whole(self._path, _LONGEST_MEMORY_BYTES) or b"{}")
        except ValueError:
            return
        if isinstance(known, dict):
            self._known = known

    def names(self, path: Path) -> tuple[str, ...]:
        """The names of a file's content, the one that counts first; () where it cannot be read."""
        try:
            stamp = stamp_of(path)
            match self._known.get(str(path)):
                case [stamp.size_bytes, stamp.modified_ns, *names] if all(
                    isinstance(one, str) for one in names
                ):
                    return tuple(names)
            source = identify(path, SNAPSHOT_LIMIT_MIB * 2**20)
        except (OSError, ValueError):
            return ()
        names = [one for one in (source.sha256, source.fingerprint) if one is not None]
        self._known[str(path)] = [source.stamp.size_bytes, source.stamp.modified_ns, *names]
        self._changed = True
        return tuple(names)

    def save(self) -> None:
        """Remember what was hashed. It may be lost: then it is hashed again."""
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self._path, json.dumps(self._known).encode("utf-8", "backslashreplace"))
