"""`kill -9` of whoever takes labels: at random moments, and at every mutating system call.

A process gives labels, singly and in bulk, undoes and redoes them, and says so on its output when it was told that
it is done. It is killed and started again. In the end every action that was acknowledged stands in the label files
whole, each event once; every other one stands there whole or not at all; the journal says the same, and so does a
new one made from the files. "random" kills at random moments; the other units name the call: strace kills the
process as it enters the K-th one, with K counting up until it ends by itself.
Full run: `python tests/faults/label_kills.py [--shard I/N] [--record FILE]`.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from harness import Bar, long_tier, run_units
from kill_every_call import killing
from power_loss import why_no_trace

sys.path.insert(0, str(Path(__file__).parent.parent / "edge_agent"))

from labelled import archive_of, fill, given

from edge_agent.journal import Journal, JournalBusy
from edge_agent.labelling import label_desk
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_intake import LabelIntake
from edge_agent.labelling.label_log import read_events
from edge_agent.labelling.label_words import NothingToDo, Order
from edge_agent.output_places import OutputPlan

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES: Final = 24
PIECE: Final = 5
"""Small, so that every bulk action is kept in several transactions."""
RANDOM_UNITS: Final = 20
KILLS: Final = 25
MOST_POINTS: Final = 150
CALLS: Final = ("openat", "write", "fsync", "rename", "close", "unlink", "pwrite64", "fdatasync")
END_SECONDS: Final = 60.0
BARS: Final = (
    Bar("acknowledged and lost"),
    Bar("in part"),
    Bar("twice"),
    Bar("journal and files differ"),
    Bar("a new journal differs"),
    Bar("waiting for ever"),
    Bar("leftovers"),
    Bar("ended by itself"),
)


@dataclass
class Bench:
    """A folder of finished files, the process that labels them, and what it said was done."""

    folder: Path
    acknowledged: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    failures: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        with Journal(self.folder / "state") as journal:
            fill(journal, self.folder / "data", range(FILES))

    def start(self, seed: int, deeds: int) -> subprocess.Popen[str]:
        """Start it and wait until it is about to begin."""
        process = subprocess.Popen(
            [sys.executable, __file__, "give", str(self.folder), str(seed), str(deeds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def go(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("go\n")
            process.stdin.flush()

    def finish(self, process: subprocess.Popen[str]) -> bool:
        """Wait for its end, take down what it said; return whether it was killed."""
        out, _ = process.communicate(timeout=END_SECONDS)
        for line in out.splitlines(keepends=True):
            # A line without its end was cut off by the death.
            if line.endswith("\n"):
                said = json.loads(line)
                self.acknowledged[said["batch"]] = said["count"]
        was_killed = process.returncode == -signal.SIGKILL
        self.kills += was_killed
        if not was_killed and process.returncode != 0:
            self.failures.append(f"exit code {process.returncode}")
        return was_killed

    def figures(self) -> Mapping[str, float | str]:
        paths = sorted((self.folder / "data").glob("*.dm3"))
        plan = OutputPlan()
        with Journal(self.folder / "state") as journal:
            desk = LabelDesk(archive_of(journal, self.folder))
            deadline = time.monotonic() + END_SECONDS
            while (desk.state("x").waiting or desk._is_unfinished) and time.monotonic() < deadline:
                time.sleep(0.01)
            waiting = desk.state("x").waiting
            desk.close()
            batches = dict(_rows(journal, "SELECT batch, count FROM label_batches"))
            states = {state for (state,) in _rows(journal, "SELECT state FROM label_batches")} or {"applied"}
            kept = {name for (name,) in _rows(journal, "SELECT event FROM labels")}
            held = given(journal)
        events = [event for path in paths for event in read_events(plan.place(path).labels)]
        in_files = Counter(event.batch for event in events)
        with Journal(self.folder / "another") as another:
            intake = LabelIntake(another, plan)
            for path in paths:
                intake.take(path)
            fill(another, self.folder / "data", range(FILES))
            anew = given(another)
        lost = {name for name, count in self.acknowledged.items() if count and in_files[name] != count}
        part = {name for name in in_files | batches if in_files[name] != batches.get(name)}
        return {
            "kills": self.kills,
            "actions acknowledged": len(self.acknowledged),
            "events in files": len(events),
            "acknowledged and lost": len(lost),
            "in part": len(part) + (states != {"applied"}),
            "twice": len(events) - len({event.id for event in events}),
            "journal and files differ": len(kept ^ {event.id for event in events}),
            "a new journal differs": sum(held[number] != anew[number] for number in held),
            "waiting for ever": 0 if waiting is None else waiting.count,
            "leftovers": len(list((self.folder / "data").glob(".scopewatch-*"))),
            "ended by itself": len(self.failures),
            "trouble": f"{self.folder} lost {sorted(lost)[:3]}, in part {sorted(part)[:3]} {self.failures[:3]}",
        }


def _rows(journal: Journal, question: str) -> list[tuple[str, int]]:
    return journal.look(lambda connection: connection.execute(question).fetchall(), [])


def give(folder: Path, seed: int, deeds: int) -> None:
    """The process that is killed: random actions of two people, and a line for each that was acknowledged."""
    label_desk.PIECE = PIECE
    choose = random.Random(seed)
    with Journal(folder / "state") as journal:
        print("ready", flush=True)
        sys.stdin.readline()
        desk = LabelDesk(archive_of(journal, folder))
        for number in range(deeds):
            by, name = choose.choice(("ann", "bob")), f"batch-{seed}-{number}"
            with contextlib.suppress(NothingToDo, JournalBusy):
                deed = choose.choice(("one", "one", "many", "undo", "redo"))
                if deed in ("undo", "redo"):
                    done = getattr(desk, deed)(by, name)
                else:
                    ids = choose.sample(range(1, FILES + 1), 1 if deed == "one" else 17)
                    done = desk.give(
                        Order(name, "correct", choose.choice(("rod", "faceted")), by, tuple(ids))
                    )
                print(json.dumps({"batch": done.batch, "count": done.count}), flush=True)
        deadline = time.monotonic() + END_SECONDS
        while desk.state("x").waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        desk.close()


def run_unit(unit: str, most: int | None = None) -> Mapping[str, float | str]:
    """Carry out one unit in a folder of its own."""
    what, _, seed = unit.partition(" ")
    with tempfile.TemporaryDirectory(prefix="scopewatch-labels-") as folder:
        bench = Bench(Path(folder))
        bench.prepare()
        if what == "random":
            _kill_at_random(bench, int(seed), most or KILLS)
        else:
            _kill_at_every(bench, what, most or MOST_POINTS)
        return bench.figures()


def _kill_at_random(bench: Bench, seed: int, kills: int) -> None:
    choose = random.Random(seed)
    for number in range(kills):
        process = bench.start(1000 * seed + number, 10_000)
        bench.go(process)
        time.sleep(choose.uniform(0.0, 0.4))
        process.kill()
        bench.finish(process)


def _kill_at_every(bench: Bench, call: str, most: int) -> None:
    for number in range(1, most + 1):
        process = bench.start(number, 5)
        with killing(process.pid, call, number):
            bench.go(process)
            if not bench.finish(process):
                break


def main() -> int:
    """Run the long tier, or be the process that is killed."""
    if sys.argv[1:2] == ["give"]:
        give(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return 0
    options = long_tier(__doc__ or "").parse_args()
    traced = [] if why_no_trace() else list(CALLS)
    units = [*(f"random {options.seed + number}" for number in range(RANDOM_UNITS)), *traced]
    return run_units(units, run_unit, options, (*BARS, Bar("kills", None, at_least=1)))


if __name__ == "__main__":
    sys.exit(main())
