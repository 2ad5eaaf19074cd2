"""Thirty corrections by keyboard, while the agent is killed again and again: each arrives in training exactly once.

`python tests/long/thirty_corrections.py [--kills N] [--seed N] [--work DIR]`

The real agent with the shipped model, the simulated microscope, headless Chromium, and `kill -9` at random moments
while thirty micrographs are labelled, a key each. Then the agent is started once more (it must take nothing twice),
every label file is read, and `edge-trainer prepare --corrections` makes a data set of other micrographs with them:
each stands in it exactly once, none in its frozen test. Ends with 1 and says what is wrong, if anything is.
"""

from __future__ import annotations

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests" / "browser"))

from page_rig import LABELS, LivePage, chromium_running, free_port, until, visiting  # noqa: E402

from edge_agent.labelling.label_record import last_words, read_label_file  # noqa: E402
from edge_agent.output_places import LABEL_SUFFIX  # noqa: E402
from edge_agent.simulation import dm3_bytes, draw_field  # noqa: E402

CORRECTIONS = 30
MICROGRAPHS = 40
SIZE_PX = 512
BAR_SECONDS = 60.0
A_CLASS_FOR_TRAINING = 12
MOST_PRESSES = 30
KEY_PAUSE_SECONDS = 0.8
"""A person looks before the next key."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        work = given.work or Path(place)
        wrong = [*labelled(work, given.kills, random.Random(given.seed)), *trained(work)]
    for line in wrong:
        print(f"WRONG: {line}")
    print("all as it should be" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(1 if wrong else 0)


def labelled(work: Path, kills: int, chance: random.Random) -> list[str]:
    """Label thirty micrographs while the agent dies; return what is wrong with the label files."""
    with LivePage(work, page={"port": free_port()}) as page:
        for number in range(MICROGRAPHS):
            shape = LABELS[number % len(LABELS)]
            content = dm3_bytes(draw_field(shape, np.random.default_rng(number), SIZE_PX))
            (page.folder / f"session_{number:04d}.dm3").write_bytes(content)
        page.agent.wait_for(MICROGRAPHS, 120)
        with chromium_running() as browser, visiting(browser, page) as visit:
            visit.expected += ["ERR_", "503", "net::", "WebSocket", "Failed to load"]
            wanted, seconds = by_keyboard(visit.tab(), page, kills, chance)
        print(f"{len(wanted)} corrections by keyboard in {seconds:.1f} s, {kills} times kill -9")
        until(lambda: len(files_with_labels(page)) >= CORRECTIONS, "every label file is written", 30)
        page.agent.kill()
        page.start()
        time.sleep(3)
        wrong = wrong_labels(page, wanted)
    if seconds > BAR_SECONDS:
        wrong.append(f"{seconds:.1f} s, more than {BAR_SECONDS:g}")
    return wrong


def by_keyboard(tab: Any, page: LivePage, kills: int, chance: random.Random) -> tuple[dict[str, str], float]:
    """Press thirty keys; return the label wanted for each file name, and how long it took to be all taken."""
    listbox = tab.locator("#history [role=listbox]")
    listbox.locator("[role=option]").nth(5).wait_for()
    listbox.focus()
    tab.keyboard.press("Home")
    moments = sorted(chance.uniform(1, CORRECTIONS * KEY_PAUSE_SECONDS) for _ in range(kills))
    killer = threading.Thread(target=kill_at, args=(page, moments))
    killer.start()
    wanted: dict[str, str] = {}
    begun = time.monotonic()
    for _ in range(CORRECTIONS):
        place, name = chosen(tab)
        digit = chance.randrange(len(LABELS))
        wanted[name] = LABELS[digit]
        press_until_taken(tab, str(digit + 1), place)
        tab.wait_for_timeout(KEY_PAUSE_SECONDS * 1000)
    killer.join()
    until(
        lambda: tab.evaluate("() => sessionStorage.getItem('scopewatch.outbox') ?? '[]'") == "[]",
        "all are taken",
    )
    return wanted, time.monotonic() - begun


def chosen(tab: Any) -> tuple[str, str]:
    """Place and file name of the entry that keys act on."""
    row = tab.locator("#history [role=option][aria-selected=true]")
    return row.get_attribute("aria-posinset"), row.locator(".name").inner_text()


def press_until_taken(tab: Any, key: str, place: str) -> None:
    """Press a key; again, as a person does, where the page says that it has no classes yet."""
    for _ in range(MOST_PRESSES):
        tab.keyboard.press(key)
        for _ in range(10):
            if chosen(tab)[0] != place:
                return
            tab.wait_for_timeout(50)
    raise SystemExit(f"the entry at {place} takes no key: {tab.inner_text('#corrections')}")


def kill_at(page: LivePage, moments: list[float]) -> None:
    """`kill -9` at these seconds, and start it again each time."""
    begun = time.monotonic()
    for moment in moments:
        time.sleep(max(0.0, begun + moment - time.monotonic()))
        page.agent.kill()
        page.agent.start()
        page.agent.wait_for(lambda: page.agent.status().get("page"), 30)


def files_with_labels(page: LivePage) -> list[Path]:
    """The label files that are there."""
    return sorted(page.folder.glob(f"*{LABEL_SUFFIX}"))


def wrong_labels(page: LivePage, wanted: dict[str, str]) -> list[str]:
    """What is not as the person meant it: each file once, with the label of its key."""
    wrong, seen = [], {}
    for file in files_with_labels(page):
        events = read_label_file(file.read_bytes()).events
        name = file.name.removesuffix(LABEL_SUFFIX)
        seen[name] = events
        words = list(last_words(events).values())
        if len(events) != 1 or len(words) != 1 or words[0].label != wanted.get(name):
            wrong.append(f"{name}: wanted {wanted.get(name)}, has {[(e.action, e.label) for e in events]}")
        content = sha256((page.folder / name).read_bytes()).hexdigest()
        if any(event.source_sha256 != content for event in events):
            wrong.append(f"{name}: its label is about other bytes")
    wrong += [f"{name}: no label file" for name in wanted.keys() - seen.keys()]
    twice = [key for key, count in Counter(e.id for es in seen.values() for e in es).items() if count > 1]
    return [*wrong, *(f"event {key} stands twice" for key in twice)]


def trained(work: Path) -> list[str]:
    """Prepare a data set with the corrections; return what is wrong with it."""
    raw, out, scope = work / "raw", work / "dataset", work / "scope"
    for number, label in enumerate(LABELS * A_CLASS_FOR_TRAINING):
        (raw / label).mkdir(parents=True, exist_ok=True)
        content = dm3_bytes(draw_field(label, np.random.default_rng(1000 + number), SIZE_PX))
        (raw / label / f"known_{number:04d}.dm3").write_bytes(content)
    command = [
        sys.executable, "-c", "from trainer.cli import main; main()", "prepare", str(raw), str(out),
        "--corrections", str(scope), "--corrections-share", "1", "--no-screening",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"prepare ends with {done.returncode}: {done.stderr[-2000:]}"]
    with (out / "dataset.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["correction"] and row["kept"] == "yes"]
    parts, sources = Counter(row["part"] for row in rows), Counter(row["source"] for row in rows)
    print(f"in training: {len(sources)} corrected micrographs, by part {dict(parts)}")
    wrong = [f"{source} stands {count} times" for source, count in sources.items() if count > 1]
    wrong += [f"a correction in part {part}" for part in parts if part != "train"]
    if len(sources) != CORRECTIONS:
        wrong.append(f"{len(sources)} corrected micrographs in the data set, not {CORRECTIONS}")
    return wrong


if __name__ == "__main__":
    main()
