"""What the self-test tries with writers: theirs must not notice us reading, ours must get its files into place.

On Windows it proves what tests elsewhere could only prove against a stand-in of the system.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from edge_agent.files import FileLayer, is_our_temporary, write_durably
from edge_agent.shared_opening import PASSING_WINDOWS_ERRORS, open_shared
from edge_agent.trials.trial import CONTENT, Bench, Failed, Trial

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HELD_SECONDS: Final = 0.5
_REPLACES: Final = 200
_REPLACING_SECONDS: Final = 5.0
_SCANNED_FILES: Final = 100
_SCANNED_NAMES: Final = 5
_SCANNED_SECONDS: Final = 0.02


def _writer_trial(name: str, act: Callable[[Path], None]) -> Callable[[Bench], str]:
    """Return a trial in which a writer does `act` to a file that we hold open, half read."""

    def run(bench: Bench) -> str:
        path = bench.place(f"writer {name}") / "acquisition.part"
        path.write_bytes(CONTENT)
        with open_shared(path) as handle:
            handle.read(1000)
            try:
                act(path)
            except OSError as error:
                raise Failed(f"the writer got an error: {error.strerror or error}") from None
            handle.read()
        return "the writer got no error"

    return run


def _rename(path: Path) -> None:
    path.rename(path.with_name("renamed.part"))


def _delete(path: Path) -> None:
    path.unlink()


def _delete_and_remake(path: Path) -> None:
    path.unlink()
    path.open("xb").close()


def _replace(path: Path) -> None:
    newer = path.with_name("newer.part")
    newer.write_bytes(CONTENT)
    newer.replace(path)


def _truncate(path: Path) -> None:
    path.open("wb").close()


def _append(path: Path) -> None:
    with path.open("ab") as handle:
        handle.write(CONTENT)


def _durable_write(bench: Bench) -> str:
    place = bench.place("durable")
    path = place / "record.part"
    path.write_bytes(b"old")
    started = time.monotonic()
    write_durably(path, CONTENT)
    milliseconds = 1000 * (time.monotonic() - started)
    left = [item.name for item in place.iterdir()]
    if path.read_bytes() != CONTENT or left != [path.name]:
        raise Failed(f"the new content is not there alone: the folder holds {left}")
    return f"in place after {milliseconds:.0f} ms"


def _held_target(bench: Bench) -> str:
    path = bench.place("held") / "record.part"
    path.write_bytes(b"old")
    # As an antivirus or a viewer does it: on Windows, Python's own open keeps others from replacing the file.
    handle = path.open("rb")
    release = threading.Timer(_HELD_SECONDS, handle.close)
    release.start()
    started = time.monotonic()
    try:
        write_durably(path, CONTENT)
        waited = time.monotonic() - started
    finally:
        release.join()
    if path.read_bytes() != CONTENT:
        raise Failed("the old content is still there")
    return f"replaced after {waited:.2f} s; the other program let go after {_HELD_SECONDS:g} s"


class _CountingLayer(FileLayer):
    """The real system without forced writes; counts how often replacing was refused for a moment."""

    def __init__(self) -> None:
        super().__init__("selftest")
        self.refused = 0

    def fsync(self, descriptor: int) -> None:
        """Not what is measured here."""

    def fsync_folder(self, folder: Path) -> None:
        """Not what is measured here."""

    def replace(self, source: Path, target: Path) -> None:
        try:
            super().replace(source, target)
        except OSError as error:
            self.refused += getattr(error, "winerror", None) in PASSING_WINDOWS_ERRORS
            raise


def _many_replaces(bench: Bench) -> str:
    path = bench.place("replaces") / "record.part"
    layer, done, slowest = _CountingLayer(), 0, 0.0
    deadline = time.monotonic() + _REPLACING_SECONDS
    while done < _REPLACES and time.monotonic() < deadline:
        started = time.monotonic()
        write_durably(path, CONTENT, layer)
        slowest, done = max(slowest, time.monotonic() - started), done + 1
    return (
        f"{done} files replaced, {layer.refused} refusals by an antivirus or indexer waited out, "
        f"the slowest took {1000 * slowest:.0f} ms"
    )


class _Scanner:
    """Open each file of a folder as soon as it is there, and keep it open for a moment, as an antivirus does.

    By Python's own open, which on Windows keeps others from replacing and deleting the file meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scan, name="scanner")
        self.opened = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _scan(self) -> None:
        seen: set[tuple[str, int]] = set()
        while not self._ended.is_set():
            with suppress(OSError):
                for path in self._folder.iterdir():
                    self._look(path, seen)

    def _look(self, path: Path, seen: set[tuple[str, int]]) -> None:
        with suppress(OSError):
            key = (path.name, path.stat().st_mtime_ns)
            if key not in seen:
                seen.add(key)
                with path.open("rb") as handle:
                    handle.read(1)
                    self.opened += 1
                    self._ended.wait(_SCANNED_SECONDS)


def _scanned_outputs(bench: Bench) -> str:
    place = bench.place("scanner")
    layer, done, slowest = _CountingLayer(), 0, 0.0
    deadline = time.monotonic() + _REPLACING_SECONDS
    with _Scanner(place) as scanner:
        while done < _SCANNED_FILES and time.monotonic() < deadline:
            path = place / f"{done % _SCANNED_NAMES}.json"
            content = b"%d" % done
            started = time.monotonic()
            write_durably(path, content, layer)
            slowest, done = max(slowest, time.monotonic() - started), done + 1
            if path.read_bytes() != content:
                raise Failed(f"{path.name} holds something else than was written")
    left = [path.name for path in place.iterdir() if is_our_temporary(path)]
    if left:
        raise Failed(f"{len(left)} temporary files are left, for example {left[0]}")
    return (
        f"{done} outputs written while a scanner opened {scanner.opened} of them, {layer.refused} refusals "
        f"waited out, the slowest took {1000 * slowest:.0f} ms"
    )


_NOTICED: Final = (
    "The acquisition software got an error because the agent was reading. Send this report to the makers of "
    "scopewatch; until then let the agent watch a copy of the folder."
)

WRITER_TRIALS: Final = (
    *(
        Trial(
            f"{name} while we read",
            f"The acquisition software may have a file {name} while the agent has it open.",
            _NOTICED,
            _writer_trial(name, act),
        )
        for name, act in (
            ("renamed", _rename),
            ("deleted", _delete),
            ("deleted and made anew", _delete_and_remake),
            ("replaced", _replace),
            ("truncated", _truncate),
            ("appended to", _append),
        )
    ),
    Trial(
        "durable write",
        "A sidecar gets into place whole, over an older one, and leaves no temporary file.",
        "Outputs cannot be kept here: give the agent another place with --output.",
        _durable_write,
    ),
    Trial(
        "another program holds the target",
        "The agent waits for an antivirus, an indexer or a viewer that has an output open.",
        "Exclude *.json and *.heatmap.png of this folder from the antivirus, or use --output.",
        _held_target,
    ),
    Trial(
        "many replaces",
        "An antivirus or indexer delays outputs at most; none is lost.",
        "Exclude *.json and *.heatmap.png of this folder from the antivirus, or use --output.",
        _many_replaces,
    ),
    Trial(
        "scanner on new outputs",
        "A scanner that opens each output the moment it appears delays it at most; none is lost or mixed up.",
        "Exclude *.json and *.heatmap.png of this folder from the antivirus, or use --output.",
        _scanned_outputs,
    ),
)
