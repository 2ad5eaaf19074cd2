"""What must never be torn apart: which micrographs make one group under a split's rule.

Only this module knows when two micrographs belong together: the same sub-folder, value of a column, session or
day, or near-duplicates of one another, which join whole groups. Where a rule cannot say (no sub-folder, an empty
cell, no acquisition time) a micrograph is a group of its own, and a note names the files.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from trainer.preparing.split import PrepareError, noted, tears_micrographs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainer.preparing.split import LabelsTable, SplitRule


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a micrograph lay and when it was taken: all that a rule for groups looks at."""

    source: str
    content: str
    """Names its bytes; the name of its group where it stands alone."""
    folders: tuple[str, ...] = ()
    """The sub-folders below the class folder."""
    acquired: str = ""
    """ISO 8601, UTC; "" where the file does not say."""
    microscope: str = ""
    near: str = ""
    """Name of its cluster of near-duplicates, "" for none."""


class Timed(Protocol):
    """What sessions are made of."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def acquired(self) -> str: ...  # noqa: D102
    @property
    def microscope(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Grouping:
    """Every source's group, and what a person should know about how it was found."""

    groups: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """Micrographs of one microscope without a long pause; `begin` is UTC."""

    name: str
    begin: datetime
    sources: tuple[str, ...]


def group_files(files: Sequence[Provenance], rule: SplitRule, table: LabelsTable | None) -> Grouping:
    """Name every file's group under `rule`; near-duplicates join their groups, unless crops are dealt anyhow.

    Raises:
        PrepareError: the rule asks for a column and there is no table.

    """
    if rule.by == "folder":
        found = _by_folder(files)
    elif rule.by in ("session", "day"):
        found = _by_time(files, rule)
    elif rule.group_column is not None:
        found = _by_column(files, rule.group_column, table)
    else:
        found = Grouping({file.source: file.content for file in files})
    if tears_micrographs(rule):
        return found
    merged = merge_groups(found.groups, {file.source: file.near for file in files})
    gone = len(set(found.groups.values())) - len(set(merged.values()))
    joined = sorted(source for source, group in merged.items() if group != found.groups[source])
    notes = noted(f"near-duplicates joined groups ({gone} fewer); files that changed group", joined)
    return Grouping(merged, (*found.notes, *notes))


def merge_groups(groups: Mapping[str, str], near: Mapping[str, str]) -> dict[str, str]:
    """Join all groups that a cluster of near-duplicates reaches into; both map a source to a name.

    A joined group bears the first of its groups' names in alphabetical order. "" is no cluster.
    """
    above: dict[str, str] = {}

    def top(group: str) -> str:
        while group in above:
            group = above[group]
        return group

    first: dict[str, str] = {}
    for source in sorted(groups):
        cluster = near.get(source, "")
        if cluster:
            one, other = sorted((top(groups[source]), top(first.setdefault(cluster, groups[source]))))
            if one != other:
                above[other] = one
    return {source: top(group) for source, group in groups.items()}


def sessions(files: Iterable[Timed], gap_hours: float) -> tuple[Session, ...]:
    """Find the sessions among the files that carry a time; files without one are in none.

    Files that name no microscope count as one instrument's: rather too much together than a session torn.
    """
    by_microscope: defaultdict[str, set[tuple[datetime, str]]] = defaultdict(set)
    for file in files:
        moment = moment_of(file.acquired)
        if moment is not None:
            by_microscope[file.microscope].add((moment, file.source))
    found: list[Session] = []
    for microscope, taken in sorted(by_microscope.items()):
        run: list[tuple[datetime, str]] = []
        for moment, source in sorted(taken):
            if run and moment - run[-1][0] > timedelta(hours=gap_hours):
                found.append(_session(microscope, run))
                run = []
            run.append((moment, source))
        found.append(_session(microscope, run))
    return tuple(found)


def _session(microscope: str, run: Sequence[tuple[datetime, str]]) -> Session:
    begin = run[0][0]
    name = f"{microscope or 'session'} {begin:%Y-%m-%dT%H:%M:%S}Z"
    return Session(name, begin, tuple(source for _, source in run))


def moment_of(acquired: str) -> datetime | None:
    """Read a time; without a zone it is UTC, and what is no time is unknown."""
    try:
        moment = datetime.fromisoformat(acquired)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _by_folder(files: Sequence[Provenance]) -> Grouping:
    """Group by the first sub-folder, the coarser one; the same name in two classes is the same group."""
    groups = {file.source: file.folders[0] if file.folders else file.content for file in files}
    loose = [file.source for file in files if not file.folders]
    return Grouping(groups, noted("files in no sub-folder, each a group of its own", loose))


def _by_column(files: Sequence[Provenance], column: str, table: LabelsTable | None) -> Grouping:
    if table is None:
        raise PrepareError(f"the split uses column {column!r} of a labels table; name that CSV file too")
    groups = {file.source: table.value(file.source, column) or file.content for file in files}
    empty = [
        file.source for file in files if table.covers(file.source) and not table.value(file.source, column)
    ]
    return Grouping(groups, noted(f"files with an empty {column}, each a group of its own", empty))


def _by_time(files: Sequence[Provenance], rule: SplitRule) -> Grouping:
    """Sessions; or days, each all sessions that began on it, so that work past midnight stays together."""
    groups: dict[str, str] = {}
    for session in sessions(files, rule.session_gap_hours):
        day = session.begin + timedelta(hours=rule.utc_offset_hours)
        name = session.name if rule.by == "session" else f"day {day:%Y-%m-%d}"
        groups |= dict.fromkeys(session.sources, name)
    untimed = [file for file in files if file.source not in groups]
    beside = _groups_of_folders(files, groups)
    joined, by_folder, alone = [], [], []
    for file in untimed:
        neighbours = beside[file.folders] if file.folders else set()
        if len(neighbours) == 1:
            groups[file.source] = next(iter(neighbours))
            joined.append(file.source)
        elif file.folders:
            groups[file.source] = file.folders[0]
            by_folder.append(file.source)
        else:
            groups[file.source] = file.content
            alone.append(file.source)
    notes = (
        *noted(f"files without a time, counted to the one {rule.by} of their sub-folder", joined),
        *noted("files without a time, grouped by sub-folder", by_folder),
        *noted("files without a time and in no sub-folder, each a group of its own", alone),
    )
    return Grouping(groups, notes)


def _groups_of_folders(
    files: Sequence[Provenance], groups: Mapping[str, str]
) -> defaultdict[tuple[str, ...], set[str]]:
    found: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for file in files:
        if file.source in groups:
            found[file.folders].add(groups[file.source])
    return found
