"""What may be tidied away: sidecars and heatmaps whose micrograph is gone, and halves left by crashes.

Finds first, removes only what was shown and is still so; labels always stay. Only outputs that prove to be ours
are ever touched, and nothing where a folder looks as if its disk or share were not mounted.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.files import is_our_temporary
from edge_agent.output_places import HEATMAP_SUFFIX, LABEL_SUFFIX, SIDECAR_SUFFIX, OutputPlan, readable_path
from edge_agent.shared_opening import system_path
from edge_agent.sidecar import read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ABANDONED_SECONDS: Final = 24 * 3600.0
"""A temporary file of this age is nobody's: a live one exists for milliseconds."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """Outputs without their micrograph; `heatmap` is None where there is none."""

    source: Path
    sidecar: Path
    heatmap: Path | None


@dataclass(frozen=True, slots=True)
class Untidy:
    """What was found. `passed_over` are folders, with the reason why nothing there was looked at."""

    orphans: tuple[Orphan, ...]
    abandoned: tuple[Path, ...]
    passed_over: tuple[tuple[Path, str], ...]


def look_for_orphans(folders: Iterable[Path], output: Path | None) -> Untidy:
    """Look through the watched `folders`, and their mirror below `output`; changes nothing."""
    roots = tuple(folders)
    plan = OutputPlan(output, roots)
    orphans: list[Orphan] = []
    abandoned: list[Path] = []
    passed_over: dict[Path, str] = {}
    for root in roots:
        outputs = root if output is None else plan.place(root / "x").sidecar.parent
        for folder, names in _folders_below(outputs, passed_over):
            if not names and folder != outputs:
                continue
            sources = root / folder.relative_to(outputs)
            doubtful = _doubtful(sources, root)
            if doubtful is None:
                orphans.extend(_orphans_in(folder, sources, names))
                abandoned.extend(_abandoned_in(folder, names))
            else:
                passed_over[doubtful[0]] = doubtful[1]
    return Untidy(tuple(orphans), tuple(abandoned), tuple(passed_over.items()))


def remove(untidy: Untidy) -> tuple[int, tuple[tuple[Path, str], ...]]:
    """Remove what was found and is still so; return how many files, and what could not be removed."""
    removed, failed = 0, []
    for path in (*_still_orphaned(untidy.orphans), *untidy.abandoned):
        try:
            Path(system_path(path)).unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append((path, error.strerror or str(error)))
        else:
            removed += 1
    return removed, tuple(failed)


def _doubtful(sources: Path, root: Path) -> tuple[Path, str] | None:
    """Return the folder that keeps us from saying what is gone from `sources`, and why; None when nothing does.

    A disk or share that is not mounted leaves an empty folder: every micrograph would seem to be gone.
    """
    for folder in (sources, *sources.parents):
        try:
            with os.scandir(system_path(folder)) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError) and folder != root:
                continue
            return folder, _unlisted(error)
        return (folder, "is empty, as if its disk or share were not mounted") if empty else None
    return sources, "lies outside the watched folder"


def _unlisted(error: OSError) -> str:
    return f"cannot be listed: {error.strerror or error}"


def _folders_below(top: Path, passed_over: dict[Path, str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder with the names of what is no folder; links are not followed."""
    # Not os.walk: on Windows it loses what lies deeper than 260 characters.
    folders = [top]
    while folders:
        folder = folders.pop()
        names: list[str] = []
        below: list[str] = []
        try:
            with os.scandir(system_path(folder)) as entries:
                for entry in entries:
                    (below if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
        except OSError as error:
            passed_over[folder] = _unlisted(error)
            continue
        folders.extend(folder / name for name in sorted(below, reverse=True))
        yield folder, sorted(names)


def _orphans_in(folder: Path, sources: Path, names: list[str]) -> Iterator[Orphan]:
    present = set(names)
    for name in names:
        source = sources / name.removesuffix(SIDECAR_SUFFIX)
        # What people said of a micrograph is theirs, and may be of use without it.
        if not name.endswith(SIDECAR_SUFFIX) or name.endswith(LABEL_SUFFIX) or not _is_gone(source):
            continue
        # Ours only when it is whole, of our schema, and about a file of this very name.
        record = read_record(folder / name)
        if record is None or not _names_file(record.source.path, source.name):
            continue
        heatmap = source.name + HEATMAP_SUFFIX
        stated = None if record.cam is None else record.cam.heatmap
        ours = heatmap in present and stated == readable_path(Path(heatmap))
        yield Orphan(source, folder / name, folder / heatmap if ours else None)


def _names_file(stated: str, name: str) -> bool:
    """Whether a path in a record, perhaps of another system, ends with this name."""
    readable = readable_path(Path(name))
    return stated == readable or stated.endswith((f"/{readable}", f"\\{readable}"))


def _is_gone(source: Path) -> bool:
    """Whether there is certainly no such file: a folder that cannot be reached proves nothing."""
    try:
        os.lstat(system_path(source))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _abandoned_in(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        path = folder / name
        if is_our_temporary(path):
            try:
                found = os.lstat(system_path(path))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _ABANDONED_SECONDS:
                yield path


def _still_orphaned(orphans: Iterable[Orphan]) -> Iterator[Path]:
    for orphan in orphans:
        if _is_gone(orphan.source) and read_record(orphan.sidecar) is not None:
            # The heatmap first: what is left after an interruption still proves to be ours.
            if orphan.heatmap is not None:
                yield orphan.heatmap
            yield orphan.sidecar
