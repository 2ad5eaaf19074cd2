"""Row 19 of the catalogue: the power goes at any moment of a commit.

A file layer records every operation of `examine`'s commit. From each prefix of the record images are drawn of
what a disk may hold after a crash, in the manner of SQLite's test6.c: what was not forced to the disk is
there, absent, of full length with zeros, or torn at sectors into new bytes, zeros and garbage; renames and
removals that no fsync of their folder followed are done or not, each for itself, or half done with both names
there. Each image is put into a real folder and judged by the agent's own reader.
Full run: `python tests/faults/power_loss.py [--shard I/N] [--record FILE]`, at least 10,000 different images.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, Literal

from harness import (
    Agent,
    Bar,
    digest,
    heatmap_fault,
    long_tier,
    run_units,
    small_dm3,
    tiny_model_folder,
)

from edge_agent.examine import Request, examine
from edge_agent.files import FileLayer, stamp_of
from edge_agent.sidecar import OutputPlan, Sidecar, finding_on_record, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from edge_agent.classifier import Classifier

IMAGES: Final = 10_000
ROUNDS: Final = 250
"""Times that each prefix of a record is drawn from; the dice fall differently each time."""
SECTOR_BYTES: Final = 512
PIECE_BYTES: Final = 16 * 1024
BARS: Final = (
    Bar("torn sidecars"),
    Bar("torn heatmaps"),
    Bar("sidecars before their heatmaps"),
    Bar("taken over, but not of this content"),
    Bar("taken over with another heatmap"),
    Bar("neither old nor new"),
    Bar("commits that were not on the disk"),
    Bar("order faults of the real worker"),
)


# --- what happened ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the commit. `inode` numbers the files in the order in which they were created."""

    kind: Literal["create", "write", "fsync", "replace", "unlink", "fsync_folder", "make_folder"]
    path: Path
    inode: int = -1
    data: bytes = b""
    target: Path | None = None


