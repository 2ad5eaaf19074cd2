"""What people said of micrographs on the operator's page, gathered from label files: one verdict a content.

Only this module knows how label files become verdicts: events are taken once each, by their ids, under the bytes
that they are about, so that a moved, renamed or copied micrograph counts once. Of every person the last word that
was not undone counts; people who disagree leave no label. A label counts as given blind where it is the first
thing that somebody said of that micrograph, before any look at the answer, and still stands.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pydantic import ValidationError

from edge_agent.files import read_whole
from edge_agent.labelling.label_record import last_words, read_label_file, void_events
from edge_agent.output_places import LABEL_SUFFIX
from trainer.preparing.split import PrepareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from edge_agent.labelling.label_record import LabelEvent

LONGEST_BYTES: Final = 64 * 2**20
"""No label file of the agent's is longer; what is, is not read."""

BLIND: Final = "blind "
"""How `Verdict.who` begins where the label was given before any look at the answer."""

Kind = Literal["label", "not_in_list", "disputed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be taken from all that people said of one micrograph."""

    content: str
    """The sha256 of its bytes; above the snapshot limit its fingerprint."""
    kind: Kind
    label: str
    """In composed Unicode; "" unless `kind` is label."""
    blind: bool
    """Whether it was said before any look at the answer."""
    by: tuple[str, ...]
    """Who said it, sorted, as text that can be printed."""
    said: str
    """In words, as in: ada: round; ben: rod."""
    first: datetime
    """When something was first said of it."""
    label_files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The micrograph's own file name, as the first label file has it."""
        return printable(self.label_files[0].name.removesuffix(LABEL_SUFFIX))

    @property
    def who(self) -> str:
        """Who gave the label, and whether blind: by ada, ben; blind by ada."""
        return f"{BLIND if self.blind else ''}by {', '.join(self.by)}"


@dataclass(frozen=True, slots=True)
class Corrections:
    """Everything that label files say. `verdicts` are under their contents, sorted."""

    roots: tuple[Path, ...]
    out: Path
    label_files: int
    verdicts: Mapping[str, Verdict]
    faults: tuple[str, ...]
    """Label files that could not be read, each with the reason."""
    nameless: int
    """Events that do not say which bytes they are about."""

    @property
    def fingerprint(self) -> str:
        """Hash of what was decided about which contents, wherever these lie."""
        told = [(one.content, one.kind, one.label, one.blind) for one in self.verdicts.values()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def read_corrections(
    roots: Sequence[Path], out: Path, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Corrections:
    """Read every label file below `roots`; `out`, the data set folder, is left out.

    Label files that cannot be read are listed. Raises PrepareError for a root that is no folder or holds no label
    file: a slip of the pen would look like a laboratory without corrections.
    """
    faults: list[str] = []
    paths: dict[Path, None] = {}
    for root in roots:
        if not root.is_dir():
            raise PrepareError(
                f"{root}: there is no such folder; name one that holds label files (--corrections)"
            )
        found = [
            path
            for path in files_below(root.resolve(), out, faults)
            if path.name.casefold().endswith(LABEL_SUFFIX)
        ]
        if not found:
            raise PrepareError(
                f"{root}: holds no label file (*{LABEL_SUFFIX}); the agent writes them beside the micrographs, or "
                "below its output folder, once somebody has corrected or confirmed one on its page"
            )
        paths |= dict.fromkeys(found)
    told = [_Told(path) for path in paths]
    for done, one in enumerate(told, start=1):
        if fault := one.read():
            faults.append(fault)
        progress("label files", done, len(told))
    verdicts, nameless = _verdicts(told, faults)
    return Corrections(
        tuple(root.resolve() for root in roots), out, len(paths), verdicts, tuple(faults), nameless
    )


def files_below(root: Path, out: Path, faults: list[str]) -> Iterator[Path]:
    """All files below a folder in alphabetical order; links to folders are not followed, nor is `out` entered."""

    def fault(error: OSError) -> None:
        faults.append(f"{printable(str(error.filename))}: cannot be listed ({error.strerror or error})")

    there = out.resolve()
    for folder, below, names in os.walk(root, onerror=fault):
        below[:] = sorted(name for name in below if (Path(folder) / name).resolve() != there)
        yield from (Path(folder) / name for name in sorted(names))


def printable(text: str) -> str:
    """What others wrote, as text that no terminal obeys: a file name of any bytes, a person's name."""
    plain = text.encode("utf-8", "backslashreplace").decode()
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in plain)


class _Told:
    """One label file: its events in their order, each with a time that never runs backwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[tuple[datetime, LabelEvent]] = []

    def read(self) -> str:
        """Read it; return what is wrong with it, "" for nothing."""
        data, name = read_whole(self.path, LONGEST_BYTES), printable(str(self.path))
        if data is None:
            return f"{name}: cannot be read (no plain file, too long, or not allowed)"
        try:
            events = read_label_file(data).events
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            why = ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
            return f"{name}: is no label file that this version reads ({printable(why)[:160]})"
        latest: datetime | None = None
        for event in events:
            latest = event.at if latest is None else max(latest, event.at)
            self.events.append((latest, event))
        return ""


def _verdicts(told: Sequence[_Told], faults: list[str]) -> tuple[dict[str, Verdict], int]:
    """All events, each once, in the order in which they were said; then by content."""
    known: dict[str, tuple[datetime, LabelEvent]] = {}
    files: defaultdict[str, dict[Path, None]] = defaultdict(dict)
    nameless: set[str] = set()
    for one in told:
        for moment, event in one.events:
            if known.setdefault(event.id, (moment, event))[1] != event:
                faults.append(
                    f"{printable(str(one.path))}: event {printable(event.id)} says otherwise elsewhere"
                )
                continue
            content = event.source_sha256 or event.fingerprint
            if content is None:
                nameless.add(event.id)
            else:
                files[content][one.path] = None
    ordered = [event for _, event in sorted(known.values(), key=lambda pair: pair[0])]
    void = void_events(ordered)
    by_content: defaultdict[str, list[LabelEvent]] = defaultdict(list)
    for event in ordered:
        if event.action != "undo" and event.id not in nameless:
            by_content[event.source_sha256 or event.fingerprint or ""].append(event)
    found = (
        _verdict(content, events, void, tuple(files[content]))
        for content, events in sorted(by_content.items())
    )
    return {one.content: one for one in found if one is not None}, len(nameless)


def _verdict(
    content: str, events: Sequence[LabelEvent], void: frozenset[str], files: tuple[Path, ...]
) -> Verdict | None:
    """Weigh what was said of one micrograph; None where every word was taken back."""
    words = last_words(event for event in events if event.id not in void)
    if not words:
        return None
    labels = {by: _composed(event.label) for by, event in words.items()}
    by = tuple(printable(one) for one in sorted(words))
    said = "; ".join(
        f"{printable(one)}: {printable(labels[one]) or 'not in the list'}" for one in sorted(words)
    )
    first = min(event.at for event in events)
    agreed = set(labels.values())
    if len(agreed) > 1:
        return Verdict(content, "disputed", "", False, by, said, first, files)
    (label,) = agreed
    kind: Kind = "label" if label else "not_in_list"
    return Verdict(content, kind, label, _is_blind(events, void, label), by, said, first, files)


def _is_blind(events: Iterable[LabelEvent], void: frozenset[str], label: str) -> bool:
    """Whether anybody's first word was blind, still counts, and is this label ("": not in the list)."""
    first: dict[str, LabelEvent] = {}
    for event in events:
        first.setdefault(event.by, event)
    return any(
        event.blind and event.id not in void and _composed(event.label) == label for event in first.values()
    )


def _composed(label: str | None) -> str:
    """One spelling for one class, as `raw_folder` has it: macOS decomposes accents."""
    return unicodedata.normalize("NFC", label or "")
