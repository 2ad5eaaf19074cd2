"""Labels that people gave join a data set whose parts are dealt already, and nothing in it moves to another part.

Only this module knows what a label may do. In training it goes before the class folder. Validation and test heed
labels given blind only: whoever had seen the answer was led by it, and a micrograph that left the test because its
answer was believed would take the network's mistake along. A micrograph from outside the class folders trains,
unless its label was given blind: then it is dealt like a group of its own, by a lot that no other micrograph
changes. Where it belongs to a group that is dealt, it goes where that group is, or nowhere.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Final

from trainer.preparing.corrections import printable
from trainer.preparing.corrections_record import HELD_BACK
from trainer.preparing.grouping import Provenance, group_files, moment_of
from trainer.preparing.split import PARTS, tears_micrographs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from trainer.preparing.corrections import Verdict
    from trainer.preparing.crop_table import Crop
    from trainer.preparing.overrides import Override
    from trainer.preparing.split import LabelsTable, Part, SplitRule

DISPUTED: Final = "disputed label"
NOT_IN_LIST: Final = "not in the list"
UNKNOWN_CLASS: Final = "unknown class"
ANSWER_SEEN: Final = "corrected with the answer in sight"
KIN: Final = "kin of held-out micrographs"


def against(verdict: Verdict, classes: Collection[str]) -> str:
    """Why a verdict leaves no class to learn, "" where it does."""
    if verdict.kind == "disputed":
        return f"{DISPUTED}: {verdict.said}"
    if verdict.kind == "not_in_list":
        return f"{NOT_IN_LIST}: said by {', '.join(verdict.by)}"
    if verdict.label not in classes:
        return f"{UNKNOWN_CLASS}: {printable(verdict.label)} {verdict.who}, and the raw folder has none"
    return ""


def relabelled(
    rows: Iterable[Crop],
    verdict_of: Mapping[str, Verdict],
    decided: Mapping[str, Override],
    classes: Collection[str],
    rule: SplitRule,
) -> list[Crop]:
    """Apply verdicts, by source, to the kept crops of the class folders, which have their parts.

    Held-out micrographs stay as they are unless the label was given blind; where the rule tears micrographs, whose
    other crops train, they are left out if it differs. What a person decided on the contact sheet (by crop id) came
    later and was about the data set: a drop or a class goes before any verdict, and what was to be kept is not left
    out for one.
    """
    return [
        _told(crop, verdict_of[crop.source], decided.get(crop.crop_id), classes)
        if crop.kept and crop.source in verdict_of and not _is_frozen(crop, verdict_of[crop.source], rule)
        else crop
        for crop in rows
    ]


def doubted(
    rows: Iterable[Crop], verdict_of: Mapping[str, Verdict], classes: Collection[str], rule: SplitRule
) -> list[str]:
    """Held-out sources that somebody who had seen the answer names otherwise than their folder."""
    return sorted(
        {
            crop.source
            for crop in rows
            if crop.kept
            and (verdict := verdict_of.get(crop.source)) is not None
            and _is_frozen(crop, verdict, rule)
            and (against(verdict, classes) or verdict.label != crop.label)
        }
    )


def _is_frozen(crop: Crop, verdict: Verdict, rule: SplitRule) -> bool:
    return crop.part != "train" and not verdict.blind and not tears_micrographs(rule)


def _told(crop: Crop, verdict: Verdict, override: Override | None, classes: Collection[str]) -> Crop:
    if override is not None and override.label:
        return crop
    reason = against(verdict, classes)
    if not reason and verdict.label != crop.label and crop.part != "train" and not verdict.blind:
        reason = f"{ANSWER_SEEN}: {verdict.label} {verdict.who}, so it is no {crop.part} micrograph"
    if reason:
        return crop if override is not None else replace(crop, kept=False, part="", reason=reason)
    if verdict.label == crop.label and not verdict.blind:
        return crop  # the folder said so before the network did: figures may rest on it
    note = "" if verdict.label == crop.label else f"correction: class {verdict.who}, was {crop.label}"
    notes = "; ".join(filter(None, (crop.note, note)))
    return replace(crop, label=verdict.label, correction=verdict.who, note=notes)


@dataclass(frozen=True, slots=True)
class Newcomers:
    """Micrographs that labels bring along: their crops, and what is known of where they belong."""

    rows: Sequence[Crop]
    """With their classes; without group and part."""
    verdict_of: Mapping[str, Verdict]
    files: Mapping[str, Provenance]
    near: Iterable[tuple[str, str]]
    """Pairs of sources, of the data set or of newcomers, that show about the same area."""
    exempt: Collection[str]
    """Sources that a person decided to keep: never held back."""


def joined(
    dealt: Sequence[Crop],
    rows: Sequence[Crop],
    newcomers: Newcomers,
    rule: SplitRule,
    *,
    table: LabelsTable | None,
    share: float,
    seed: int,
) -> list[Crop]:
    """Give the newcomers their parts and groups, or a reason why not; return them after the rows of the data set.

    `dealt` are the rows before verdicts were applied: what left the test for one still marks its group as held out.
    Blind labels come first, in the order in which they were given; then the others by lot, each class until they
    are `share` of its training micrographs: what people correct at will is no sample of what is seen. Groups that a
    newcomer ties together become one.
    """
    kin = _Kin(dealt, newcomers.near, rule, table)
    room = _Room(rows, share)
    by_source: defaultdict[str, list[Crop]] = defaultdict(list)
    for crop in newcomers.rows:
        by_source[crop.source].append(crop)
    reasons: dict[str, str] = {}
    parts: dict[str, Part] = {}
    waiting = [source for source, crops in by_source.items() if any(crop.kept for crop in crops)]
    for source in sorted(waiting, key=lambda source: _turn(newcomers.verdict_of[source], seed)):
        verdict, label = newcomers.verdict_of[source], by_source[source][0].label
        file = newcomers.files[source]
        family = kin.of(file)
        part = _part(family.parts, verdict, rule, family.own, seed)
        free = verdict.blind or source in newcomers.exempt
        if part is None:
            reasons[source] = f"{KIN}: {family.text()}"
        elif part == "train" and not free and not room.fits(label):
            reasons[source] = f"{HELD_BACK}: no more than {share:.0%} of {label} in train may be corrections"
        else:
            parts[source] = part
            kin.take(file, family, part)
            if part == "train":
                room.enter(label, counts=not free)
    placed = [_placed(crop, reasons.get(crop.source, ""), parts.get(crop.source)) for crop in newcomers.rows]
    return [kin.named(crop) for crop in (*rows, *placed)]


def _turn(verdict: Verdict, seed: int) -> tuple[bool, str, str]:
    lot = hashlib.sha256(f"{seed}\0{verdict.content}".encode()).hexdigest()
    return (False, verdict.first.isoformat(), lot) if verdict.blind else (True, "", lot)


class _Room:
    """How many newcomers each class's training part has room for: n of n + those there are at most `share`."""

    def __init__(self, rows: Iterable[Crop], share: float) -> None:
        self._most = inf if share >= 1 else share / (1 - share)
        there = {(crop.source, crop.label) for crop in rows if crop.kept and crop.part == "train"}
        self._others = Counter(label for _, label in there)
        self._taken: Counter[str] = Counter()

    def fits(self, label: str) -> bool:
        """Whether one more may come in."""
        return self._most == inf or self._taken[label] + 1 <= self._most * self._others[label] + 1e-9

    def enter(self, label: str, counts: bool) -> None:
        """Take one in; what does not count is one of the others."""
        (self._taken if counts else self._others)[label] += 1


