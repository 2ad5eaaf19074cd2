"""One root folder, looked over again and again at little cost: which files in it are not done.

Only this module knows when a folder need not be listed, and when its files need not be looked at. A folder
whose modification time stood still is passed over. One whose time moved is listed, and names not known to be
done are looked at. Every file is looked at when that costs next to nothing of the time, in a folder where
nothing happens for minutes every `cold_scan_seconds`, and always in a pass over `everything`.

Times of a share are compared with each other only, never with the clock of this PC.
"""

from __future__ import annotations

import os
import stat
from array import array
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.files import remove_leftovers
from edge_agent.output_places import SIDECAR_SUFFIX
from edge_agent.watching.folder_listing import regular_stamp, survey
from edge_agent.watching.known import is_state
from edge_agent.watching.vanished import Vanished, is_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edge_agent.files import FileStamp
    from edge_agent.watching.complaints import Complaints
    from edge_agent.watching.folder_listing import Listing, ListingRules
    from edge_agent.watching.known import Known, KnownState

LOOK_DUTY: Final = 0.0015
"""At most this share of the time goes into looking at files again that are done."""
ACTIVE_SECONDS: Final = 300.0
"""For so long after the last activity a folder is not cold."""
_SETTLED_SECONDS: Final = 3.0
"""FAT and some servers count times in steps of 2 s: a listing younger than that may have missed something."""
_CHUNK: Final = 128
_MANY: Final = 100


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is not done in this state. `is_news`: a scan was the first to hear of it."""

    path: str
    stamp: FileStamp
    is_news: bool = False
    lacks_sidecar: bool = False


@dataclass(frozen=True, slots=True)
class ScanRules:
    """What a scan looks for, how often at the least, and what stands beside what is done."""

    listing: ListingRules
    cold_scan_seconds: float = 600.0
    folder_times: bool = True


@dataclass(slots=True)
class _Folder:
    """What is remembered of a folder between two passes."""

    identity: tuple[int, int]
    modified_ns: int
    seen: float
    active: float
    looked: float = float("-inf")
    look_seconds: float = 0.0
    is_settled: bool = False
    is_whole: bool = False
    is_empty: bool = True
    folders: list[str] = field(default_factory=list)
    done: array[int] = field(default_factory=lambda: array("q"))
    count: int = 0
    visit: int = 0


@dataclass(slots=True)
class _Look:
    """One listing of a folder on its way."""

    folder: str
    prefix: str
    """The folder with its separator: to join 100,000 paths takes its time."""
    memory: _Folder
    listing: Listing
    known: Mapping[str, KnownState]
    names: list[str]
    is_news: bool
    counts_as_look: bool
    """Paid for by later pauses of this folder alone, not by a pause of all scans."""


class FolderScan:
    """Scans of one root that is there; a new one is made when the root returns or another disk is mounted.

    `offer` takes a candidate and says whether there was room for it. `clean` are the folders in which nothing
    of `owner` can be left over, because they were cleared, or because the worker writes there.
    """

    def __init__(
        self,
        root: str,
        known: Known,
        rules: ScanRules,
        offer: Callable[[Candidate], bool],
        *,
        clean: set[str],
        complaints: Complaints,
        clock: Callable[[], float],
    ) -> None:
        self._root = root
        self._known = known
        self._rules = rules
        self._offer = offer
        self._clean = clean
        self._complaints = complaints
        self._clock = clock
        self._memory: dict[str, _Folder] = {}
        self._visit = 0
        self._everything = False
        self._folder_times = rules.folder_times
        self._folders_compared = float("-inf")
        self._vanished = Vanished(root, known, rules.listing.wanted)
        self._unreadable: set[str] = set()
        self.unreadable_folders = 0
        self.pass_seconds = self.look_seconds = 0.0
        """What the last or present pass took for finding, and for looking at what is done again."""

    def gone(self) -> dict[str, frozenset[str]]:
        """Return, by folder, the names that are known and not there any more."""
        return self._vanished.names()

    def note_activity(self, path: str) -> None:
        """Note that something happens to a file: its folder is not cold."""
        memory = self._memory.get(os.path.dirname(path))  # noqa: PTH120 - for each event
        if memory is not None:
            memory.active = self._clock()

    def look_again(self, path: str) -> None:
        """Have a file's folder looked at whole in the next pass."""
        memory = self._memory.get(os.path.dirname(path))  # noqa: PTH120
        if memory is not None:
            memory.is_whole = False

    def clear_leftovers(self, folder: str) -> None:
        """Remove what a crash left in a folder; harmless when asked again, for then the worker may write."""
        if self._rules.listing.owner and folder not in self._clean:
            self._clean.add(folder)
            remove_leftovers(Path(folder), self._rules.listing.owner)

    def whole_pass(self, *, everything: bool) -> Iterator[None]:
        """Go over all folders; every `next` is a small piece of the way."""
        self._visit += 1
        self._everything = everything
        self.pass_seconds = self.look_seconds = 0.0
        self._unreadable.clear()
        yield from self._walk(self._root)
        vanished = [folder for folder, memory in self._memory.items() if memory.visit != self._visit]
        for folder in vanished:
            del self._memory[folder]
        self.unreadable_folders = len(self._unreadable)
        overdue = self._clock() - self._folders_compared >= self._rules.cold_scan_seconds
        if everything or vanished or overdue:
            self._folders_compared = self._clock()
            has_entries = {folder: not memory.is_empty for folder, memory in self._memory.items()}
            self._vanished.compare_folders(has_entries)

    def below(self, folder: str) -> Iterator[None]:
        """Go over one folder that appeared, with what is below it; outside of any pass."""
        yield from self._walk(folder)

    def _walk(self, top: str) -> Iterator[None]:
        folders = [top]
        while folders:
            folder = folders.pop()
            began = self._clock()
            look = self._enter(folder, began)
            self._note_cost(look, self._clock() - began)
            if look is not None:
                yield from self._look_at_files(look)
            memory = self._memory.get(folder)
            folders.extend(memory.folders if memory is not None else ())
            yield

    def _enter(self, folder: str, now: float) -> _Look | None:
        """Ask a folder for its time; list it when that is called for."""
        try:
            found = os.stat(folder) if folder == self._root else os.lstat(folder)  # noqa: PTH116
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(folder)
            memory, has_changed = self._recall(folder, found, now)
            must_look = self._must_look(memory, now)
            if not (must_look or has_changed or not memory.is_settled or not self._folder_times):
                self._complaints.over(f"folder {folder}")
                return None
            return self._list(folder, memory, now, must_look=must_look, has_changed=has_changed)
        except (FileNotFoundError, NotADirectoryError):
            self._memory.pop(folder, None)
        except OSError as error:
            self._memory.pop(folder, None)
            self._cannot(folder, error)
        return None

    def _recall(self, folder: str, found: os.stat_result, now: float) -> tuple[_Folder, bool]:
        identity = (found.st_dev, found.st_ino)
        memory = self._memory.get(folder)
        has_changed = False
        if memory is None or memory.identity != identity:
            memory = self._memory[folder] = _Folder(identity, found.st_mtime_ns, now, now)
        elif memory.modified_ns != found.st_mtime_ns:
            has_changed = True
            memory.modified_ns, memory.seen, memory.active = found.st_mtime_ns, now, now
        memory.visit = self._visit
        return memory, has_changed

    def _must_look(self, memory: _Folder, now: float) -> bool:
        is_cold = now - memory.active >= ACTIVE_SECONDS
        pause = max(memory.look_seconds / LOOK_DUTY, self._rules.cold_scan_seconds if is_cold else 0.0)
        return self._everything or not memory.is_whole or now - memory.looked >= pause

    def _list(self, folder: str, memory: _Folder, now: float, *, must_look: bool, has_changed: bool) -> _Look:
        # The journal first: what it holds by then has its sidecar in the listing.
        known = self._known.in_folder(Path(folder)) if must_look else {}
        listing = survey(folder, self._rules.listing)
        self._complaints.over(f"folder {folder}")
        self._remove_leftovers(folder, listing)
        is_first = memory.looked == float("-inf")
        if not is_first and not has_changed and memory.is_settled and memory.count != len(listing.names):
            # Something came or went, and the folder's time stood still: it is not to be trusted here.
            self._folder_times = False
        look = _Look(
            folder,
            os.path.join(folder, ""),  # noqa: PTH118
            memory,
            listing,
            known,
            listing.names,
            is_news=has_changed and not is_first and not self._everything,
            counts_as_look=must_look and (is_first or self._everything or memory.is_whole),
        )
        if not must_look:
            look = self._only_new_names(look)
        memory.is_settled = now - memory.seen >= _SETTLED_SECONDS
        memory.folders, memory.count = listing.folders, len(listing.names)
        if must_look:
            self._vanished.compare_names(folder, known, listing, was_empty=is_first or memory.is_empty)
            memory.looked, memory.look_seconds = now, 0.0
            memory.done = array("q")
        memory.is_empty, memory.is_whole = listing.is_empty, True
        return look

    def _only_new_names(self, look: _Look) -> _Look:
        """Leave out what was found done before (by a hash of its name, which is small)."""
        done = set(look.memory.done)
        sidecars = look.listing.sidecars

        def is_done(name: str) -> bool:
            return hash(name) in done or (
                name + SIDECAR_SUFFIX in sidecars and hash(name + SIDECAR_SUFFIX) in done
            )

        names = [name for name in look.listing.names if not is_done(name)]
        if len(names) > _MANY:
            known = self._known.in_folder(Path(look.folder))
        else:
            states = {name: self._known.of(Path(look.folder, name)) for name in names}
            known = {name: state for name, state in states.items() if state is not None}
        return replace(look, known=known, names=names)

    def _look_at_files(self, look: _Look) -> Iterator[None]:
        for start in range(0, len(look.names), _CHUNK):
            began = self._clock()
            for name in look.names[start : start + _CHUNK]:
                self._look_at(name, look)
            self._note_cost(look, self._clock() - began)
            yield
        if look.memory.is_whole:
            self._complaints.over(f"files {look.folder}")

    def _note_cost(self, look: _Look | None, seconds: float) -> None:
        if look is not None and look.counts_as_look:
            look.memory.look_seconds += seconds
            self.look_seconds += seconds
        else:
            self.pass_seconds += seconds

    def _look_at(self, name: str, look: _Look) -> None:
        known = look.known.get(name)
        path = look.prefix + name
        lacks_sidecar = False
        if known is not None:
            self._vanished.has_shown_known = True
            if self._is_done(path, name, known, look):
                lacks_sidecar = self._lacks_sidecar(path, name, known, look)
                if not lacks_sidecar:
                    has_sidecar = self._rules.listing.sidecars and known.recorded
                    look.memory.done.append(hash(name + SIDECAR_SUFFIX if has_sidecar else name))
                    return
        stamp = self._stamp(path, look)
        if stamp is None or (known is not None and is_state(stamp, known) and not lacks_sidecar):
            return
        look.memory.active = self._clock()
        if not self._offer(Candidate(path, stamp, look.is_news and known is None, lacks_sidecar)):
            look.memory.is_whole = False

    def _is_done(self, path: str, name: str, known: KnownState, look: _Look) -> bool:
        state = look.listing.states.get(name)
        if state is not None:
            return state == (known.size_bytes, known.modified_ns)
        stamp = self._stamp(path, look)
        return stamp is not None and is_state(stamp, known)

    def _stamp(self, path: str, look: _Look) -> FileStamp | None:
        try:
            return regular_stamp(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            look.memory.is_whole = False
            self._unreadable.add(look.folder)
            reason = error.strerror or str(error)
            self._complaints.about(f"files {look.folder}", f"{path}: cannot be asked about ({reason})")
            return None

    def _lacks_sidecar(self, path: str, name: str, known: KnownState, look: _Look) -> bool:
        if not (self._rules.listing.sidecars and known.recorded):
            return False
        # Asked once more by its name, which may be spelled in another way where case does not count.
        return name + SIDECAR_SUFFIX not in look.listing.sidecars and is_missing(path + SIDECAR_SUFFIX)

    def _remove_leftovers(self, folder: str, listing: Listing) -> None:
        if not self._rules.listing.owner or folder in self._clean:
            return
        self._clean.add(folder)
        if listing.leftovers:
            remove_leftovers(Path(folder), self._rules.listing.owner)

    def _cannot(self, folder: str, error: OSError) -> None:
        self._unreadable.add(folder)
        self._complaints.about(f"folder {folder}", f"{folder}: cannot be listed ({error.strerror or error})")
