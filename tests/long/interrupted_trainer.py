"""Ctrl-C, SIGTERM and kill -9 at many moments of prepare, train, trust and evaluate: nothing lost, the same result.

    python tests/long/interrupted_trainer.py [--rounds 40] [--shard I/N] [--record FILE] [--seed N]

Each unit takes one command and one signal, ends the command again and again, each time at another moment, until it
gets through, and compares what it leaves with what an undisturbed run left: the data set's fingerprint, every
weight of the network, every limit of the bundle, every figure of the evaluation. The network is the tests' toy; the
program is the real one.
After each end: one line (none after a kill), no traceback, no process left, nothing half under a final name.
Twelve units; `--shard I/12` with 40 rounds takes some five minutes on an idle core.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
for _folder in ("tests/trainer", "tests/faults", ""):
    sys.path.insert(0, str(REPOSITORY / _folder))

from harness import Bar, long_tier, run_units  # noqa: E402
from PIL import Image  # noqa: E402
from toy_trainer import Answer, Started, run, weights_of  # noqa: E402
from toys import LABELS, RECIPE, picture  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SIGNALS: Final = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
CODES: Final = {"Ctrl-C": {130}, "SIGTERM": {130, 143}, "kill -9": {-9}}
LAST_LINE: Final = "edge-trainer: interrupted; the same command goes on from here"
THROUGH: Final = {
    "prepare": " groups (by ",
    "train": "weights: ",
    "trust": "accepted: ",
    "evaluate": "answered: ",
}
"""What a command says when its work is done."""
PICTURES: Final = 60
HELD_OUT: Final = ("--split", "test", "--drawn", 3)
"""All discs are alike: they stand in two groups, and the validation part has none."""
BARS: Final = (
    Bar("other results"),
    Bar("wrong exit codes"),
    Bar("without the one line"),
    Bar("tracebacks"),
    Bar("processes left"),
    Bar("damaged"),
    Bar("ended", None, at_least=1),
)


@dataclass(frozen=True, slots=True)
class Lab:
    """What the units work on, and what undisturbed runs made of it."""

    raw: Path
    data: Path
    bundle: Path
    trusted: Path
    recipe: Path
    fingerprint: str
    weights: Mapping[str, bytes]
    evaluation: Mapping[str, Any]
    seconds: Mapping[str, float]


@dataclass(slots=True)
class Tally:
    """What was seen in one unit."""

    ended: int = 0
    got_through: int = 0
    other_results: int = 0
    wrong_codes: int = 0
    without_line: int = 0
    tracebacks: int = 0
    left: int = 0
    damaged: int = 0
    trouble: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, float | str]:
        """The numbers that the bars are about."""
        return {
            "ended": self.ended,
            "got through": self.got_through,
            "other results": self.other_results,
            "wrong exit codes": self.wrong_codes,
            "without the one line": self.without_line,
            "tracebacks": self.tracebacks,
            "processes left": self.left,
            "damaged": self.damaged,
            "trouble": " | ".join(self.trouble[:3]),
        }


def set_up(place: Path) -> Lab:
    """Draw, prepare, train, export, give limits and evaluate once without a disturbance."""
    raw, data, folder, bundle, trusted, recipe = (
        place / name for name in ("raw", "data", "run", "bundle", "trusted", "recipe.json")
    )
    for label in LABELS:
        (raw / label).mkdir(parents=True)
        for seed in range(PICTURES):
            Image.fromarray(picture(label, seed)).resize((500, 400)).save(raw / label / f"{seed}.tif")
    recipe.write_text(RECIPE.model_copy(update={"epochs": 12, "keep": "last"}).model_dump_json())
    seconds = {}
    for name, line in {
        "prepare": ("prepare", raw, data, "--input-px", 64),
        "train": ("train", data, "--run", folder, "--recipe", recipe),
        "export": ("export", folder, bundle, "--no-trust"),
        "trust": ("trust", bundle, data, trusted, *HELD_OUT),
        "evaluate": ("evaluate", bundle, data),
    }.items():
        started = time.monotonic()
        answer = run(*line)
        seconds[name] = time.monotonic() - started
        if answer.code:
            raise SystemExit(f"{name} failed undisturbed: {answer.said}")
        if name == "export":
            shutil.copytree(bundle, place / "unevaluated")
    weights = weights_of(folder / "best.weights.h5")
    return Lab(
        raw,
        data,
        place / "unevaluated",
        trusted,
        recipe,
        fingerprint(data),
        weights,
        figures(bundle),
        seconds,
    )


def fingerprint(data: Path) -> str:
    """What a data set folder says of its content; raises where it is damaged."""
    from trainer.preparing.crops import load_dataset, load_pixels

    dataset = load_dataset(data)
    for crop in dataset.kept:
        load_pixels(dataset, crop)
    return dataset.fingerprint


def limits(bundle: Path) -> dict[str, Any]:
    """What a bundle knows about when not to answer, and what that rests on; raises where it is half."""
    from edge_agent.model_bundle import open_bundle
    from trainer.trusting.trust_record import read_trust

    opened = open_bundle(bundle)
    record = read_trust(opened)
    if record is None:
        raise ValueError("no trust.json")
    parts = {"temperature", "thresholds", "training_ranges", "guards", "usual", "novelty"}
    return {**opened.manifest.model_dump(include=parts), "record": record.model_dump(exclude={"made"})}


def figures(bundle: Path) -> dict[str, Any]:
    """An evaluation's figures; raises where the file is half."""
    found: dict[str, Any] = json.loads((bundle / "evaluation.json").read_bytes())["figures"]
    return found


