"""What the self-test tries of the disk: what it is, its room, its names and paths, its times.

Only this module says what is unusual about a file system; the agent works on nearly all of them.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import unicodedata
from pathlib import Path
from typing import Final

import psutil

from edge_agent.config import AgentConfig
from edge_agent.files import write_durably
from edge_agent.output_places import HEATMAP_SUFFIX, NAME_LIMIT, NameTooLong, OutputPlan
from edge_agent.room import Room
from edge_agent.shared_opening import open_shared, system_path
from edge_agent.trials.trial import CONTENT, Bench, Failed, Skipped, Trial, Warned, wait_until
from edge_agent.watching.folder_listing import list_folder, regular_stamp
from edge_agent.watching.volumes import volume_of

_TIME_SECONDS: Final = 2.5
_NAMES: Final = {
    "an emoji": "particle 😀.part",
    "composed letters (NFC)": unicodedata.normalize("NFC", "Größe é.part"),
    "decomposed letters (NFD)": unicodedata.normalize("NFD", "Größe é.part"),
    "Hebrew": "צילום 7.part",
    "a dot in front": ".hidden.part",
    "a dot at the end": "ends with a dot.",
    "a space at the end": "ends with a space ",
    "a reserved word": "CON.part",
}


def _volume(bench: Bench) -> str:
    config, here, state = AgentConfig(), volume_of(bench.folder), volume_of(bench.state)
    if state.is_share:
        raise Failed(f"the agent's state lies on a share: {_volume_text(bench.state)}")
    seconds = config.share_quiet_seconds if here.is_share else config.quiet_seconds
    kind = "a share" if here.is_share else "a local disk"
    return (
        f"{_volume_text(bench.folder)}, taken for {kind}: files are read {seconds:g} s after their last change; "
        f"the agent's state is on {_volume_text(bench.state)}"
    )


def _folder_times(bench: Bench) -> str:
    place = bench.place("folder times")
    before_ns = place.stat().st_mtime_ns

    def told() -> bool:
        (place / f"{time.monotonic_ns()}.part").touch()
        return place.stat().st_mtime_ns != before_ns

    after = wait_until(told, _TIME_SECONDS)
    expected = volume_of(bench.folder).folder_times
    if after is None and expected:
        raise Warned(
            f"the time of a folder stays as it is when files are made in it ({_TIME_SECONDS:g} s long)"
        )
    if after is None:
        return "the time of a folder does not tell of files made in it, and the agent knows that"
    return f"the time of a folder tells of a new file within {max(1, 1000 * after):.0f} ms"


def _volume_text(folder: Path) -> str:
    try:
        mounts = [
            mount for mount in psutil.disk_partitions(all=True) if folder.is_relative_to(mount.mountpoint)
        ]
    except OSError as error:
        return f"unknown ({error.strerror or error})"
    if not mounts:
        return "a network share" if str(folder).startswith("\\\\") else "unknown"
    # The last of equals: a later mount lies over an earlier one.
    mount = max(mounts, key=lambda found: len(found.mountpoint))
    return f"{mount.fstype or 'no file system named'} at {mount.mountpoint}"


def _free_space(bench: Bench) -> str:
    room = Room(bench.state, floor_mib=AgentConfig().free_space_floor_mib)
    told = []
    for folder in (bench.folder.parent, bench.state.parent):
        space = room.free_space(folder)
        if space is None:
            raise Warned(f"the system does not say how much space is free at {folder}")
        if space.low:
            raise Failed(room.shortage(space) or "")
        told.append(f"{space.free_mib / 1024:.1f} GiB free at {folder}")
    return ", ".join(told)


def _forced_folder(bench: Bench) -> str:
    if sys.platform == "win32":
        raise Skipped("Windows has no such call; its file systems keep a log of renames")
    descriptor = os.open(bench.folder, os.O_RDONLY | os.O_DIRECTORY)
    started = time.monotonic()
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise Warned(f"this file system has no fsync for folders ({os.strerror(error.errno)})") from None
    finally:
        os.close(descriptor)
    return f"{1000 * (time.monotonic() - started):.0f} ms"


def _long_path(bench: Bench) -> str:
    folder = bench.place("long")
    for _ in range(3):
        folder /= "a long name of a folder, as sessions and samples have them".ljust(100, "-")
        Path(system_path(folder)).mkdir()
    path = folder / "acquisition.part"
    write_durably(path, CONTENT)
    names, _ = list_folder(str(folder), lambda name: True)
    if names != [path.name] or regular_stamp(str(path)) is None:
        raise Failed(f"written, but the folder is listed as {names}")
    with open_shared(path) as handle:
        if handle.read() != CONTENT:
            raise Failed("written, but read back otherwise")
    return f"a path of {len(str(path))} characters is listed, read and written"


def _long_name(bench: Bench) -> str:
    place, plan = bench.place("long name"), OutputPlan()
    source = place / ("n" * (NAME_LIMIT - len(HEATMAP_SUFFIX)))
    try:
        source.touch()
        write_durably(plan.place(source).heatmap, CONTENT)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG and getattr(error, "winerror", None) not in (123, 206):
            raise
        raise Warned(f"names of {NAME_LIMIT} characters are not possible here: {error.strerror}") from None
    try:
        plan.place(place / ("n" * NAME_LIMIT))
    except NameTooLong:
        return f"names of up to {len(source.name)} characters get outputs; longer ones are refused by name"
    raise Failed(f"a name of {NAME_LIMIT} characters was promised outputs, which cannot have a name")


def _odd_names(bench: Bench) -> str:
    outer = bench.place("names")
    odd = []
    for number, (kind, name) in enumerate(_NAMES.items()):
        place = outer / str(number)
        place.mkdir()
        fate = _fate_of(place, name)
        if fate is not None:
            odd.append(f"{kind}: {fate}")
    return "; ".join([f"{len(_NAMES) - len(odd)} of {len(_NAMES)} kinds of names kept as given", *odd])


def _fate_of(place: Path, name: str) -> str | None:
    """Create an empty file and say what became of its name; None when it stands as given and opens."""
    try:
        # By its plain path, as any other program would; empty, because a reserved word may be a console.
        os.close(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except OSError as error:
        return f"refused by the system ({error.strerror})"
    names, _ = list_folder(str(place), lambda found: True)
    if not names:
        return "taken by the system, no file"
    try:
        open_shared(place / names[0]).close()
    except OSError as error:
        raise Failed(f"{names[0]!r} is listed and cannot be opened: {error.strerror or error}") from None
    return None if names == [name] else f"changed to {names[0]!r}"


def _case(bench: Bench) -> str:
    place = bench.place("case")
    (place / "A.part").write_bytes(b"upper")
    (place / "a.part").write_bytes(b"lower")
    names, _ = list_folder(str(place), lambda name: True)
    if len(names) == 2:
        return "A.dm3 and a.dm3 are two files here, with a sidecar each"
    if (place / names[0]).read_bytes() != b"lower":
        raise Failed(f"two files were written, {names[0]} is left, with the content of the first")
    return "A.dm3 and a.dm3 are the same file here: the later one replaces the earlier, and its sidecar"


def _file_times(bench: Bench) -> str:
    path = bench.place("times") / "acquisition.part"
    path.write_bytes(b"one")
    asked_ns = 1_700_000_001_123_456_789
    os.utime(path, ns=(asked_ns, asked_ns))
    unit_ns = _unit_ns(path.stat().st_mtime_ns, asked_ns)
    path.write_bytes(b"one")
    first_ns = path.stat().st_mtime_ns
    ahead_seconds = first_ns / 1e9 - time.time()

    def changed() -> bool:
        path.write_bytes(b"two")
        return path.stat().st_mtime_ns != first_ns

    until = wait_until(changed, _TIME_SECONDS)
    seen = f"kept to {_duration_text(unit_ns)}"
    if abs(ahead_seconds) > max(2.0, unit_ns / 1e9):
        seen += (
            f"; the disk's clock is {abs(ahead_seconds):.0f} s {'ahead' if ahead_seconds > 0 else 'behind'}"
        )
    if until is None:
        raise Failed(f"{seen}; a file that is written again for {_TIME_SECONDS:g} s keeps its time")
    if unit_ns >= 1_000_000_000 or until >= 1:
        raise Warned(f"{seen}; a second write shows after {until:.2f} s")
    return f"{seen}; a second write shows within {max(1, 1000 * until):.0f} ms"


def _unit_ns(kept_ns: int, asked_ns: int) -> int:
    """Return the coarsest unit that explains how a time was rounded."""
    if kept_ns == asked_ns:
        return 1
    units = (2_000_000_000, 1_000_000_000, 1_000_000, 1000, 100, 10)
    return next((unit for unit in units if kept_ns % unit == 0), 1)


def _duration_text(ns: int) -> str:
    for size, unit in ((1_000_000_000, "s"), (1_000_000, "ms"), (1000, "µs")):
        if ns >= size:
            return f"{ns / size:g} {unit}"
    return f"{ns} ns"


DISK_TRIALS: Final = (
    Trial(
        "kind of disk",
        "The agent's journal lies on a local disk, and it knows shares, which need more patience.",
        "Give the agent a `state` folder on a disk of this PC.",
        _volume,
    ),
    Trial(
        "folder times",
        "A glance at a folder tells whether files were made in it, so that old ones need not be listed.",
        "Set cold_scan_seconds to scan_seconds in the configuration: every folder is then listed each time.",
        _folder_times,
    ),
    Trial(
        "free space",
        "There is room for sidecars and heatmaps above the floor that is left to the instrument.",
        "Make room on that disk, or lower free_space_floor_mib in the configuration.",
        _free_space,
    ),
    Trial(
        "folder forced to disk",
        "A file that is in place is still there after a power cut.",
        "After a power cut the last outputs may be missing; the agent makes them again at its next start.",
        _forced_folder,
    ),
    Trial(
        "long paths",
        "Files deep in folders, with paths of more than 260 characters, are found, read and given outputs.",
        "Keep paths of acquisitions below 240 characters.",
        _long_path,
    ),
    Trial(
        "long names",
        "Names as long as the system allows get outputs, or a reason.",
        "Keep names of acquisitions below 120 characters.",
        _long_name,
    ),
    Trial(
        "odd names",
        "Whatever name a file has, the agent can open it.",
        "Files with such names are reported as failing: rename them.",
        _odd_names,
    ),
    Trial(
        "upper and lower case",
        "Which names are the same file here is what the agent takes for the same file.",
        "Do not let the names of two acquisitions differ in upper and lower case only.",
        _case,
    ),
    Trial(
        "file times",
        "A file that is written again shows it by its time.",
        "Set quiet_seconds to 5 or more: only sizes tell here whether a file is still being written.",
        _file_times,
    ),
)