def _part(there: Collection[Part], verdict: Verdict, rule: SplitRule, group: str, seed: int) -> Part | None:
    """The part for a newcomer, whose group stands in the parts `there`; None for no part."""
    if len(there) > 1:
        return None
    for part in there:
        return part if part == "train" or verdict.blind else None
    if not verdict.blind or tears_micrographs(rule) or rule.part_column is not None or rule.part_folders:
        return "train"
    lot = int.from_bytes(hashlib.sha256(f"{seed}\0joins\0{group}".encode()).digest()[:8]) / 2**64
    if lot < rule.test:
        return "test"
    return "validation" if lot < rule.test + rule.validation else "train"


def _placed(crop: Crop, reason: str, part: Part | None) -> Crop:
    if not crop.kept:
        return crop
    if part is None:
        return replace(crop, kept=False, reason=reason)
    return replace(crop, part=part)


@dataclass(frozen=True, slots=True)
class _Family:
    """Whom a newcomer belongs to."""

    own: str
    """The name of its group if it is the first there."""
    groups: frozenset[str]
    """The groups in the data set that it belongs to."""
    parts: frozenset[Part]
    """Where these are."""
    example: str
    """One of their micrographs, "" for none."""
    near: frozenset[str]
    """Micrographs of about the same area."""

    def text(self) -> str:
        """Why a newcomer of this family can go nowhere."""
        held_out = " and ".join(name for name in PARTS if name in self.parts)
        why = "the label was not given blind" if len(self.parts) == 1 else "it ties these parts together"
        return f"of one group with {self.example} in {held_out}, and {why}"


