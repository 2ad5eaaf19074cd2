"""Rows 15 and 35 of the catalogue: the disk fills, stays full, has room again.

Runs the agent on a small tmpfs (mounting one needs root on Linux). Nothing half may be left at any moment, the
floor of free space is the instrument's, files wait without noise, and all is made up for once there is room.
Full run: `python tests/faults/full_disk.py [--shard I/N] [--record FILE]`.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import Agent, AgentTrouble, Bar, audit, digest, long_tier, run_units, small_dm3

from edge_agent.files import FileLayer, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MIB: Final = 2**20
FILLING_SECONDS: Final = 20.0
STANDING_SECONDS: Final = 130.0
"""How long the disk stays full in the long tier, so that a line a minute would show."""
RECOVERY_SECONDS: Final = 30.0
BELOW_FLOOR_MIB: Final = 0.0
"""The worker looks at the free space before each output."""
_LOG_LINE: Final = re.compile(r"^\d{4}-\d\d-\d\d .*(WARNING|ERROR|CRITICAL)", re.MULTILINE)
BARS: Final = (
    Bar("lost"),
    Bar("stale"),
    Bar("half at any moment"),
    Bar("leftovers"),
    Bar("quarantined"),
    Bar("not classified"),
    Bar("ended by itself"),
    Bar("tracebacks"),
    Bar("max_recovery_seconds", RECOVERY_SECONDS),
    Bar("max_log_lines_above_one_a_minute"),
    Bar("max_mib_below_the_floor", BELOW_FLOOR_MIB),
    Bar("torn after a write that ran out of room"),
)


def why_not() -> str | None:
    """The reason why small disks cannot be had here, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a small tmpfs needs root on Linux"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
            return None
    return "mounting a tmpfs is not allowed here"


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mounted tmpfs and the ballast in it that takes the room away."""

    folder: Path

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def leave(self, free_bytes: int) -> None:
        """Take or give room until exactly so much is free (whole pages, rounded down).

        The agent writes meanwhile: what was free a moment ago may be taken now.
        """
        ballast = self.folder / "ballast"
        ballast.touch()
        deadline, refusal = time.monotonic() + FILLING_SECONDS, None
        with ballast.open("r+b") as file:
            while (excess := self.free_bytes() - free_bytes) >= mmap.PAGESIZE or excess < 0:
                # Not its length: what could not be had is part of that.
                length = max(0, 512 * ballast.stat().st_blocks + excess)
                try:
                    file.truncate(length)
                    if length:
                        os.posix_fallocate(file.fileno(), 0, length)
                except OSError as error:
                    refusal = error
                if time.monotonic() > deadline:
                    raise AgentTrouble(
                        f"{self.folder} cannot be filled: {self.free_bytes()} bytes are free, not {free_bytes}: "
                        f"{refusal}"
                    )
                time.sleep(0.01)


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size; it is gone afterwards, with all in it."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(folder)], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Watched:
    """The scope folder of a unit: saves files, and keeps looking for what must never be seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected: dict[Path, str] = {}
        self.half: set[str] = set()
        self._half_at_last_look: set[str] = set()

    def save(self, name: str, seed: int) -> None:
        content = small_dm3(seed)
        (self.folder / name).write_bytes(content)
        self.expected[self.folder / name] = digest(content)

    def look(self) -> bool:
        """Note what is half and stays so (between two renames it is for a moment); return whether all is done."""
        seen = audit(self.expected)
        self.half |= set(seen.half) & self._half_at_last_look
        self._half_at_last_look = set(seen.half)
        return not (seen.missing or seen.stale or seen.half)

    def figures(self, agent: Agent) -> dict[str, float | str]:
        seen = audit(self.expected)
        log = agent.text()
        return {
            "files": len(self.expected),
            "lost": len(seen.missing),
            "stale": len(seen.stale),
            "half at any moment": len(self.half | set(seen.half)),
            "leftovers": len(seen.leftovers),
            "quarantined": len(seen.quarantined),
            "not classified": sum(n for outcome, n in seen.outcomes.items() if outcome != "classified"),
            "ended by itself": agent.exit_code is not None,
            "tracebacks": log.count("Traceback"),
            "trouble": "" if seen.ok and not self.half else f"{sorted(self.half)[:3]} {seen.text()}",
            "log": log[log.index("Traceback") :][:3000] if "Traceback" in log else "",
        }


