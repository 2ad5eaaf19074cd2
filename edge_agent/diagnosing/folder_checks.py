"""What doctor asks of one folder: may we list, read and write, do events arrive, which disk is it, whose clock.

A program too, because a dead share holds whoever asks it: doctor runs it apart, with a time limit. In the folder it
touches one sub-folder of its own, which it removes; of others' files it opens one, for reading, as the agent does.
Standard library only, but for watchdog where it can be imported. What Windows answers is not verified on Windows.
"""

from __future__ import annotations

import fnmatch
import getpass
import json
import os
import secrets
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.diagnosing.diagnosis import Line, as_json, fail, marked, ok, skip, warn
from edge_agent.diagnosing.mounts import disk_text, volume_on_this_pc
from edge_agent.diagnosing.windows_facts import DRIVE_REMOTE, RealWindows
from edge_agent.output_places import HEATMAP_SUFFIX, NAME_LIMIT, is_own_output
from edge_agent.shared_opening import open_shared
from edge_agent.watching.volumes import is_unc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_agent.diagnosing.windows_facts import WindowsFacts
    from edge_agent.watching.volumes import Volume

OWN: Final = ".scopewatch-doctor-"
_EVENT_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 0.3
_LOOKING_SECONDS: Final = 10.0
_CLOCK_SECONDS: Final = 2.0
_ABANDONED_SECONDS: Final = 3600.0
_SCANS: Final = "nothing needs to be done: files are found by the scan, every scan_seconds instead of at once"
_WATCHES: Final = Path("/proc/sys/fs/inotify/max_user_watches")


