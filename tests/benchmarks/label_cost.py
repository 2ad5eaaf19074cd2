"""What labels cost the watching: an action on many files, while other files are being finished.

`python tests/benchmarks/label_cost.py [FILES ...]`, by default 1,000, 10,000 and 100,000. "held" is the longest
time for which the journal was kept from everybody else in one go, "row" the longest that a finished file waited for
its row meanwhile, one every 20 ms. "written" is how many label files a second follow in the background.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "edge_agent"))

from labelled import answered, archive_of

from edge_agent.journal import Journal
from edge_agent.labelling.label_desk import LabelDesk
from edge_agent.labelling.label_words import Order

OTHER_EVERY_SECONDS = 0.02
WRITING_SECONDS = 3.0


def main() -> None:
    print(f"{'files':>8} {'action':7} {'seconds':>8} {'held ms':>8} {'row ms':>8}")
    for files in [int(text) for text in sys.argv[1:]] or [1000, 10_000, 100_000]:
        with tempfile.TemporaryDirectory(prefix="scopewatch-labels-") as place:
            measure(Path(place), files)


def measure(place: Path, files: int) -> None:
    folder = place / "data"
    folder.mkdir()
    (folder / "m0.dm3").touch()  # an empty folder looks like a share that is away
    with Journal(place / "state") as journal:
        for number in range(files):
            journal.record(answered(folder / f"m{number}.dm3", number), durable=False)
        journal.flush()
        held, rows = timed(journal), [0.0]
        stop = threading.Event()
        other = threading.Thread(target=finish_others, args=(journal, folder, rows, stop))
        other.start()
        desk = LabelDesk(archive_of(journal, place))
        everything = tuple(range(1, files + 1))
        deeds = {
            "give": lambda: desk.give(Order("all", "correct", "faceted", "ann", everything)),
            "undo": lambda: desk.undo("ann"),
            "redo": lambda: desk.redo("ann"),
            "one": lambda: desk.give(Order("one", "confirm", None, "ann", (1,))),
        }
        for name, deed in deeds.items():
            held[:], rows[:] = [0.0], [0.0]
            started = time.perf_counter()
            deed()
            seconds = time.perf_counter() - started
            print(
                f"{files:8} {name:7} {seconds:8.3f} {1000 * max(held):8.1f} {1000 * max(rows):8.1f}",
                flush=True,
            )
        waiting = desk.state("ann").waiting
        time.sleep(WRITING_SECONDS if waiting else 0)
        left = desk.state("ann").waiting
        written = (waiting.count if waiting else 0) - (left.count if left else 0)
        size_mb = journal.path.stat().st_size / 1e6
        print(
            f"{files:8} written {written / WRITING_SECONDS:.0f} events a second; the journal has {size_mb:.0f} MB"
        )
        stop.set()
        other.join()
        desk.close()


def timed(journal: Journal) -> list[float]:
    """Let the journal note how long each change takes with its lock."""
    held, change = [0.0], journal.change

    def timed_change(work: Any, **how: Any) -> Any:
        with journal._lock:
            started = time.perf_counter()
            try:
                return change(work, **how)
            finally:
                held.append(time.perf_counter() - started)

    journal.change = timed_change  # type: ignore[method-assign]
    return held


def finish_others(journal: Journal, folder: Path, rows: list[float], stop: threading.Event) -> None:
    number = 10**7
    while not stop.wait(OTHER_EVERY_SECONDS):
        number += 1
        started = time.perf_counter()
        journal.record(answered(folder / f"o{number}.dm3", number))
        rows.append(time.perf_counter() - started)


if __name__ == "__main__":
    main()
