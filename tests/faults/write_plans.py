"""Rows 1 to 5 and 7 of the catalogue: random ways of writing a file, and no answer before its last byte.

A plan writes one file: in pieces with pauses of 10 ms to 6 s at any offset, preallocated and filled out of
order, sparse and filled later, under another name and renamed, after lying empty; with old and future times,
overwritten by further generations. Every sidecar that ever appears is read at once: the content that it names
must be a whole generation of its file, never a part of one.
Full run: `python tests/faults/write_plans.py [--shard I/N] [--record FILE]`, 10 units of 100 plans.
"""

from __future__ import annotations

import heapq
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from harness import Agent, AgentTrouble, Bar, audit, digest, long_tier, run_units, small_dm3
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from edge_agent.sidecar import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS: Final = 10
PLANS: Final = 100
LONGEST_PAUSE_SECONDS: Final = 6.0
SPREAD_SECONDS: Final = 15.0
SETTLED_SECONDS: Final = 150.0
QUIET_SECONDS: Final = 1.0
_YEAR_1980: Final = 315_532_800
_YEAR_2100: Final = 4_102_444_800
Steps = Iterator[float]
"""A plan at work: it writes something, and yields for how many seconds it then pauses."""
BARS: Final = (
    Bar("early reads"),
    Bar("lost"),
    Bar("stale"),
    Bar("half"),
    Bar("quarantined"),
    Bar("leftovers"),
    Bar("strangers"),
    Bar("not classified"),
    Bar("writers that met an error"),
    Bar("tracebacks"),
)


@dataclass
class Target:
    """One file of a unit, and every generation that it has had whole."""

    path: Path
    random: Random
    generations: list[str] = field(default_factory=list)
    ways: tuple[str, ...] = ()
    way: str = ""

    def pause(self) -> float:
        """Mostly short, sometimes longer than any quiet window."""
        longest = self.random.choice((0.05, 0.3, 1.0, LONGEST_PAUSE_SECONDS))
        return float(0.01 + self.random.random() * (longest - 0.01))

    def next_content(self) -> bytes:
        """Another generation. It counts from now on: who reads the last byte as it is written is not early."""
        content = small_dm3(self.random.getrandbits(60), self.random.choice((64, 72, 80)))
        self.generations.append(digest(content))
        return content

    def pieces(self, content: bytes) -> list[tuple[int, bytes]]:
        """Cut at one to five random offsets."""
        cuts = sorted(self.random.sample(range(1, len(content)), self.random.randrange(1, 6)))
        return [
            (start, content[start:end]) for start, end in zip((0, *cuts), (*cuts, len(content)), strict=True)
        ]


def in_pieces(target: Target) -> Steps:
    """Under the final name, front to back, closed at the end or between the pieces."""
    content, reopen = target.next_content(), target.random.random() < 0.5
    target.path.write_bytes(b"")
    with target.path.open("r+b", buffering=0) as held:
        for start, piece in target.pieces(content):
            if reopen:
                with target.path.open("ab") as file:
                    file.write(piece)
            else:
                held.seek(start)
                held.write(piece)
            yield target.pause()


def slow_start(target: Target) -> Steps:
    """An empty file for a while, then the whole of it."""
    content = target.next_content()
    target.path.write_bytes(b"")
    yield target.pause() + 1.0
    target.path.write_bytes(content)


def preallocated(target: Target) -> Steps:
    """Its full length at once, as reserved blocks that read as zeros, then filled out of order."""
    content = target.next_content()
    with target.path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, len(content))
        yield from _fill(target, file.fileno(), content)


def sparse(target: Target) -> Steps:
    """A hole of its full length, then filled out of order."""
    content = target.next_content()
    with target.path.open("wb", buffering=0) as file:
        os.truncate(file.fileno(), len(content))
        yield from _fill(target, file.fileno(), content)


def header_last(target: Target) -> Steps:
    """Everything behind the first bytes, a pause, then these: what copying programs that resume do."""
    content = target.next_content()
    with target.path.open("wb", buffering=0) as file:
        os.pwrite(file.fileno(), content[64:], 64)
        yield target.pause()
        os.pwrite(file.fileno(), content[:64], 0)


def _fill(target: Target, descriptor: int, content: bytes) -> Steps:
    pieces = target.pieces(content)
    target.random.shuffle(pieces)
    for start, piece in pieces:
        yield target.pause()
        os.pwrite(descriptor, piece, start)


def renamed(target: Target) -> Steps:
    """Under a temporary name beside it, then renamed into place."""
    content = target.next_content()
    ending = target.random.choice((".tmp", ".part", ".filepart", "~"))
    temporary = target.path.with_name(target.path.name + ending)
    with temporary.open("wb", buffering=0) as file:
        for _, piece in target.pieces(content):
            file.write(piece)
            yield target.pause() / 4
    temporary.replace(target.path)


def moved_in(target: Target) -> Steps:
    """Written in a folder that nobody watches, then moved here."""
    content = target.next_content()
    elsewhere = target.path.parent.with_name("elsewhere") / target.path.name
    elsewhere.parent.mkdir(exist_ok=True)
    elsewhere.write_bytes(content)
    yield target.pause() / 4
    elsewhere.replace(target.path)


