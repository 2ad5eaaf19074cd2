"""Classify what is there: files and folders, once, in this process.

Only this module knows which files a list of paths stands for. Each file is examined as the live agent does
it, except that an incomplete file is reported at once.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.config import DEFAULT_INCLUDE
from edge_agent.examine import Request, examine
from edge_agent.instrument_profile import NO_PROFILE, InstrumentProfile
from edge_agent.sidecar import Finding, OutputPlan
from edge_agent.watching.folder_listing import list_folder, name_rule, regular_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from edge_agent.classifier import Classifier


class NothingToDo(Exception):
    """A path does not exist or cannot be listed, or no path holds a micrograph; the text says which."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The files that a list of paths stands for, in order, and where their outputs go."""

    files: tuple[Path, ...]
    plan: OutputPlan
    folders_left_out: int
    """Folders inside the given ones that were not entered because `recursive` was not asked for."""


def gather(
    paths: Iterable[Path],
    *,
    recursive: bool = False,
    include: Iterable[str] = (),
    output: Path | None = None,
) -> Batch:
    """Return the batch: named files whatever their names, and from folders those that match `include`.

    Raises NothingToDo.
    """
    wanted = name_rule(tuple(include) or DEFAULT_INCLUDE)
    files: dict[Path, None] = {}
    roots: dict[Path, None] = {}
    left_out = 0
    for path in map(_absolute, paths):
        if path.is_dir():
            roots[path] = None
            found, skipped = _in_folder(path, wanted, recursive=recursive)
            files |= dict.fromkeys(found)
            left_out += skipped
        elif path.exists():
            roots[path.parent] = None
            files[path] = None
        else:
            raise NothingToDo(f"{path}: there is no such file or folder")
    if not files:
        hint = "; add --recursive to look into the folders in it" if left_out else ""
        raise NothingToDo(f"{', '.join(map(str, roots))}: no file matches {_spelled(include)}{hint}")
    plan = OutputPlan(None if output is None else _absolute(output), tuple(roots))
    return Batch(tuple(files), plan, left_out)


def classify_all(
    batch: Batch,
    classifier: Classifier,
    *,
    heatmap: bool = True,
    snapshot_limit_mib: int = 512,
    instrument: InstrumentProfile = NO_PROFILE,
) -> Iterator[Finding]:
    """Examine one file after the other. A fault of ours in one file is its finding, and the next goes on."""
    request = Request(
        batch.plan, heatmap, snapshot_limit_mib, incomplete_is_final=True, instrument=instrument
    )
    for path in batch.files:
        try:
            yield examine(path, classifier, request)
        except Exception as error:
            yield Finding(path, "failed", f"unforeseen {type(error).__name__}: {error}")


@dataclass(slots=True)
class Tally:
    """Counts of what was found. `labels` are those of answers; an abstention counts in `reasons` instead."""

    outcomes: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        self.outcomes[finding.outcome] += 1
        if finding.label is None or finding.decision is None:
            return
        self.decisions[finding.decision] += 1
        self.reasons.update(finding.reasons)
        if finding.decision != "abstain":
            self.labels[finding.label] += 1

    @property
    def all_read(self) -> bool:
        """Whether every file was readable and has its sidecar."""
        return not set(self.outcomes) - {"classified", "not_an_image"}


def _in_folder(top: Path, wanted: Callable[[str], bool], *, recursive: bool) -> tuple[list[Path], int]:
    files: list[Path] = []
    folders, left_out = [str(top)], 0
    while folders:
        folder = folders.pop()
        try:
            names, below = list_folder(folder, wanted)
        except OSError as error:
            raise NothingToDo(f"{folder}: cannot be listed: {error.strerror or error}") from None
        files.extend(path for path in (Path(folder, name) for name in names) if _is_regular(path))
        if recursive:
            folders.extend(below)
        else:
            left_out += len(below)
    return sorted(files), left_out


def _is_regular(path: Path) -> bool:
    try:
        return regular_stamp(str(path)) is not None
    except OSError:
        return False


def _absolute(path: Path) -> Path:
    # normpath, not resolve: a link that the user named stays the name under which things are reported.
    return Path(os.path.normpath(Path.cwd() / path))


def _spelled(include: Iterable[str]) -> str:
    return " or ".join(tuple(include) or DEFAULT_INCLUDE)
