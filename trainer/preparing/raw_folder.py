"""A folder of labelled micrographs -> which of its files are taken, of which class, from which folders.

Only this module knows how a raw folder may be laid out: class folders with any folders below, or the origin's
`train/`, `val/` and `test/` with the class folders inside, which then say the part too. Nothing is opened and
nothing is ever written here; whether a file can be used is found out later (`preparing.cutting`).
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from edge_agent.output_places import is_own_output
from trainer.preparing.split import Part, PrepareError, listed, noted, part_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PICTURE_SUFFIXES: Final = frozenset({".dm3", ".dm4", ".tif", ".tiff", ".png", ".jpg", ".jpeg"})

Layout = Literal["classes", "parts"]
"""Class folders; or folders of parts (train, val, test) with class folders inside."""

# What operating systems and storage boxes put into every folder; @eaDir is full of thumbnails.
_SYSTEM_FOLDERS: Final = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
)


@dataclass(frozen=True, slots=True)
class RawFile:
    """One picture file of the raw folder."""

    source: str
    """Path relative to the raw folder, with forward slashes, as text that can be printed."""
    label: str
    """The class folder's name in composed Unicode; "" for a file outside any."""
    part: Part | Literal[""]
    """The part where the folders say so, else ""."""
    folders_below_class: tuple[str, ...]
    reason: str
    """Why it is not to be read: a kind, a colon, the particulars. "" where it is."""


@dataclass(frozen=True, slots=True)
class RawFolder:
    """What lies in a raw folder. `files` is ordered by source, `classes` are those with a picture to read."""

    root: Path
    layout: Layout
    files: tuple[RawFile, ...]
    classes: tuple[str, ...]
    others: Mapping[str, int]
    """Files of other kinds: suffix -> number."""
    notes: tuple[str, ...]
    """What a person should know: names that look alike, folders that were not looked at."""

    @property
    def to_read(self) -> tuple[RawFile, ...]:
        """The files that have no reason against them."""
        return tuple(file for file in self.files if not file.reason)

    def label_of(self, source: str) -> str:
        """Return the class that the path of a file in this folder says, "" outside any class folder."""
        return _placed(source, self.layout).label


def read_raw_folder(raw: Path, classes: Sequence[str] | None = None) -> RawFolder:
    """List the raw folder; `classes` chooses class folders, by default all are taken.

    Raises:
        PrepareError: it cannot be listed, or no two classes can come of it: no class folder, an empty one, a
            chosen one that is not there or has no picture, fewer than two with pictures.

    """
    chosen = None if classes is None else frozenset(_composed(label) for label in classes)
    walk = _Walk()
    try:
        files = sorted(path.relative_to(raw).as_posix() for path in walk.files(raw))
        layout = _layout(raw)
        folders = _class_folders(raw, layout)
    except OSError as error:
        raise PrepareError(f"{error.filename}: cannot be listed ({error.strerror}); allow it") from error
    _check_folders(raw, folders, chosen)
    pictures = [file for file in files if PurePosixPath(file).suffix.lower() in PICTURE_SUFFIXES]
    found = tuple(_raw_file(file, layout, chosen) for file in pictures)
    usable = {file.label for file in found if not file.reason}
    _check_classes(raw, found, usable, chosen, _empty(folders, [*files, *walk.again]))
    suffixes = Counter(PurePosixPath(file).suffix.lower() or "no suffix" for file in files)
    others = {name: number for name, number in suffixes.items() if name not in PICTURE_SUFFIXES}
    bare = folders.keys() - usable if chosen is None else set()
    notes = (
        *_alike(usable),
        *noted("folders with no usable picture, taken for no class", sorted(bare)),
        *noted("folders beside train, validation and test, not looked at", _beside(raw, layout)),
        *noted("linked folders that were read already", [_printable(name) for name in sorted(walk.again)]),
    )
    return RawFolder(raw, layout, found, tuple(sorted(usable)), others, notes)


def folders_below_class(source: str, label: str) -> tuple[str, ...]:
    """Return the sub-folders below the class folder of a file whose layout is not at hand, from its class."""
    folders = tuple(_composed(name) for name in PurePosixPath(source).parts[:-1])
    if folders[:1] != (label,) and len(folders) > 1 and part_named(folders[0]):
        return folders[2:]
    return folders[1:]


class _Placed(NamedTuple):
    part: Part | None
    label: str
    below: tuple[str, ...]


def _placed(source: str, layout: Layout) -> _Placed:
    """Say what a path says: part, class ("" where it lies outside any), folders below."""
    folders = tuple(_composed(name) for name in PurePosixPath(source).parts[:-1])
    if layout == "classes":
        return _Placed(None, folders[0] if folders else "", folders[1:])
    part = part_named(folders[0]) if folders else None
    if part is None or len(folders) < 2:
        return _Placed(part, "", ())
    return _Placed(part, folders[1], folders[2:])


def _raw_file(file: str, layout: Layout, chosen: frozenset[str] | None) -> RawFile:
    source = _printable(file)
    placed = _placed(source, layout)
    reason = _unread(file, placed, layout, chosen)
    return RawFile(source, placed.label, placed.part or "", placed.below, reason)