@dataclass(frozen=True, slots=True)
class Inside:
    """What lies in a folder and below it; `cut_off` when looking took too long."""

    folders: int = 0
    micrographs: int = 0
    too_long: int = 0
    example: Path | None = None
    cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One folder, and what the configuration says about it. Tests replace the edges at the end."""

    folder: Path
    output: Path | None = None
    include: tuple[str, ...] = ("*.dm3", "*.dm4")
    quiet_seconds: float = 1.0
    share_quiet_seconds: float = 3.0
    volume: Callable[[Path], Volume] = volume_on_this_pc
    disk: Callable[[Path], str] = disk_text
    windows: WindowsFacts | None = field(
        default_factory=lambda: RealWindows() if sys.platform == "win32" else None
    )
    now: Callable[[], float] = time.time
    heard: Callable[[Path], float | None] = field(default_factory=lambda: own_event_seconds)

    @property
    def target(self) -> Path:
        """Where outputs go."""
        return self.output or self.folder


def folder_lines(asked: Asked) -> Iterator[Line]:
    """Judge one folder. Never raises OSError."""
    yield from drive_lines(asked)
    try:
        inside = look_inside(asked)
    except OSError as error:
        yield _not_listed(asked, error)
        return
    yield ok("folder listed", f"{asked.folder}: {_told(inside)}; as {account()}")
    yield _read_line(inside)
    yield from _own_lines(asked)
    yield watch_line(asked.folder, inside)
    yield names_line(asked.target, inside)
    if asked.windows is not None:
        yield long_paths_line(asked.windows)


def drive_lines(asked: Asked) -> Iterator[Line]:
    """Say which kind of disk it is, and which way a service can reach it."""
    volume = asked.volume(asked.folder)
    seconds = asked.share_quiet_seconds if volume.is_share else asked.quiet_seconds
    kind = "a network share" if volume.is_share else "a local disk"
    disk = asked.disk(asked.folder)
    where = f"{kind} ({disk})" if disk else kind
    yield ok(
        "kind of disk", f"{asked.folder} is on {where}: files are read {seconds:g} s after their last change"
    )
    letter = asked.folder.drive if asked.windows is not None else ""
    if asked.windows is None or is_unc(str(asked.folder)) or len(letter) != 2:
        return
    if asked.windows.drive_kind(f"{letter}\\") == DRIVE_REMOTE:
        share = asked.windows.share_of(letter)
        named = f"{share}{str(asked.folder)[2:]}" if share else "\\\\server\\share\\..."
        yield warn(
            "mapped drive",
            f"{letter} is a drive letter of whoever is logged on; a service does not have it",
            f"write the share's own name into the configuration: {named}",
        )


def _not_listed(asked: Asked, error: OSError) -> Line:
    seen = f"{asked.folder}: {error.strerror or error}; as {account()}"
    if isinstance(error, FileNotFoundError):
        return warn(
            "folder listed", seen, "the agent waits for it to appear; check its name, or connect the share"
        )
    if isinstance(error, NotADirectoryError):
        return fail("folder listed", seen, "name the folder that the acquisition software saves into")
    return fail("folder listed", seen, f"give {account()} the right to list and read it")


def _told(inside: Inside) -> str:
    told = f"{inside.micrographs} micrographs in {inside.folders} folders"
    return f"more than {told}" if inside.cut_off else told


def look_inside(asked: Asked, seconds: float = _LOOKING_SECONDS) -> Inside:
    """Count what is below the folder, for a while at most. Raises OSError when it cannot be listed itself."""
    deadline, waiting = time.monotonic() + seconds, [asked.folder]
    folders = micrographs = too_long = 0
    example: Path | None = None
    while waiting and time.monotonic() < deadline:
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError:
            if place == asked.folder:
                raise
            continue
        folders += 1
        waiting += [Path(entry.path) for entry in entries if _is_folder(entry)]
        found = [Path(entry.path) for entry in entries if _is_micrograph(entry.name, asked.include)]
        micrographs += len(found)
        too_long += sum(has_no_room(path.name) for path in found)
        example = example or next(iter(found), None)
    return Inside(folders, micrographs, too_long, example, bool(waiting))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _is_micrograph(name: str, include: tuple[str, ...]) -> bool:
    lowered = name.casefold()
    return not is_own_output(name) and any(fnmatch.fnmatch(lowered, item.casefold()) for item in include)


def has_no_room(name: str, limit: int = NAME_LIMIT) -> bool:
    """Whether a name leaves no room for the longer one of the two suffixes."""
    whole = name + HEATMAP_SUFFIX
    units = (
        len(whole.encode("utf-16-le", "surrogatepass")) // 2 if os.name == "nt" else len(os.fsencode(whole))
    )
    return units > limit


def _read_line(inside: Inside) -> Line:
    if inside.example is None:
        return skip("file read", "there is no micrograph to read yet")
    try:
        with open_shared(inside.example) as handle:
            handle.read(1)
    except OSError as error:
        return fail(
            "file read",
            f"{inside.example}: {error.strerror or error}; as {account()}",
            f"give {account()} the right to read the files in it",
        )
    return ok("file read", f"{inside.example}, as {account()}")


def _own_lines(asked: Asked) -> Iterator[Line]:
    """Make one sub-folder where outputs go, try in it, and remove it whatever happens."""
    own = asked.target / f"{OWN}{secrets.token_hex(4)}"
    try:
        _remove_abandoned(asked.target)
        own.mkdir()
    except OSError as error:
        yield _not_written(asked, error)
        return
    try:
        yield from _tried_lines(asked, own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    if own.exists():
        yield fail(
            "outputs deleted",
            f"{own} cannot be removed",
            f"give {account()} the right to delete; then delete it",
        )


def _remove_abandoned(target: Path) -> None:
    """Remove what a doctor that was killed left behind; one that still runs is younger than an hour."""
    for place in target.glob(f"{OWN}*"):
        if (
            place.is_dir()
            and not place.is_symlink()
            and time.time() - place.stat().st_mtime > _ABANDONED_SECONDS
        ):
            shutil.rmtree(place, ignore_errors=True)


def _not_written(asked: Asked, error: OSError) -> Line:
    seen = f"nothing can be made in {asked.target}: {error.strerror or error}; as {account()}"
    if asked.output is None:
        return fail(
            "outputs written",
            seen,
            f"give {account()} the right to write there, or set `output` to another folder",
        )
    if isinstance(error, FileNotFoundError):
        return _can_be_made(asked.target)
    return fail("outputs written", seen, f"give {account()} the right to write there")


def _can_be_made(target: Path) -> Line:
    """An output folder that is not there is made by the agent: its nearest existing parent has to allow it."""
    parent = next((place for place in target.parents if place.exists()), target)
    if os.access(parent, os.W_OK):
        return ok("outputs written", f"{target} is not there yet and can be made in {parent}; as {account()}")
    return fail(
        "outputs written", f"{target} cannot be made in {parent}", f"make it for {account()}, or set `output`"
    )


def _tried_lines(asked: Asked, own: Path) -> Iterator[Line]:
    file = own / "doctor.part"
    try:
        file.write_bytes(b"doctor")
        made = file.stat().st_mtime
        if file.read_bytes() != b"doctor":
            raise OSError("another content comes back")
        file.replace(own / "doctor.txt")
        (own / "doctor.txt").unlink()
    except OSError as error:
        yield _not_written(asked, error)
        return
    yield ok(
        "outputs written", f"a file of ours was made, replaced and deleted in {asked.target}, as {account()}"
    )
    yield disk_clock_line(made - asked.now(), asked.target)
    if asked.output is None:
        yield _event_line(asked, own)
    else:
        yield skip("change events", "outputs go elsewhere, so nothing of ours is made in the watched folder")


def disk_clock_line(ahead_seconds: float, place: Path) -> Line:
    """Compare the clock of the disk (a file server's is its own) with that of this PC."""
    if abs(ahead_seconds) <= _CLOCK_SECONDS:
        return ok("clock of the disk", f"{place}: as this PC's, within {_CLOCK_SECONDS:g} s")
    side = "ahead of" if ahead_seconds > 0 else "behind"
    return warn(
        "clock of the disk",
        f"{place}: {abs(ahead_seconds):.0f} s {side} this PC's",
        "let both take their time from one source; the agent works, but times of files and answers disagree",
    )


def _event_line(asked: Asked, own: Path) -> Line:
    try:
        after_seconds = asked.heard(own)
    except ImportError as error:
        return skip("change events", f"cannot be tried: {error}")
    except OSError as error:
        return warn("change events", f"the system gives none here: {error.strerror or error}", _SCANS)
    if after_seconds is None:
        return warn("change events", f"none within {_EVENT_SECONDS:g} s for a file of ours", _SCANS)
    return ok("change events", f"heard of a file of ours after {1000 * after_seconds:.0f} ms")


def own_event_seconds(own: Path) -> float | None:
    """Return after how long a change of our own file was heard of, None for never.

    Raises ImportError without watchdog, OSError where the system gives no watch.
    """
    from edge_agent.watching.change_events import NativeHints

    hints, told = NativeHints(), threading.Event()
    hints.start(own, lambda path: told.set(), lambda: None)
    try:
        time.sleep(_SETTLE_SECONDS)
        told.clear()
        started = time.monotonic()
        (own / "event.part").write_bytes(b"doctor")
        return time.monotonic() - started if told.wait(_EVENT_SECONDS) else None
    finally:
        hints.stop()


def watch_line(folder: Path, inside: Inside, watches: Path = _WATCHES) -> Line:
    """Compare the number of folders with how many Linux lets one user watch."""
    try:
        limit = int(watches.read_text("ascii"))
    except (OSError, ValueError):
        return skip("watch limit", "this system has none that is told")
    seen = f"{inside.folders}{' or more' if inside.cut_off else ''} folders below {folder}, {limit} watches a user"
    if inside.folders > limit // 2:
        return warn("watch limit", seen, "an administrator runs: sysctl fs.inotify.max_user_watches=1048576")
    return ok("watch limit", seen)


def names_line(target: Path, inside: Inside) -> Line:
    """Say whether names leave room for those of outputs."""
    longest, path = NAME_LIMIT, ""
    with suppress(OSError, ValueError, AttributeError):
        longest = os.pathconf(target, "PC_NAME_MAX")
        path = f", paths of up to {os.pathconf(target, 'PC_PATH_MAX')} bytes"
    room = longest - len(HEATMAP_SUFFIX)
    if inside.too_long:
        return warn(
            "long names",
            f"{inside.too_long} micrographs have names without room for {HEATMAP_SUFFIX}",
            f"keep names of acquisitions below {room} bytes: those are refused, by name",
        )
    if longest < NAME_LIMIT:
        return warn("long names", f"{longest} bytes a name at {target}", f"keep names below {room} bytes")
    return ok("long names", f"names of up to {room} bytes get outputs{path}")


def long_paths_line(windows: WindowsFacts) -> Line:
    """Say whether other programs can open long paths; the agent always can. Not verified on Windows."""
    if windows.long_paths():
        return ok("long paths", "LongPathsEnabled is set")
    return ok(
        "long paths",
        "LongPathsEnabled is not set: the agent takes paths above 260 characters, other programs may not",
    )


def account() -> str:
    """Return the name this runs as: a service runs as another, and needs the same rights."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"user {os.getuid()}" if hasattr(os, "getuid") else "an unknown user"


def main() -> None:
    """Take what is asked as JSON in the one argument, and print one line of JSON for each verdict."""
    values = json.loads(sys.argv[1])
    asked = Asked(
        Path(values["folder"]),
        Path(values["output"]) if values["output"] else None,
        tuple(values["include"]),
        values["quiet_seconds"],
        values["share_quiet_seconds"],
    )
    for line in folder_lines(asked):
        sys.stdout.write(json.dumps(as_json(marked(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
