"""What stands on both sides of a split: how many held-out crops have a sibling in training, and of which kind.

Only this module knows which kinds of kinship count and how much. One micrograph, one content, one group or one
cluster of near-duplicates on both sides is a leak: the figures on that part measure memory. One session or one
sub-folder on both sides is a warning: microscope, specimen and hand were the same, a new day may look different.

Every crop is counted once, under its closest kinship, so the shares add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from trainer.preparing.grouping import sessions
from trainer.preparing.raw_folder import folders_below_class
from trainer.preparing.split import Splittable, tears_micrographs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from trainer.preparing.split import Part, SplitRule

Severity = Literal["none", "warning", "leak"]
Kinship = Literal["micrograph", "content", "near-duplicate", "group", "session", "sub-folder"]

_SIBLING: Final[Mapping[Kinship, str]] = {
    "micrograph": "a crop of the same micrograph",
    "content": "a file of the same content",
    "near-duplicate": "a near-duplicate",
    "group": "a micrograph of the same group",
    "session": "a micrograph of the same session",
    "sub-folder": "a micrograph of the same sub-folder",
}
_WEAK: Final = frozenset({"session", "sub-folder"})
# Held-out part, and the part in which a sibling spoils it: what was fitted, or what chose the epoch.
_PAIRS: Final[tuple[tuple[Part, Part], ...]] = (
    ("test", "train"),
    ("validation", "train"),
    ("test", "validation"),
)
_MOST_EXAMPLES: Final = 3


class Related(Splittable, Protocol):
    """What a leak report reads of a crop."""

    @property
    def near(self) -> str: ...  # noqa: D102
    @property
    def acquired(self) -> str: ...  # noqa: D102
    @property
    def microscope(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Leak:
    """One kinship between two parts, beyond all closer kinships."""

    kinship: Kinship
    held_out: Part
    other: Part
    crops: int
    """Crops of `held_out` with a sibling of this kinship in `other`, and none of a closer kinship there."""
    of: int
    """All crops of `held_out`."""
    families: int
    """How many micrographs, groups, clusters, sessions or folders those are."""
    examples: tuple[str, ...]
    """As in: round/a.dm3 and round/b.dm3; the held-out file first."""

    @property
    def severity(self) -> Severity:
        """What it means for the figures on `held_out`."""
        return "warning" if self.kinship in _WEAK else "leak"

    @property
    def share(self) -> float:
        """Fraction of the held-out part's crops."""
        return self.crops / self.of

    def text(self) -> str:
        """Say it in a line, as in: 12 of 100 test crops have a near-duplicate in train (12 %; e.g. ...)."""
        crops = "crop has" if self.of == 1 else "crops have"
        percent = f"{max(1, round(100 * self.share))} %"
        return (
            f"{self.crops} of {self.of} {self.held_out} {crops} {_SIBLING[self.kinship]} in {self.other} "
            f"({percent}; e.g. {'; '.join(self.examples)})"
        )


@dataclass(frozen=True, slots=True)
class LeakReport:
    """All kinships between the parts of a data set, the closest first."""

    leaks: tuple[Leak, ...]
    caveats: tuple[str, ...] = ()
    """What the rule does by itself, and what could not be looked at."""

    @property
    def worst(self) -> Severity:
        """The most severe kinship found."""
        found = {leak.severity for leak in self.leaks}
        return "leak" if "leak" in found else "warning" if "warning" in found else "none"

    def share(self, held_out: Part = "test", other: Part = "train") -> float:
        """Fraction of a part's crops whose answers `other` leaks to them; warnings do not count."""
        mine = [leak for leak in self.leaks if (leak.held_out, leak.other) == (held_out, other)]
        return sum(leak.share for leak in mine if leak.severity == "leak")

    def text(self) -> tuple[str, ...]:
        """The lines for a person: leaks, warnings, or that no leak was found; what was not looked at."""
        lines = [f"{'LEAK' if leak.severity == 'leak' else 'warning'}: {leak.text()}" for leak in self.leaks]
        if self.worst != "leak":
            lines.append("no micrograph, content, near-duplicate or group stands in two parts")
        return (*lines, *self.caveats)


def leak_report(crops: Iterable[Related], rule: SplitRule) -> LeakReport:
    """Look for siblings on both sides of every pair of parts, among the crops that are kept and have a part."""
    placed = [crop for crop in crops if crop.kept and crop.part]
    members = _members(placed, rule)
    found = [leak for pair in _PAIRS for leak in _between(members, *pair)]
    order = list(_SIBLING)
    found.sort(key=lambda leak: order.index(leak.kinship))
    return LeakReport(tuple(found), tuple(_caveats(placed, rule)))


def _caveats(crops: Sequence[Related], rule: SplitRule) -> Iterator[str]:
    if tears_micrographs(rule):
        yield "this split deals crops one by one, whatever micrograph they are from: for comparison only"
    if rule.part_folders:
        yield (
            "the raw folder's own parts were taken: whether files in two of them were cut from one micrograph "
            "cannot be seen"
        )
    times = {crop.source: bool(crop.acquired) for crop in crops}
    without = sum(not timed for timed in times.values())
    if without:
        yield (
            f"sessions were not compared for {without} of {len(times)} micrographs: "
            "no acquisition time in the files"
        )


@dataclass(frozen=True, slots=True)
class _Member:
    """A crop with the names of its families, in the order of the kinships; "" is none."""

    source: str
    part: str
    families: tuple[str, ...]


def _members(crops: Sequence[Related], rule: SplitRule) -> list[_Member]:
    session_of = {
        source: session.name
        for session in sessions(crops, rule.session_gap_hours)
        for source in session.sources
    }
    family_of: Mapping[Kinship, Callable[[Related], str]] = {
        "micrograph": lambda crop: crop.source,
        "content": lambda crop: crop.sha256 or "",
        "near-duplicate": lambda crop: crop.near,
        "group": lambda crop: crop.group,
        "session": lambda crop: session_of.get(crop.source, ""),
        "sub-folder": lambda crop: "".join(folders_below_class(crop.source, crop.label)[:1]),
    }
    return [
        _Member(crop.source, crop.part, tuple(family_of[kinship](crop) for kinship in _SIBLING))
        for crop in crops
    ]


def _between(members: Sequence[_Member], held_out: Part, other: Part) -> list[Leak]:
    """Find the leaks from `other` to `held_out`, each crop under its closest kinship."""
    mine = [member for member in members if member.part == held_out]
    theirs = [member for member in members if member.part == other]
    waiting, found = mine, []
    for at, kinship in enumerate(_SIBLING):
        first: dict[str, str] = {}
        for member in theirs:
            first.setdefault(member.families[at], member.source)
        first.pop("", None)
        related = [member for member in waiting if member.families[at] in first]
        waiting = [member for member in waiting if member.families[at] not in first]
        if related:
            examples = {member.families[at]: member for member in reversed(related)}
            told = tuple(_told(member, first[family]) for family, member in reversed(examples.items()))
            leak = Leak(kinship, held_out, other, len(related), len(mine), len(told), told[:_MOST_EXAMPLES])
            found.append(leak)
    return found


def _told(member: _Member, sibling: str) -> str:
    return member.source if member.source == sibling else f"{member.source} and {sibling}"