class Recorder(FileLayer):
    """The real file system, and a record of what was asked of it."""

    def __init__(self, unheard: frozenset[str] = frozenset()) -> None:
        super().__init__("power")
        self.operations: list[Operation] = []
        self._unheard = unheard
        self._open: dict[int, tuple[int, Path]] = {}
        self._inodes = itertools.count()

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        inode = next(self._inodes)
        self._open[descriptor] = (inode, path)
        self._note(Operation("create", path, inode))
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        # In pieces, as the system may take them, so that the power can also go in the middle of a write.
        taken = super().write(descriptor, data[:PIECE_BYTES])
        inode, path = self._open[descriptor]
        self._note(Operation("write", path, inode, bytes(data[:taken])))
        return taken

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        inode, path = self._open[descriptor]
        self._note(Operation("fsync", path, inode))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        del self._open[descriptor]

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self._note(Operation("replace", source, target=target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self._note(Operation("unlink", path))

    def make_folder(self, folder: Path) -> None:
        super().make_folder(folder)
        self._note(Operation("make_folder", folder))

    def fsync_folder(self, folder: Path) -> None:
        super().fsync_folder(folder)
        self._note(Operation("fsync_folder", folder))

    def _note(self, operation: Operation) -> None:
        if operation.kind not in self._unheard:
            self.operations.append(operation)


# --- what a disk may hold after a crash ------------------------------------------------------------------------

Image = dict[Path, bytes]
"""The files that are there, by name."""


@dataclass
class Disk:
    """Durable and pending state after a prefix of operations."""

    names: dict[Path, int | bytes]
    contents: dict[int, bytearray] = field(default_factory=dict)
    durable_bytes: dict[int, int] = field(default_factory=dict)
    pending: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation) -> None:
        """Follow one operation; writes only ever append, as those of `write_durably` do."""
        if operation.kind == "create":
            self.contents[operation.inode] = bytearray()
            self.durable_bytes[operation.inode] = 0
        if operation.kind == "write":
            self.contents[operation.inode] += operation.data
        elif operation.kind == "fsync":
            self.durable_bytes[operation.inode] = len(self.contents[operation.inode])
        elif operation.kind == "fsync_folder":
            self._force(operation.path)
        else:
            self.pending.append(operation)

    def _force(self, folder: Path) -> None:
        for operation in [item for item in self.pending if item.path.parent == folder]:
            enter(self.names, operation, "done", self._inode_before(operation))
            self.pending.remove(operation)

    def image(self, random: Random) -> Image:
        """One thing that the disk may hold now."""
        names = dict(self.names)
        for operation in self.pending:
            done = random.choice(("done", "done", "not", "half"))
            enter(names, operation, done, self._inode_before(operation))
        drawn = {inode: self._draw(inode, random) for inode in self.contents}
        here = {
            name: kind if isinstance(kind, bytes) else drawn[kind]
            for name, kind in names.items()
            if kind != _FOLDER
        }
        lost = {item.path for item in self.pending if item.kind == "make_folder" and item.path not in names}
        return {name: data for name, data in here.items() if not lost & set(name.parents)}

    def _inode_before(self, operation: Operation) -> int | bytes | None:
        """What the name of an operation stood for when it was asked for, whatever reached the disk since."""
        if operation.kind == "create":
            return operation.inode
        created = [
            item.inode for item in self.pending if item.kind == "create" and item.path == operation.path
        ]
        return created[0] if created else self.names.get(operation.path)

    def _draw(self, inode: int, random: Random) -> bytes:
        whole, durable = bytes(self.contents[inode]), self.durable_bytes[inode]
        if durable == len(whole):
            return whole
        return random.choice((_absent, _all, _zeros, _torn, _torn, _torn, _torn))(whole, durable, random)


_FOLDER: Final = -1


def enter(names: dict[Path, int | bytes], operation: Operation, done: str, inode: int | bytes | None) -> None:
    """Let an operation on names reach the disk: "done", "not" at all, or "half" (a rename with both names)."""
    if done == "not":
        return
    if operation.kind == "make_folder":
        names[operation.path] = _FOLDER
    elif operation.kind == "unlink":
        names.pop(operation.path, None)
    elif inode is not None:
        names[operation.target or operation.path] = inode
        if operation.target is not None:
            names.pop(operation.path, None)
            if done == "half":
                names[operation.path] = inode


def _absent(whole: bytes, durable: int, random: Random) -> bytes:
    return whole[:durable]


def _all(whole: bytes, durable: int, random: Random) -> bytes:
    return whole


def _zeros(whole: bytes, durable: int, random: Random) -> bytes:
    return whole[:durable] + bytes(len(whole) - durable)


def _torn(whole: bytes, durable: int, random: Random) -> bytes:
    """Each sector for itself new, zero or garbage, and the file as long as any of them."""
    sectors = [whole[start : start + SECTOR_BYTES] for start in range(durable, len(whole), SECTOR_BYTES)]
    kept = sectors[: random.randint(1, len(sectors))]
    doubtful = random.sample(range(len(kept)), random.randint(1, min(8, len(kept))))
    for place in doubtful:
        kept[place] = random.choice((bytes(len(kept[place])), random.randbytes(len(kept[place]))))
    return whole[:durable] + b"".join(kept)


# --- histories -------------------------------------------------------------------------------------------------


@cache
def classifier(seed: int = 0) -> Classifier:
    """The tiny model, or another one of its kind."""
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import open_bundle

    if seed == 0:
        return Classifier(open_bundle(str(tiny_model_folder())))
    from bundles import tiny_bundle

    return Classifier(
        open_bundle(str(tiny_bundle(tiny_model_folder().with_name(f"other-{seed}"), seed=seed)))
    )


@cache
def spectrum(seed: int = 3) -> bytes:
    """A sound file that is no image."""
    import numpy as np

    from edge_agent.simulation import spectrum_dm3_bytes

    return spectrum_dm3_bytes(np.random.default_rng(seed))


@dataclass(frozen=True, slots=True)
class History:
    """A commit: what the file was before (None: it is new), what it is now, which model answers now."""

    before: Callable[[], bytes] | None
    now: Callable[[], bytes]
    other_model: bool = False
    heatmap: bool = True
    mirrored: bool = False


def _first() -> bytes:
    return small_dm3(1)


def _second() -> bytes:
    return small_dm3(2)


HISTORIES: Final[Mapping[str, History]] = {
    "a new micrograph": History(None, _first),
    "a new spectrum": History(None, spectrum),
    "a micrograph overwritten by another": History(_first, _second),
    "a micrograph overwritten by a spectrum": History(_first, spectrum),
    "a spectrum overwritten by a micrograph": History(spectrum, _first),
    "the same micrograph, another model": History(_first, _first, other_model=True),
    "the same micrograph, no heatmap any more": History(_first, _first, heatmap=False),
    "a new micrograph, mirrored": History(None, _first, mirrored=True),
    "an overwritten micrograph, mirrored": History(_first, _second, mirrored=True),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A history that was carried out: the record, the outputs before and after, and where they lie."""

    source: Path
    plan: OutputPlan
    before: Image
    after: Image
    operations: tuple[Operation, ...]
    same_state: bool = False
    """The earlier record speaks of the file as it is now: then it may be withdrawn, for the file is looked at
    again when there is none. A record of an earlier state must stay until the new one is there."""


def record_history(history: History, folder: Path, unheard: frozenset[str] = frozenset()) -> Recorded:
    """Carry a history out in `folder`. `unheard` operations are left out of the record, to prove the judge."""
    source = folder / "scope" / "monday" / "a.dm3"
    source.parent.mkdir(parents=True)
    plan = OutputPlan(folder / "out", (folder / "scope",)) if history.mirrored else OutputPlan()
    if history.before is not None:
        source.write_bytes(history.before())
        os.utime(source, ns=(10**18, 10**18))
        examine(source, classifier(), Request(plan))
    before = _outputs(folder)
    if history.before is not history.now:
        source.write_bytes(history.now())
    layer = Recorder(unheard)
    answering = classifier(1 if history.other_model else 0)
    finding = examine(source, answering, Request(plan, heatmap=history.heatmap, layer=layer))
    if finding.sidecar is None or not layer.operations:
        raise AssertionError(f"the commit did not go through the layer: {finding}, {layer.operations}")
    operations = tuple(layer.operations)
    return Recorded(source, plan, before, _outputs(folder), operations, history.before is history.now)


def _outputs(folder: Path) -> Image:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".dm3"}


def images(recorded: Recorded, random: Random) -> Iterator[tuple[bool, Image]]:
    """One image of each prefix of the record; with whether the commit had ended."""
    for length in range(len(recorded.operations) + 1):
        disk = Disk(dict(recorded.before))
        for operation in recorded.operations[:length]:
            disk.apply(operation)
        yield length == len(recorded.operations), disk.image(random)


# --- the judge -------------------------------------------------------------------------------------------------


class Judge:
    """Puts images into the folder of a history, and says what is wrong with them."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._place = recorded.plan.place(recorded.source)
        self._there = dict(recorded.after)
        self._content = digest(recorded.source.read_bytes())
        self.seen: set[bytes] = set()

    def is_new(self, image: Image, *, ended: bool) -> bool:
        """Whether no such image was judged before."""
        text = "\n".join(f"{path} {sha256(data).hexdigest()}" for path, data in sorted(image.items()))
        key = sha256(f"{ended} {text}".encode()).digest()
        is_new = key not in self.seen
        self.seen.add(key)
        return is_new

    def faults(self, image: Image, *, ended: bool) -> set[str]:
        """What is wrong with this image, in the words of `BARS`."""
        self._lay_out(image)
        before, after = self._recorded.before, self._recorded.after
        sidecar, heatmap = (image.get(path) for path in (self._place.sidecar, self._place.heatmap))
        found = set()
        if sidecar not in (None, before.get(self._place.sidecar), after[self._place.sidecar]):
            found.add("torn sidecars")
        if heatmap not in (None, before.get(self._place.heatmap), after.get(self._place.heatmap)):
            found.add("torn heatmaps")
        if sidecar is None and self._place.sidecar in before and not self._recorded.same_state:
            found.add("neither old nor new")
        record = read_record(self._place.sidecar)
        if sidecar == after[self._place.sidecar] and record and heatmap_fault(record, self._place.sidecar):
            found.add("sidecars before their heatmaps")
        if ended and sidecar != after[self._place.sidecar]:
            found.add("commits that were not on the disk")
        return found | self._taken_over(record)

    def _taken_over(self, record: Sidecar | None) -> set[str]:
        """What the agent would believe at its next start without looking into the file again."""
        source = self._recorded.source
        finding = finding_on_record(source, stamp_of(source), self._recorded.plan)
        if finding is None or record is None:
            return set()
        found = {"taken over with another heatmap"} if heatmap_fault(record, self._place.sidecar) else set()
        return found | ({"taken over, but not of this content"} if finding.sha256 != self._content else set())

    def _lay_out(self, image: Image) -> None:
        for path in self._there.keys() - image.keys():
            path.unlink()
        for path, data in image.items():
            if self._there.get(path) is not data and self._there.get(path) != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        self._there = dict(image)


def judge_history(
    history: History, folder: Path, *, rounds: int, seed: int, unheard: frozenset[str] = frozenset()
) -> dict[str, float | str]:
    """Record a history and judge images of it; return how many there were and what was wrong."""
    recorded = record_history(history, folder, unheard)
    judge, random = Judge(recorded), Random(seed)
    figures: Counter[str] = Counter({"operations": len(recorded.operations)})
    for _ in range(rounds):
        for ended, image in images(recorded, random):
            figures["images"] += 1
            if judge.is_new(image, ended=ended):
                figures["different images"] += 1
                figures.update(judge.faults(image, ended=ended))
    return dict(figures)


# --- the order of the real worker's calls ----------------------------------------------------------------------

_TRACED: Final = "openat,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
_CALL: Final = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")


def traced_agent(folder: Path, contents: Sequence[bytes]) -> list[str]:
    """Let a real agent, traced from its start, answer the generations of one file; return the trace's lines."""
    scope, trace = folder / "scope", folder / "trace"
    prefix = ("strace", "-f", "-y", "--seccomp-bpf", "-s", "0", "-e", f"trace={_TRACED}", "-o", str(trace))
    with Agent(scope, place=folder / "agent", prefix=prefix) as agent:
        agent.start().wait_ready(120)
        for content in contents:
            (scope / "a.dm3").write_bytes(content)
            agent.wait_for(lambda content=content: _answers(scope / "a.dm3", content), 60, "an answer")  # type: ignore[misc]
        supervisor = agent.supervisor_pid
        if supervisor is not None:
            os.kill(supervisor, 15)
        agent.wait_for(lambda: agent.exit_code is not None, 20, "its end", may_end=True)
    return trace.read_text("utf-8", "surrogateescape").splitlines()


def _answers(source: Path, content: bytes) -> bool:
    record = read_record(source.with_name(source.name + ".json"))
    return record is not None and record.source.sha256 == digest(content)


def order_faults(lines: Iterable[str], folder: Path) -> list[str]:
    """What the trace of a worker says against the order that a power loss demands; names below `folder`.

    Every rename onto a final name follows an fsync of the file behind its last write; the sidecar's follows an
    fsync of the folder behind the heatmap's rename or removal; an fsync of the folder follows the sidecar's.
    """
    faults: list[str] = []
    dirty: set[str] = set()
    unforced: list[str] = []
    for call, arguments, result in _calls(lines):
        paths = [text for text in re.findall(r'[<"]([^<>"]*)[>"]', arguments) if text.startswith(str(folder))]
        if not paths or result < 0:
            continue
        if call.startswith(("write", "pwrite")) or (call == "openat" and "O_CREAT" in arguments):
            dirty.add(paths[-1])
        elif call in ("fsync", "fdatasync"):
            dirty.discard(paths[0])
            unforced = [] if paths[0] == str(folder) else unforced
        elif call.startswith("rename"):
            faults += _rename_faults(paths[-2], paths[-1], dirty, unforced)
            unforced.append(paths[-1])
        elif call.startswith("unlink") and paths[-1].endswith(".heatmap.png"):
            unforced.append(paths[-1])
    return faults + [f"never forced to the disk: {name}" for name in unforced]


def _rename_faults(source: str, target: str, dirty: set[str], unforced: list[str]) -> list[str]:
    faults = [f"put into place before it was forced to the disk: {target}"] if source in dirty else []
    if target.endswith(".json") and unforced:
        faults.append(f"sidecar put into place before these were forced to the disk: {', '.join(unforced)}")
    return faults


def _calls(lines: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """The calls of a trace with arguments and result; those that were interrupted by others put together."""
    begun: dict[str, str] = {}
    for line in lines:
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if rest.startswith("<... "):
            rest = begun.pop(process, "") + rest.partition(" resumed>")[2]
        if match := _CALL.match(f"{process} {rest}"):
            yield match[2], match[3], int(match[4])


def judge_order(folder: Path) -> dict[str, float | str]:
    """Trace a real agent over a new, an overwritten and a no-image generation, and judge the order."""
    lines = traced_agent(folder, (small_dm3(1), small_dm3(2), spectrum(), small_dm3(3)))
    scope = folder / "scope"
    faults = order_faults(lines, scope)
    renames = sum("rename" in call and str(scope) in arguments for call, arguments, _ in _calls(lines))
    if renames < 7:
        faults.append(f"only {renames} renames were traced; 7 are the least for these four commits")
    return {
        "traced renames": renames,
        "order faults of the real worker": len(faults),
        "trouble": "\n".join(faults[:5]),
    }


def why_no_trace() -> str | None:
    """The reason why no process can be traced here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.TemporaryDirectory() as folder, suppress(OSError):
        if os.system(f"strace -f -o {folder}/t true 2>/dev/null") == 0:
            return None
    return "tracing is not allowed here"


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    units = [*HISTORIES, *(() if why_no_trace() else ("the order of the real worker's calls",))]

    def run(unit: str) -> Mapping[str, float | str]:
        with tempfile.TemporaryDirectory(prefix="scopewatch-power-") as name:
            if unit not in HISTORIES:
                return judge_order(Path(name))
            return judge_history(HISTORIES[unit], Path(name), rounds=options.rounds, seed=options.seed)

    return run_units(
        units,
        run,
        options,
        (*BARS, Bar("different images", None, at_least=1 if options.shard != "1/1" else IMAGES)),
    )


if __name__ == "__main__":
    sys.exit(main())
