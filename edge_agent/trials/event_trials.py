"""What the self-test tries with change events: whether they arrive, how late, and that scans make up for them.

A missing event is a warning at most: events only make the agent quick, its scans find every file.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_agent.config import AgentConfig
from edge_agent.files import write_durably
from edge_agent.output_places import SIDECAR_SUFFIX
from edge_agent.trials.trial import Bench, Failed, Skipped, Trial, Warned, wait_until
from edge_agent.watching.folder_listing import list_folder, regular_stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_MAKING_SECONDS: Final = 6.0
_SILENCE_SECONDS: Final = 2.0
_SETTLE_SECONDS: Final = 0.5
_BURST: Final = "burst"


class _Listener:
    """Keep what the event source tells, from whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: set[str] = set()
        self.overflows = 0

    def note_overflow(self) -> None:
        with self._lock:
            self.overflows += 1

    def __call__(self, path: str) -> None:
        with self._lock:
            self._paths.add(path)

    def forget(self) -> None:
        with self._lock:
            self._paths.clear()

    def heard(self, path: Path) -> bool:
        with self._lock:
            return str(path) in self._paths

    def names_in(self, folder: Path) -> int:
        with self._lock:
            return sum(os.path.dirname(path) == str(folder) for path in self._paths)  # noqa: PTH120 - strings


@contextmanager
def _listening(bench: Bench, folder: Path) -> Iterator[_Listener]:
    listener, hints = _Listener(), bench.hints()
    try:
        hints.start(folder, listener, listener.note_overflow)
    except OSError as error:
        raise Warned(f"the system gives no events here: {error.strerror or error}") from None
    try:
        time.sleep(_SETTLE_SECONDS)
        listener.forget()
        yield listener
    finally:
        hints.stop()


def _events(bench: Bench) -> str:
    place = bench.place("events")
    told, missing = [], []
    with _listening(bench, place) as listener:
        for kind, act in _CHANGES.items():
            # Saving causes several events; what is still on its way must not count for the next change.
            time.sleep(_SETTLE_SECONDS / 2)
            listener.forget()
            path = act(place)
            after = wait_until(partial(listener.heard, path), bench.patience_seconds)
            if after is None:
                missing.append(kind)
            else:
                told.append(f"{kind} after {1000 * after:.0f} ms")
    if missing:
        told.append(f"no event within {bench.patience_seconds:g} s for {', '.join(missing)}")
        raise Warned("; ".join(told))
    return "; ".join(told)


def _create(place: Path) -> Path:
    path = place / "first.part"
    path.write_bytes(b"created")
    return path


def _modify(place: Path) -> Path:
    path = place / "first.part"
    with path.open("ab") as handle:
        handle.write(b", and more")
    return path


def _rename(place: Path) -> Path:
    return (place / "first.part").rename(place / "second.part")


def _in_a_new_folder(place: Path) -> Path:
    path = place / "below" / "third.part"
    path.parent.mkdir()
    # Watching the new folder takes the system a moment; what falls into it is for the scan.
    time.sleep(_SETTLE_SECONDS)
    path.write_bytes(b"in a new folder")
    return path


_CHANGES: Final[dict[str, Callable[[Path], Path]]] = {
    "created": _create,
    "changed": _modify,
    "renamed": _rename,
    "in a new folder": _in_a_new_folder,
}


def _cookie(bench: Bench) -> str:
    place = bench.place("cookie")
    path = place / f"acquisition.part{SIDECAR_SUFFIX}"
    with _listening(bench, place) as listener:
        write_durably(path, b"{}")
        after = wait_until(lambda: listener.heard(path), bench.patience_seconds)
    if after is None:
        raise Warned(f"no event within {bench.patience_seconds:g} s for our own sidecar")
    return f"heard after {1000 * after:.0f} ms"


def _watched_folders(bench: Bench) -> str:
    place = bench.place("watched")
    inner = place / "session" / "sample"
    inner.mkdir(parents=True)
    try:
        with _listening(bench, place):
            _move_folders(place)
    except Warned as seen:
        raise Skipped(str(seen)) from None
    return "folders below the watched one were renamed and removed"


def _move_folders(place: Path) -> None:
    try:
        (place / "session" / "sample").rename(place / "session" / "renamed")
        (place / "session").rename(place / "renamed session")
        (place / "renamed session" / "renamed").rmdir()
        (place / "renamed session").rmdir()
    except OSError as error:
        raise Failed(f"refused: {error.strerror or error}") from None


def _burst(bench: Bench) -> str:
    place = bench.place(_BURST)
    with _listening(bench, place) as listener:
        made = _make_files(place, bench.burst_files)
        wait_until(lambda: listener.names_in(place) >= made, _SILENCE_SECONDS)
        heard, overflows = listener.names_in(place), listener.overflows
    if heard < made:
        told = f"{overflows} overflows told" if overflows else "no overflow told"
        raise Warned(f"{made} files made, events for {heard} of them, {told}")
    return f"{made} files made, events for all of them"


def _make_files(place: Path, count: int) -> int:
    """Make small files as fast as the disk takes them, for a few seconds at most; return how many."""
    deadline = time.monotonic() + _MAKING_SECONDS
    for number in range(count):
        if time.monotonic() > deadline:
            return number
        (place / f"{number:05d}.part").write_bytes(b"small")
    return count


def _scan(bench: Bench) -> str:
    place = bench.folder / _BURST
    if not place.is_dir():
        raise Skipped("there was no burst of files to look over")
    made = sum(1 for _ in place.iterdir())
    started = time.monotonic()
    names, _ = list_folder(str(place), lambda name: name.endswith(".part"))
    found = sum(regular_stamp(str(place / name)) is not None for name in names)
    seconds = time.monotonic() - started
    if found < made:
        raise Failed(f"{found} of {made} files were found")
    share = 100 * seconds / AgentConfig().scan_seconds
    return f"{found} files looked over in {1000 * seconds:.0f} ms ({share:.2g} % of the time between scans)"


_SCANS: Final = "Nothing needs to be done: files are found by the scan, every few seconds instead of at once."

EVENT_TRIALS: Final = (
    Trial(
        "change events",
        "The system tells the agent at once of new, changed and renamed files.",
        _SCANS,
        _events,
    ),
    Trial(
        "our own sidecar as a signal",
        "The agent notices by its own outputs whether change events can be relied on.",
        _SCANS,
        _cookie,
    ),
    Trial(
        "folders inside while we watch",
        "Folders in the watched one can be renamed and removed as if nobody watched.",
        "Stop the agent before folders are renamed; send this report to the makers of scopewatch.",
        _watched_folders,
    ),
    Trial("burst of files", "Change events keep up with thousands of files at once.", _SCANS, _burst),
    Trial(
        "scan",
        "Looking the folder over finds every file, and takes little time.",
        "Files were overlooked: send this report to the makers of scopewatch.",
        _scan,
    ),
)