def outputs_fill_the_disk(folder: Path, standing_seconds: float) -> dict[str, float | str]:
    """The disk of the micrographs is full to the last page while files wait."""
    with (
        small_disk(folder / "disk", 16) as disk,
        Agent(disk.folder / "scope", place=folder / "agent") as agent,
    ):
        watched = Watched(disk.folder / "scope")
        agent.start().wait_ready()
        watched.save("before.dm3", 1)
        agent.wait_for(watched.look, 60, "the first answer")
        for number in range(5):
            watched.save(f"waiting {number}.dm3", 10 + number)
        disk.leave(0)
        lines = _stand(agent, watched, standing_seconds)
        disk.leave(8 * MIB)
        recovery = _recover(agent, watched)
        return watched.figures(agent) | lines | {"max_recovery_seconds": recovery}


def floor_is_respected(folder: Path, standing_seconds: float) -> dict[str, float | str]:
    """Outputs come near the floor of free space: what lies below it is not touched."""
    floor = 20 * MIB
    with (
        small_disk(folder / "disk", 48) as disk,
        Agent(disk.folder / "scope", place=folder / "agent", free_space_floor_mib=20) as agent,
    ):
        watched = Watched(disk.folder / "scope")
        for number in range(60):
            watched.save(f"{number}.dm3", number)
        disk.leave(floor + MIB)
        agent.start().wait_ready()
        lowest = [disk.free_bytes()]
        lines = _stand(agent, watched, standing_seconds, lambda: lowest.append(disk.free_bytes()))
        waiting = len(audit(watched.expected).missing)
        disk.leave(floor + 24 * MIB)
        recovery = _recover(agent, watched)
        return watched.figures(agent) | lines | {
            "waited at the floor": waiting,
            "max_mib_below_the_floor": max(0.0, (floor - min(lowest)) / MIB),
            "max_recovery_seconds": recovery,
        }  # fmt: skip


def state_fills_its_disk(folder: Path, standing_seconds: float) -> dict[str, float | str]:
    """No room for journal, status and log: the micrographs are answered all the same."""
    with (
        small_disk(folder / "disk", 4) as disk,
        Agent(folder / "scope", place=folder / "agent", state=disk.folder / "state") as agent,
    ):
        watched = Watched(folder / "scope")
        agent.start().wait_ready()
        watched.save("before.dm3", 1)
        agent.wait_for(watched.look, 60, "the first answer")
        disk.leave(0)
        for number in range(10):
            watched.save(f"{number}.dm3", 10 + number)
        while_full = _recover(agent, watched)
        lines = _stand(agent, watched, standing_seconds)
        disk.leave(3 * MIB)
        watched.save("after.dm3", 2)
        recovery = _recover(agent, watched)
        return watched.figures(agent) | lines | {"max_recovery_seconds": max(while_full, recovery)}


def start_with_a_full_state_disk(folder: Path, standing_seconds: float) -> dict[str, float | str]:
    """The agent is killed, its disk fills, it is started again, and answers."""
    with (
        small_disk(folder / "disk", 4) as disk,
        Agent(folder / "scope", place=folder / "agent", state=disk.folder / "state") as agent,
    ):
        watched = Watched(folder / "scope")
        agent.start().wait_ready()
        watched.save("before.dm3", 1)
        agent.wait_for(watched.look, 60, "the first answer")
        agent.kill()
        disk.leave(0)
        watched.save("while full.dm3", 2)
        agent.start().wait_ready()
        while_full = _recover(agent, watched)
        disk.leave(3 * MIB)
        watched.save("after.dm3", 3)
        recovery = _recover(agent, watched)
        return watched.figures(agent) | {"max_recovery_seconds": max(while_full, recovery)}


def fills_at_page(page: int, folder: Path) -> dict[str, float | str]:
    """Room for `page` pages of the outputs of a new and of an overwritten file, and not one more."""
    with (
        small_disk(folder / "disk", 8) as disk,
        Agent(disk.folder / "scope", place=folder / "agent") as agent,
    ):
        watched = Watched(disk.folder / "scope")
        watched.save("overwritten.dm3", 1)
        agent.start().wait_ready()
        agent.wait_for(watched.look, 60, "the first answer")
        watched.save("overwritten.dm3", 2)
        watched.save("new.dm3", 3)
        disk.leave(page * 4096)
        _stand(agent, watched, 3.0)
        disk.leave(4 * MIB)
        recovery = _recover(agent, watched)
        return watched.figures(agent) | {"max_recovery_seconds": recovery}


