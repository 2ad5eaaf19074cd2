"""How much the page's pictures take on the disk: counted now and then, and the oldest removed.

Nothing is counted at the start, and no picture waits for it. Only this module removes pictures.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.preview_files import PICTURE_LIMIT_BYTES, Kind, is_left_over, kept_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.preview_files import Kept

FIRST_COUNT_SECONDS: Final = 60.0
"""After a start the PC has better things to do."""
PAUSE_SECONDS: Final = 0.02
"""Between two of the 256 sub-folders."""
THUMB_SHARE: Final = 0.25
"""So much of the room is for thumbnails at most, some 30,000 in half a gibibyte; pictures have the rest."""
FILLED: Final = 0.9
"""What is left after a removal, so that the next is not due at the next picture."""
USUAL_BYTES: Final = 200_000
"""Of a picture with its thumbnail, before any was counted."""
_MIB: Final = 2**20
_SIZE_BITS: Final = 32
_SIZE_MASK: Final[int] = 2**32 - 1
_log = logging.getLogger(__name__)


class PictureBudget:
    """Keep what lies in `folder` below `limit_mib`. `note` is quick and may come from any thread."""

    def __init__(
        self,
        folder: Path,
        limit_mib: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_mib * _MIB
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._busy = False
        self._count_due: float | None = clock() + FIRST_COUNT_SECONDS
        self._bytes = 0
        self._usual_bytes = USUAL_BYTES

    def note(self) -> None:
        """Hear that another picture was kept; when it is time, count and remove in a thread of its own."""
        with self._lock:
            self._bytes += self._usual_bytes
            counted = self._count_due is None
            due = self._bytes > self._limit_bytes if counted else self._clock() >= (self._count_due or 0.0)
            if self._busy or not due or self._stop.is_set():
                return
            self._busy = True
        threading.Thread(target=self._run, name="page-picture-budget", daemon=True).start()

    def close(self) -> None:
        """Stop counting and removing."""
        self._stop.set()

    def keep_within(self) -> int:
        """Count everything, and remove the oldest until there is room; return how many were removed."""
        ages: dict[Kind, array[int]] = {"picture": array("Q"), "thumb": array("Q")}
        now = time.time()
        for kept in self._each():
            if kept.kind is not None:
                ages[kept.kind].append(_packed(kept))
            elif is_left_over(kept, now):
                _remove(kept)
        sizes = {kind: sum(map(_size_of, packed)) for kind, packed in ages.items()}
        cuts, left = self._cuts(ages, sizes)
        removed = self._remove_until(cuts) if any(cuts.values()) else 0
        with self._lock:
            self._bytes, self._count_due = left, None
            self._usual_bytes = max(1, sum(sizes.values()) // max(1, len(ages["picture"])))
        if removed:
            _log.info("%d of the page's pictures were removed to make room for new ones", removed)
        return removed

    def _run(self) -> None:
        try:
            self.keep_within()
        finally:
            self._busy = False

    def _cuts(self, ages: dict[Kind, array[int]], sizes: dict[Kind, int]) -> tuple[dict[Kind, int], int]:
        """Return the time up to which pictures of each kind go (0: none), and how many bytes stay."""
        most_thumbs = int(self._limit_bytes * THUMB_SHARE)
        cuts: dict[Kind, int] = {"picture": 0, "thumb": 0}
        if sum(sizes.values()) <= self._limit_bytes and sizes["thumb"] <= most_thumbs:
            return cuts, sum(sizes.values())
        cuts["thumb"], thumbs = _cut(ages["thumb"], sizes["thumb"], most_thumbs)
        cuts["picture"], pictures = _cut(ages["picture"], sizes["picture"], self._limit_bytes - thumbs)
        return cuts, thumbs + pictures

    def _remove_until(self, cuts: dict[Kind, int]) -> int:
        removed = 0
        for kept in self._each():
            if kept.kind is not None and _moment(kept) <= cuts[kept.kind]:
                removed += _remove(kept)
        return removed

    def _each(self) -> Iterator[Kept]:
        for place in kept_in(self._folder):
            if self._stop.is_set():
                return
            yield from place
            self._stop.wait(self._pause_seconds)


def _cut(packed: array[int], size_bytes: int, most_bytes: int) -> tuple[int, int]:
    """Return the time up to which files must go for `most_bytes` (0: none has to), and how many bytes stay."""
    moment = 0
    if size_bytes <= most_bytes:
        return moment, size_bytes
    most_bytes = int(most_bytes * FILLED)
    for one in sorted(packed):
        if size_bytes <= most_bytes and one >> _SIZE_BITS != moment:
            break
        size_bytes, moment = size_bytes - _size_of(one), one >> _SIZE_BITS
    return moment, size_bytes


def _packed(kept: Kept) -> int:
    """Time and size in one number: a hundred thousand of these are 0.8 MB."""
    return _moment(kept) << _SIZE_BITS | min(kept.size_bytes, PICTURE_LIMIT_BYTES)


def _moment(kept: Kept) -> int:
    """Return whole seconds since 1970: what is as old goes together."""
    return max(0, min(int(kept.modified), 2**32 - 1))


def _size_of(packed: int) -> int:
    return packed & _SIZE_MASK


def _remove(kept: Kept) -> bool:
    with contextlib.suppress(OSError):
        Path(kept.path).unlink()
        return True
    return False
