"""From what people said to what it is about: files of the class folders, or micrographs that have to be found.

Only this module knows which picture a verdict reaches. It holds for every file of the same bytes, and for the one
file that stays of several copies. What lies in no class folder is found, read and screened like everything else; it
is dropped where the class folders have the picture already. A picture that lies in two class folders, and was left
out for it, comes in by what a person said of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trainer.preparing.corrections import printable
from trainer.preparing.corrections_record import CorrectionsRecord
from trainer.preparing.cutting import CutFile, CutPlan, cut_files
from trainer.preparing.duplicates import beside
from trainer.preparing.joining import UNKNOWN_CLASS, against
from trainer.preparing.raw_folder import folders_below_class
from trainer.preparing.screening import ScreeningRule, screened
from trainer.preparing.split import file_key, noted
from trainer.preparing.whereabouts import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from trainer.preparing.corrections import Corrections, Verdict
    from trainer.preparing.near_duplicates import Embed
    from trainer.preparing.raw_folder import RawFolder

FOLDER: Final = "corrections"
"""First part of the sources of micrographs that labels found, which no folder has."""
_CONTRADICTORY: Final = "contradictory label"
_COPIES: Final = ("duplicate content", "duplicate pixels", "near duplicate")


@dataclass(slots=True)
class Taken:
    """What corrections are about, and what they bring along."""

    cuts: list[CutFile] = field(default_factory=list)
    """Of newcomers: micrographs of no class folder, and those that were left out for lying in two."""
    verdict_of: dict[str, Verdict] = field(default_factory=dict)
    """By source, of the class folders' files and of newcomers."""
    elsewhere: dict[str, Path] = field(default_factory=dict)
    """Where newcomers lie that are in no class folder."""
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The folders in which a newcomer lay, for rules that group by them."""
    near: tuple[tuple[str, str], ...] = ()
    """Pairs of sources, at least one a newcomer's, of about the same area; copies too, lest one be kept."""
    missing: dict[str, str] = field(default_factory=dict)
    """Contents that no file holds -> name."""

    def lend(self, target: str, verdict: Verdict) -> None:
        """Let a verdict on a copy hold for the file that stays, unless people said something of that itself.

        Who had seen the answer of the copy before did not label the other one blind.
        """
        there = self.verdict_of.get(target)
        if there is None:
            self.verdict_of[target] = verdict
        elif (there.kind, there.label) != (verdict.kind, verdict.label):
            said = f"{there.said}; of a copy: {verdict.said}"
            self.verdict_of[target] = replace(there, kind="disputed", label="", blind=False, said=said)
        elif not verdict.blind and verdict.first <= there.first and {*there.by} & {*verdict.by}:
            self.verdict_of[target] = replace(there, blind=False)


def take(
    corrections: Corrections,
    folder: RawFolder,
    base: Sequence[CutFile],
    plan: CutPlan,
    rule: ScreeningRule,
    *,
    kept: Collection[str],
    progress: Callable[[str, int, int], None],
    embed: Embed | None,
    workers: int | None,
) -> Taken:
    """Find what the verdicts are about; `base` are the class folders' files, read and screened.

    `kept` are the files (`file_key`) that a person keeps whatever the screening says: they are compared, too.
    """
    taken, classes = Taken(), frozenset(folder.classes)
    sources: dict[str, list[CutFile]] = {}
    for cut in base:
        if cut.content:
            sources.setdefault(cut.content, []).append(cut)
    for content, verdict in corrections.verdicts.items():
        for cut in sources.get(content, ()):
            taken.verdict_of[cut.source] = verdict
    new = [*_settled(taken, sources, corrections.verdicts, folder, classes)]
    for cut in base:
        if cut.source in taken.verdict_of and (stays := _original(cut.reason)):
            taken.lend(stays, taken.verdict_of[cut.source])
    _find(taken, corrections, sources, folder, classes, plan.out, progress)
    plan = replace(plan, elsewhere=taken.elsewhere)
    found = cut_files(
        list(taken.elsewhere),
        plan,
        lambda done, total: progress("corrected micrographs", done, total),
        workers,
    )
    new += [_checked(cut, taken.verdict_of[cut.source]) for cut in found]
    if new:
        new = screened([*base, *new], rule)[len(base) :]
        why = {cut.source: cut.reason for cut in new}
        seen = beside(
            [_compared(cut, kept) for cut in base],
            [_compared(cut, kept) for cut in new],
            lambda source: taken.verdict_of[source].label,
            plan.out,
            limits=rule.likeness if rule.on and rule.near_duplicates else None,
            embed=embed,
            progress=progress,
        )
        taken.cuts = [
            cut if cut.reason else cut.model_copy(update={"reason": why[cut.source]}) for cut in seen.cuts
        ]
        for copy, original in seen.copy_of.items():
            taken.lend(original, taken.verdict_of[copy])
        pairs = [[seen.copy_of.get(source, source) for source in pair] for pair in seen.near]
        taken.near = (*((one, other) for one, other in pairs if one != other), *seen.copy_of.items())
    return taken


def _compared(cut: CutFile, kept: Collection[str]) -> CutFile:
    if cut.reason and cut.crops and file_key(cut.source) in kept:
        return cut.model_copy(update={"reason": ""})
    return cut