class FullAfter(FileLayer):
    """A disk that takes so many bytes of a write and not one more."""

    def __init__(self, taken_bytes: int) -> None:
        super().__init__("fill")
        self._left = taken_bytes

    def write(self, descriptor: int, data: memoryview) -> int:
        """Take what there is room for; then there is none."""
        if not self._left:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = super().write(descriptor, data[: self._left])
        self._left -= taken
        return taken


def every_offset(folder: Path, data: bytes, earlier: bytes | None, stride: int = 1) -> dict[str, float | str]:
    """Let a durable write run out of room at every byte: the old file stays, and nothing else."""
    target, torn, offsets = folder / "a.dm3.json", [], range(0, len(data), stride)
    for offset in offsets:
        if earlier is not None:
            target.write_bytes(earlier)
        try:
            write_durably(target, data, FullAfter(offset))
        except OSError as error:
            complaint = None if error.errno == errno.ENOSPC else str(error)
        else:
            complaint = "no error"
        left = sorted(path.name for path in folder.iterdir())
        content = target.read_bytes() if target.exists() else None
        if complaint or content != earlier or left != ([target.name] if earlier is not None else []):
            torn.append(f"byte {offset}: {complaint or left}")
    return {
        "writes that ran out of room": len(offsets),
        "torn after a write that ran out of room": len(torn),
        "trouble": "\n".join(torn[:3]),
    }


def _stand(
    agent: Agent, watched: Watched, seconds: float, look: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Let the fault stand for a while; return how many log lines it caused beyond one a minute."""
    before = len(_LOG_LINE.findall(agent.text()))
    lines_before, end = agent.text().count("\n"), time.monotonic() + seconds
    while time.monotonic() < end:
        watched.look()
        for _ in range(20):
            look()
            time.sleep(0.01)
    lines = len(_LOG_LINE.findall(agent.text())) - before
    return {
        "max_log_lines_above_one_a_minute": max(0, lines - 1 - int(seconds // 60)),
        "max_lines_of_any_kind": agent.text().count("\n") - lines_before,
    }


def _recover(agent: Agent, watched: Watched) -> float:
    """Wait until every file has its answer; return the seconds, or more than allowed when it never came."""
    started = time.monotonic()
    try:
        agent.wait_for(
            lambda: time.sleep(0.2) or watched.look(), 3 * RECOVERY_SECONDS, "an answer for every file"
        )
    except AgentTrouble:
        return 3 * RECOVERY_SECONDS
    return time.monotonic() - started


STANDING: Final[Mapping[str, Callable[[Path, float], dict[str, float | str]]]] = {
    case.__name__: case
    for case in (
        outputs_fill_the_disk,
        floor_is_respected,
        state_fills_its_disk,
        start_with_a_full_state_disk,
    )
}
PAGES: Final = tuple(range(0, 90))
"""A heatmap of a small file takes 66 pages, its sidecar one; the overwritten file's as many again."""


def run_unit(unit: str, standing_seconds: float) -> Mapping[str, float | str]:
    """Carry out one unit in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="scopewatch-full-") as name:
        folder = Path(name)
        if unit.startswith("page "):
            return fills_at_page(int(unit.split()[1]), folder)
        if unit.startswith("offsets "):
            content = small_dm3(1)[:3000] if "sidecar" in unit else small_dm3(2)
            earlier = small_dm3(3)[:2000] if "overwritten" in unit else None
            return every_offset(folder, content, earlier, 1 if "sidecar" in unit else 97)
        return STANDING[unit](folder, standing_seconds)


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument(
        "--seconds", type=float, default=STANDING_SECONDS, help="how long the disk stays full"
    )
    options = parser.parse_args()
    reason = why_not()
    if reason:
        raise SystemExit(reason)
    offsets = [f"offsets {what} {when}" for what in ("sidecar", "heatmap") for when in ("new", "overwritten")]
    units = [*STANDING, *offsets, *(f"page {page}" for page in PAGES)]
    return run_units(units, lambda unit: run_unit(unit, options.seconds), options, BARS)


if __name__ == "__main__":
    sys.exit(main())