def disturbed(
    line: tuple[object, ...],
    how: str,
    rounds: int,
    longest: float,
    draw: random.Random,
    look: Callable[[], None],
) -> Tally:
    """Start the command up to `rounds` times and end it after a random time; then let it get through."""
    tally = Tally()
    for _ in range(rounds):
        # Half of the moments lie in the command's last part, after everything was imported.
        share = draw.random() if draw.random() < 0.5 else draw.uniform(0.6, 1.0)
        answer = _ended(line, how, share * longest, tally)
        if answer is None:
            continue
        _judge(answer, str(line[0]), how, tally)
        try:
            look()
        except Exception as error:  # whatever a half file makes of itself
            tally.damaged += 1
            tally.trouble.append(f"after {how}: {type(error).__name__}: {error}")
    last = run(*line)
    tally.got_through += last.code == 0
    if last.code:
        tally.other_results += 1
        tally.trouble.append(f"did not get through: {last.said[-300:]}")
    return tally


def _ended(line: tuple[object, ...], how: str, after_seconds: float, tally: Tally) -> Answer | None:
    try:
        return Started(*line).end(SIGNALS[how], after_seconds=after_seconds, group=how == "Ctrl-C")
    except AssertionError as error:
        tally.left += 1
        tally.trouble.append(str(error)[:300])
        return None


def _judge(answer: Answer, command: str, how: str, tally: Tally) -> None:
    tally.tracebacks += "Traceback" in answer.said
    if answer.code == 0 or THROUGH[command] in answer.said:
        return  # it was through before the moment came; at Python's own shutdown nobody answers signals any more
    tally.ended += 1
    if answer.code not in CODES[how]:
        tally.wrong_codes += 1
        tally.trouble.append(f"{how}: code {answer.code}: {answer.said[-200:]}")
    if how != "kill -9" and answer.lines[-1:] != [LAST_LINE]:
        tally.without_line += 1
        tally.trouble.append(f"{how}: last line: {answer.lines[-1:]}")


def unit(name: str, lab: Lab, rounds: int, seed: int) -> dict[str, float | str]:
    """One command and one signal, in a folder of its own."""
    command, how = name.split(", ")
    draw = random.Random(f"{seed} {name}")
    with tempfile.TemporaryDirectory(prefix="scopewatch-interrupted-") as folder:
        place = Path(folder)
        work = {"prepare": _prepare, "train": _train, "trust": _trust, "evaluate": _evaluate}
        tally, same = work[command](lab, how, rounds, draw, place)
    tally.other_results += not same
    return tally.figures()


def _prepare(lab: Lab, how: str, rounds: int, draw: random.Random, place: Path) -> tuple[Tally, bool]:
    data = place / "data"

    def look() -> None:
        if (data / "dataset.json").exists() and fingerprint(data) != lab.fingerprint:
            raise ValueError("a data set with another fingerprint")

    line = ("prepare", lab.raw, data, "--input-px", 64)
    tally = disturbed(line, how, rounds, lab.seconds["prepare"], draw, look)
    return tally, fingerprint(data) == lab.fingerprint


def _train(lab: Lab, how: str, rounds: int, draw: random.Random, place: Path) -> tuple[Tally, bool]:
    from trainer.fitting.run_folder import read_history

    folder = place / "run"

    def look() -> None:
        if folder.exists():
            read_history(folder)

    line = ("train", lab.data, "--run", folder, "--recipe", lab.recipe)
    tally = disturbed(line, how, rounds, lab.seconds["train"], draw, look)
    weights = folder / "best.weights.h5"
    return tally, weights.exists() and weights_of(weights) == lab.weights


def _trust(lab: Lab, how: str, rounds: int, draw: random.Random, place: Path) -> tuple[Tally, bool]:
    out = place / "trusted"

    def look() -> None:
        """What is there is whole, and is taken away: the command makes a new folder only."""
        if out.exists():
            if limits(out) != limits(lab.trusted):
                raise ValueError("other limits")
            shutil.rmtree(out)

    line = ("trust", lab.bundle, lab.data, out, *HELD_OUT)
    tally = disturbed(line, how, rounds, lab.seconds["trust"], draw, look)
    return tally, out.exists() and limits(out) == limits(lab.trusted)


def _evaluate(lab: Lab, how: str, rounds: int, draw: random.Random, place: Path) -> tuple[Tally, bool]:
    bundle = Path(shutil.copytree(lab.bundle, place / "bundle"))

    def look() -> None:
        if (bundle / "evaluation.json").exists():
            figures(bundle)

    tally = disturbed(("evaluate", bundle, lab.data), how, rounds, lab.seconds["evaluate"], draw, look)
    return tally, (bundle / "evaluation.json").exists() and figures(bundle) == lab.evaluation


def main() -> int:
    """Run the long tier."""
    parser = long_tier(__doc__ or "")
    parser.add_argument(
        "--rounds", type=int, default=40, help="how often each command is ended by each signal"
    )
    options = parser.parse_args()
    units = [f"{command}, {how}" for command in ("prepare", "train", "trust", "evaluate") for how in SIGNALS]
    with tempfile.TemporaryDirectory(prefix="scopewatch-interrupted-") as place:
        lab = set_up(Path(place))
        return run_units(units, lambda name: unit(name, lab, options.rounds, options.seed), options, BARS)


if __name__ == "__main__":
    sys.exit(main())
