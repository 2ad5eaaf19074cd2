"""When a file is tried again, and when the files of a folder are left alone.

Nothing is given up: pauses grow, and end when a file comes through. All times are on a monotonic clock that
the caller reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.files import FileStamp
    from edge_agent.sidecar import Finding
    from edge_agent.watcher import QuietFile

_RETRY_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_FAILED_PAUSES_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 10.0)


class RetryRule:
    """How long to wait before a file is tried again: longer each time, up to a minute, for ever."""

    def __init__(self) -> None:
        self._tries: dict[Path, int] = {}
        self._first: dict[Path, float] = {}
        self._seen: dict[Path, tuple[FileStamp, float]] = {}

    def pause_after(self, finding: Finding, now: float) -> float:
        """Return after how many seconds to try again."""
        tries = self._tries[finding.path] = self._tries.get(finding.path, 0) + 1
        if finding.outcome == "incomplete":
            self._first.setdefault(finding.path, now)
        return _RETRY_PAUSES_SECONDS[min(tries, len(_RETRY_PAUSES_SECONDS)) - 1]

    def rested(self, quiet: QuietFile, now: float) -> float:
        """Return for how long this state of the file has been known."""
        stamp, since = self._seen.get(quiet.path, (None, now))
        if stamp != quiet.stamp:
            self._seen[quiet.path] = (quiet.stamp, now)
            return 0.0
        return now - since

    def incomplete_seconds(self, path: Path, now: float) -> float:
        """Return for how long the file has been known as incomplete."""
        return now - self._first.get(path, now)

    def forget(self, path: Path) -> None:
        """Start afresh with a file that is done."""
        self._tries.pop(path, None)
        self._first.pop(path, None)
        self._seen.pop(path, None)


class UnwritableFolders:
    """Folders whose outputs cannot be written: to infer each of their files again and again would be in vain.

    One file at a time is tried, another one each time: it may be the fault of a single file's outputs.
    """

    def __init__(self) -> None:
        self._again: dict[Path, tuple[float, int]] = {}

    def wait_seconds(self, folder: Path, now: float) -> float:
        """Return how long to leave the files of a folder alone; 0 when one may be tried."""
        return max(0.0, self._again.get(folder, (now, 0))[0] - now)

    def fail(self, folder: Path, now: float) -> float:
        """Note that a file failed; return after how many seconds to try it again, after its neighbours."""
        _, failures = self._again.get(folder, (now, 0))
        pause = _FAILED_PAUSES_SECONDS[min(failures, len(_FAILED_PAUSES_SECONDS) - 1)]
        self._again[folder] = (now + pause, failures + 1)
        return 2.0 * pause

    def succeed(self, folder: Path) -> None:
        """Note that a file of the folder came through."""
        self._again.pop(folder, None)