def copied_with_its_time(target: Target) -> Steps:
    """As `rsync -t` and copying do: the time of 1980, or of 2100, set at the end."""
    yield from target.random.choice((in_pieces, renamed, slow_start))(target)
    moment = target.random.choice((_YEAR_1980, _YEAR_2100)) + target.random.randrange(86_400)
    os.utime(target.path, (moment, moment))


WAYS: Final[Mapping[str, Callable[[Target], Steps]]] = {
    way.__name__: way
    for way in (
        in_pieces,
        slow_start,
        preallocated,
        sparse,
        header_last,
        renamed,
        moved_in,
        copied_with_its_time,
    )
}


def plan_of(target: Target) -> Steps:
    """One to three generations, each in a way of its own, spread over the unit's time."""
    yield target.random.random() * SPREAD_SECONDS
    for _ in range(target.random.choice((1, 1, 1, 1, 2, 3))):
        target.way = target.random.choice(target.ways or tuple(WAYS))
        yield from WAYS[target.way](target)
        yield target.pause()


class Reader(FileSystemEventHandler):
    """Reads every sidecar the moment that it is put into place; counts those of no whole generation."""

    def __init__(self, targets: list[Target]) -> None:
        self._targets = {str(target.path): target for target in targets}
        self.read = 0
        self.early: list[str] = []

    def on_moved(self, event: FileSystemEvent) -> None:
        """A durable write ends with a rename onto the final name."""
        name = os.fsdecode(event.dest_path)
        target = self._targets.get(name.removesuffix(".json"))
        if not name.endswith(".json") or target is None:
            return
        way, record = target.way, read_record(Path(name))
        if record is None:
            return
        self.read += 1
        if record.source.sha256 not in target.generations:
            self.early.append(f"{target.path.name} ({way}): {record.outcome}, {record.reason}")


def run_plans(plans: int, seed: int, folder: Path, ways: tuple[str, ...] = ()) -> Mapping[str, float | str]:
    """Carry out so many plans side by side in one folder beside a running agent; return the figures."""
    scope = folder / "scope"
    targets = [
        Target(scope / f"{number:04d}.dm3", Random(f"{seed} {number}"), ways=ways) for number in range(plans)
    ]
    reader, observer = Reader(targets), Observer()
    with Agent(scope, place=folder / "agent", quiet_seconds=QUIET_SECONDS) as agent:
        agent.start().wait_ready()
        observer.schedule(reader, str(scope))
        observer.start()
        try:
            errors = carry_out(targets)
            trouble = _settle(agent, targets)
        finally:
            observer.stop()
            observer.join()
        agent.terminate()
        return _figures(targets, reader, agent, errors, trouble)


def carry_out(targets: list[Target]) -> list[str]:
    """Step through all plans at their own times; return what their writers stumbled over."""
    errors: list[str] = []
    started = time.monotonic()
    due: list[tuple[float, int, Steps]] = [(0.0, n, plan_of(target)) for n, target in enumerate(targets)]
    while due:
        moment, number, steps = heapq.heappop(due)
        time.sleep(max(0.0, started + moment - time.monotonic()))
        try:
            heapq.heappush(due, (time.monotonic() - started + next(steps), number, steps))
        except StopIteration:
            continue
        except OSError as error:
            errors.append(f"{targets[number].path.name}: {error}")
    return errors


def _settle(agent: Agent, targets: list[Target]) -> str:
    expected = {target.path: target.generations[-1] for target in targets}

    def answered() -> bool:
        time.sleep(0.5)
        seen = audit(expected)
        return not (seen.missing or seen.stale or seen.half)

    try:
        agent.wait_for(answered, SETTLED_SECONDS, "the last generation's answer for every file")
    except AgentTrouble as trouble:
        return str(trouble)
    return ""


def _figures(
    targets: list[Target], reader: Reader, agent: Agent, errors: list[str], trouble: str
) -> Mapping[str, float | str]:
    seen, log = audit({target.path: target.generations[-1] for target in targets}), agent.text()
    early_by_way = Counter(text.partition("(")[2].partition(")")[0] for text in reader.early)
    return {
        "plans": len(targets),
        "generations": sum(len(target.generations) for target in targets),
        "sidecars read": reader.read,
        "early reads": len(reader.early),
        **{f"early reads: {way}": count for way, count in early_by_way.items()},
        "lost": len(seen.missing),
        "stale": len(seen.stale),
        "half": len(seen.half),
        "quarantined": len(seen.quarantined),
        "leftovers": len(seen.leftovers),
        "strangers": len(seen.strangers),
        "not classified": sum(n for outcome, n in seen.outcomes.items() if outcome != "classified"),
        "writers that met an error": len(errors),
        "tracebacks": log.count("Traceback"),
        "trouble": "\n".join(
            filter(None, [*reader.early[:5], *errors[:5], trouble, "" if seen.ok else seen.text()])
        ),
    }


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument("--plans", type=int, default=PLANS, help="plans in each unit")
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--ways", default="", help=f"only these, with commas between: {', '.join(WAYS)}")
    options = parser.parse_args()
    ways = tuple(filter(None, options.ways.split(",")))

    def run(unit: str) -> Mapping[str, float | str]:
        with tempfile.TemporaryDirectory(prefix="scopewatch-plans-") as folder:
            return run_plans(options.plans, 1000 * options.seed + int(unit), Path(folder), ways)

    return run_units([str(number) for number in range(options.units)], run, options, BARS)


if __name__ == "__main__":
    sys.exit(main())