def _unread(file: str, placed: _Placed, layout: Layout, chosen: frozenset[str] | None) -> str:
    """Return the reason not to read a picture file, "" for none."""
    path = PurePosixPath(file)
    if any(_is_hidden(name) for name in path.parts):
        return "hidden file or folder"
    if layout == "parts" and placed.part is None:
        return "outside the train, validation and test folders"
    if not placed.label:
        return "outside any class folder"
    if chosen is not None and placed.label not in chosen:
        return f"class folder excluded: {placed.label}"
    if file != _printable(file):
        return "file name is not Unicode: rename it"
    return "heatmap of this program's own" if is_own_output(path.name) else ""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def _printable(name: str) -> str:
    """Return the name itself, unless it holds bytes that are no text (Linux allows any)."""
    return name.encode("utf-8", "backslashreplace").decode()


def _composed(name: str) -> str:
    """One spelling for one name: macOS decomposes accents."""
    return unicodedata.normalize("NFC", name)


class _Walk:
    """All files below a folder; linked folders are followed, each real folder once."""

    def __init__(self) -> None:
        self.again: list[str] = []
        """Folders that were met a second time, relative to the first folder."""
        self._seen: set[Path] = set()

    def files(self, folder: Path, below: str = "") -> Iterator[Path]:
        """Yield the files, folders in alphabetical order."""
        real = folder.resolve()
        if real in self._seen:
            self.again.append(below)
            return
        self._seen.add(real)
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from self.files(path, f"{below}/{path.name}".lstrip("/"))
            else:
                yield path


def _layout(raw: Path) -> Layout:
    """Recognise folders of parts: train and at least one of the others, each with folders inside."""
    parts = {part_named(folder.name) for folder in _folders(raw) if _folders(folder)}
    return "parts" if "train" in parts and parts & {"validation", "test"} else "classes"


def _folders(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path.name)]


def _class_folders(raw: Path, layout: Layout) -> dict[str, list[str]]:
    """Map each class to its folders, relative to the raw folder."""
    tops = [raw] if layout == "classes" else [top for top in _folders(raw) if part_named(top.name)]
    found: defaultdict[str, list[str]] = defaultdict(list)
    for top in tops:
        for folder in _folders(top):
            found[_composed(_printable(folder.name))].append(folder.relative_to(raw).as_posix())
    return dict(found)


def _beside(raw: Path, layout: Layout) -> list[str]:
    if layout == "classes":
        return []
    return [_printable(folder.name) for folder in _folders(raw) if part_named(folder.name) is None]


def _empty(folders: Mapping[str, Sequence[str]], found: Sequence[str]) -> dict[str, str]:
    """Map each class in whose folders nothing at all was found to the first of them."""
    filled = {"/".join(PurePosixPath(path).parts[:depth]) for path in found for depth in (1, 2)}
    return {label: mine[0] for label, mine in folders.items() if filled.isdisjoint(mine)}


def _check_folders(raw: Path, folders: Mapping[str, Sequence[str]], chosen: frozenset[str] | None) -> None:
    if not folders:
        raise PrepareError(f"{raw}: has no class folders; put each class's micrographs into its own folder")
    for label in sorted(chosen or ()):
        if label not in folders:
            raise PrepareError(f"{raw}: has no class folder {label!r}; it has {listed(sorted(folders))}")


def _check_classes(
    raw: Path,
    files: Sequence[RawFile],
    usable: set[str],
    chosen: frozenset[str] | None,
    empty: Mapping[str, str],
) -> None:
    """Raise PrepareError where it is certain by now that no classifier can come of the folder."""
    for label in sorted((chosen or set()) - usable):
        kinds = Counter(file.reason for file in files if file.label == label).most_common(3)
        seen = "; ".join(f"{number} x {reason}" for reason, number in kinds) or "no picture file in it"
        raise PrepareError(
            f"{raw / label}: class {label!r} has no usable micrograph ({seen}); "
            "add some or leave the class out"
        )
    if chosen is None and empty:
        label, folder = min(empty.items())
        raise PrepareError(
            f"{raw / _printable(folder)}: the folder of class {label!r} is empty; add micrographs, "
            "remove the folder, or choose the classes to take"
        )
    if len(usable) < 2:
        kinds = Counter(file.reason.partition(":")[0] for file in files if file.reason).most_common()
        why = listed([f"{number} x {kind}" for kind, number in kinds])
        raise PrepareError(
            f"{raw}: a classifier needs two classes with usable micrographs, found "
            f"{listed(sorted(usable)) or 'none'} (dropped: {why or 'no file'}); "
            f"put {' '.join(sorted(PICTURE_SUFFIXES))} files into two class folders or more"
        )


def _alike(labels: Iterable[str]) -> Iterator[str]:
    """Note class names that differ only in case, blanks or the width of their letters."""
    by_key: defaultdict[str, list[str]] = defaultdict(list)
    for label in labels:
        by_key[" ".join(unicodedata.normalize("NFKC", label).casefold().split())].append(label)
    for names in by_key.values():
        if len(names) > 1:
            quoted = " and ".join(repr(name) for name in sorted(names))
            yield f"class names that look alike, taken as different classes: {quoted}"