class _Kin:
    """Groups and near-duplicates of what is in the data set so far."""

    def __init__(
        self,
        rows: Iterable[Crop],
        near: Iterable[tuple[str, str]],
        rule: SplitRule,
        table: LabelsTable | None,
    ) -> None:
        self._rule, self._table = rule, table
        self._parts: defaultdict[str, set[Part]] = defaultdict(set)
        self._member: dict[str, str] = {}
        self._group_of: dict[str, str] = {}
        self._taken: defaultdict[str, list[tuple[datetime, str]]] = defaultdict(list)
        self._groups, self._near = _Union(), _Union()
        self._like: defaultdict[str, set[str]] = defaultdict(set)
        for one, other in near:
            self._like[one].add(other)
            self._like[other].add(one)
        for crop in rows:
            if crop.kept and crop.part:
                self._enter(crop.source, crop.group, crop.part, crop.microscope, crop.acquired)
                if crop.near:
                    self._near.join(crop.source, crop.near)

    def of(self, file: Provenance) -> _Family:
        """Find the family of a newcomer."""
        own = group_files((file,), self._rule, self._table).groups[file.source]
        like = frozenset(source for source in self._like[file.source] if source in self._group_of)
        groups = {self._group_of[source] for source in like} | self._beside(file)
        groups |= {own} & self._parts.keys()
        parts = frozenset(part for group in groups for part in self._parts[group])
        example = self._member[min(groups)] if groups else ""
        return _Family(own, frozenset(groups), parts, example, like)

    def take(self, file: Provenance, family: _Family, part: Part) -> None:
        """Enter a newcomer, which from now on is kin of others."""
        group = min(family.groups, default=family.own)
        self._enter(file.source, group, part, file.microscope, file.acquired)
        if not tears_micrographs(self._rule):
            for other in family.groups:
                self._groups.join(group, other)
        for source in family.near:
            self._near.join(file.source, source)

    def named(self, crop: Crop) -> Crop:
        """The crop with the names of its group and of its cluster of near-duplicates."""
        if not (crop.kept and crop.source in self._group_of):
            return crop
        group = self._groups.name(self._group_of[crop.source])
        return replace(crop, group=group, near=self._near.name(crop.source, crop.near))

    def _enter(self, source: str, group: str, part: Part, microscope: str, acquired: str) -> None:
        self._parts[group].add(part)
        self._member.setdefault(group, source)
        self._group_of[source] = group
        if self._rule.by in ("session", "day") and (moment := moment_of(acquired)) is not None:
            insort(self._taken[microscope], (moment, group))

    def _beside(self, file: Provenance) -> set[str]:
        """The groups in whose session it was taken."""
        moment = moment_of(file.acquired)
        if moment is None or self._rule.by not in ("session", "day"):
            return set()
        pause, taken = timedelta(hours=self._rule.session_gap_hours), self._taken[file.microscope]
        first = bisect_left(taken, (moment - pause, ""))
        found = set()
        for when, group in taken[first:]:
            if when > moment + pause:
                break
            found.add(group)
        return found


class _Union:
    """Names that were found to mean one thing; it bears the first of them in alphabetical order."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}
        self._joined: set[str] = set()

    def join(self, one: str, other: str) -> None:
        """Make two names one."""
        self._joined |= {one, other}
        first, second = sorted((self._top(one), self._top(other)))
        if first != second:
            self._above[second] = first

    def name(self, of: str, otherwise: str | None = None) -> str:
        """The name that counts; `otherwise`, by default the name itself, where it was never joined."""
        if of not in self._joined and otherwise is not None:
            return otherwise
        return self._top(of)

    def _top(self, name: str) -> str:
        while name in self._above:
            name = self._above[name]
        return name