def _settled(
    taken: Taken,
    sources: Mapping[str, Sequence[CutFile]],
    verdicts: Mapping[str, Verdict],
    folder: RawFolder,
    classes: Collection[str],
) -> Iterator[CutFile]:
    """The pictures that lie in several class folders and of which a person has said which is right."""
    for content, verdict in verdicts.items():
        cuts = sources.get(content, ())
        if (
            cuts
            and not against(verdict, classes)
            and all(cut.reason.startswith(_CONTRADICTORY) for cut in cuts)
        ):
            first = cuts[0]
            taken.folders[first.source] = folders_below_class(first.source, folder.label_of(first.source))
            yield first.model_copy(update={"reason": ""})


def _original(reason: str) -> str:
    """The file that stays of copies, from the reason of one that does not; "" for other reasons."""
    return reason.rpartition(" as ")[2] if reason.startswith(_COPIES) else ""


def _find(
    taken: Taken,
    corrections: Corrections,
    sources: Mapping[str, Sequence[CutFile]],
    folder: RawFolder,
    classes: Collection[str],
    out: Path,
    progress: Callable[[str, int, int], None],
) -> None:
    """Look for the contents that no class folder has, where a class is known for them."""
    roots = (*corrections.roots, folder.root.resolve())
    wanted = {
        content: verdict
        for content, verdict in corrections.verdicts.items()
        if content not in sources and not against(verdict, classes)
    }
    found = locate(
        {content: verdict.label_files for content, verdict in wanted.items()}, roots, out, progress
    )
    for content, verdict in wanted.items():
        there = found.get(content)
        if there is None:
            taken.missing[content] = shown(verdict, roots)
        elif not _is_text(there.path):
            taken.missing[content] = f"{shown(verdict, roots)}: its path is not Unicode, rename it"
        elif there.content in sources:  # labelled above the agent's snapshot limit, which is below ours
            for cut in sources[there.content]:
                taken.lend(cut.source, verdict)
        elif there.content == content or there.content not in corrections.verdicts:
            source = f"{FOLDER}/{_short(there.content)}/{printable(there.path.name)}"
            taken.elsewhere[source] = there.path
            taken.verdict_of[source] = replace(verdict, content=there.content)
            taken.folders[source] = _folders(there.path, roots, classes)


def _is_text(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def _short(content: str) -> str:
    plain = content if ":" not in content else hashlib.sha256(content.encode()).hexdigest()
    return plain[:16]


def _folders(path: Path, roots: Sequence[Path], classes: Collection[str]) -> tuple[str, ...]:
    """The folders between the first root that a file lies in and the file, without those of a class."""
    for root in roots:
        if path.is_relative_to(root):
            below = tuple(printable(name) for name in path.relative_to(root).parts[:-1])
            return below[1:] if below[:1] and below[0] in classes else below
    return ()


def _checked(cut: CutFile, verdict: Verdict) -> CutFile:
    if cut.reason or cut.content == verdict.content:
        return cut
    return cut.model_copy(update={"reason": "unreadable: was changed while it was looked for", "crops": ()})


def shown(verdict: Verdict, roots: Sequence[Path]) -> str:
    """Name a labelled micrograph by its label file, relative to the folder that was searched."""
    file = verdict.label_files[0]
    folder = next((file.parent.relative_to(root) for root in roots if file.is_relative_to(root)), Path())
    return printable((folder / verdict.name).as_posix())


def record_of(
    corrections: Corrections, taken: Taken, classes: Collection[str], share: float
) -> CorrectionsRecord:
    """What the data set says of its corrections."""
    roots, verdicts = corrections.roots, corrections.verdicts.values()
    people = Counter(name for verdict in verdicts for name in verdict.by)
    return CorrectionsRecord(
        roots=tuple(printable(str(root)) for root in roots),
        fingerprint=corrections.fingerprint,
        share=share,
        label_files=corrections.label_files,
        verdicts=len(verdicts),
        people=dict(sorted(people.items())),
        files={source: str(path) for source, path in taken.elsewhere.items()},
        missing=taken.missing,
        disputed={
            one.content: f"{shown(one, roots)} ({one.said})" for one in verdicts if one.kind == "disputed"
        },
        not_in_list=tuple(one.content for one in verdicts if one.kind == "not_in_list"),
        unknown_class={
            one.content: f"{shown(one, roots)} ({printable(one.label)})"
            for one in verdicts
            if against(one, classes).startswith(UNKNOWN_CLASS)
        },
        unreadable=corrections.faults,
    )


def notes_of(corrections: Corrections, record: CorrectionsRecord) -> Iterator[str]:
    """What a person should know of corrections that came to nothing; all of them stand in `dataset.json`."""
    yield from noted("corrections: people disagree, left out", [*record.disputed.values()])
    yield from noted("corrections: of a class that the raw folder has not", [*record.unknown_class.values()])
    yield from noted("corrections: micrographs that no file holds any more", [*record.missing.values()])
    yield from noted("corrections: not read", record.unreadable)
    if record.not_in_list:
        yield f"corrections: in no class of the list, left out: {len(record.not_in_list)}"
    if corrections.nameless:
        yield f"corrections: events that do not say which file they are about: {corrections.nameless}"
