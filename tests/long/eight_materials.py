"""The whole way with eight simulated materials, by the real commands: folders of dm3 to answers on unseen files.

    python tests/long/eight_materials.py [--small] [--folder DIR] [--seconds N] [--seed N]

Draws a laboratory (see `materials.simulated_materials`), once as class folders and once laid out as the origin's
`train/ val/ test/ CLASS`, and for each runs prepare, preview, train, export, evaluate, explain and report; then
`edge-agent classify` on files of samples that no command has seen. Every figure is of simulated pictures.

Each step is recorded in the folder and not run again; so is every command by itself. With `--seconds 580` it stops
within ten minutes (exit code 75), and the same command goes on. It ends with a table; 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from edge_agent.model_bundle import open_bundle  # noqa: E402
from trainer.materials.simulated_materials import FLAWS, DrawnFile, draw_materials, read_drawn  # noqa: E402
from trainer.preparing.crops import DataSet, load_dataset  # noqa: E402
from trainer.trusting.trust_record import read_trust  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from trainer.preparing.crops import Crop

EXIT_NOT_DONE: Final = 75
LAYOUTS: Final = ("classes", "parts")
PARTS: Final = ("train", "val", "test")
MOST_GOOD_DROPPED: Final = 0.03
LEAST_FOUND: Final = {
    **dict.fromkeys(("spectrum", "diffraction"), 1.0),
    **dict.fromkeys(("saturated", "re-saved", "tilted"), 0.75),
    "empty": 0.5,
    "blurred": 0.0,
}
"""Blur and emptiness are matters of degree, and a doubtful picture is better kept. Of these blurred ones, noisy as
they are, screening finds next to none: a figure to be seen, not a bar."""
RECORD: Final = "steps.jsonl"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is drawn and trained, and what the networks must reach on it."""

    samples: int
    files_per_sample: int
    size_px: int
    unseen: int
    epochs: int
    accuracy: float


FULL: Final = Scale(samples=5, files_per_sample=12, size_px=1024, unseen=6, epochs=8, accuracy=0.90)
SMALL: Final = Scale(samples=4, files_per_sample=6, size_px=512, unseen=3, epochs=4, accuracy=0.70)


class NotDone(Exception):
    """The time is up; what was done is kept."""


class StepFailed(Exception):
    """A command did not do what it should; the text says which and how it ended."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where everything lies, how much of it there is, and until when there is time."""

    folder: Path
    scale: Scale
    seed: int
    until: float

    def left(self) -> float:
        """Seconds left. Raises NotDone when there are none."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise NotDone
        return left

    def raw(self, layout: str) -> Path:
        """The laboratory in one of its layouts."""
        return self.folder / f"raw-{layout}"

    def of(self, layout: str, what: str) -> Path:
        """What a command makes of that layout: data, run, bundle ..."""
        return self.folder / f"{layout}-{what}"


def run(place: Place, program: str, *arguments: object, wants: Path | None = None) -> str:
    """Run a command of this checkout to its end; StepFailed where it fails or leaves out what it should make."""
    module = {"edge-trainer": "trainer.cli", "edge-agent": "edge_agent.cli"}[program]
    line = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    shown = " ".join([program, *map(str, arguments)])
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as told:
        process = subprocess.Popen(line, cwd=place.folder, env=environment, stdout=out, stderr=told)
        try:
            process.wait(place.left())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(60)
            raise NotDone from None
        out.seek(0)
        told.seek(0)
        text, said = out.read().decode(), told.read().decode()
    if process.returncode:
        raise StepFailed(f"{shown}\n    ended with {process.returncode}: {said.strip()[-1500:]}")
    if wants is not None and not wants.exists():
        raise StepFailed(f"{shown}\n    made no {wants.name}: {said.strip()[-500:]}")
    return text


# --- steps ----------------------------------------------------------------------------------------


def draw(place: Place) -> dict[str, Any]:
    """Draw the laboratory, lay it out a second time by parts, and draw what nobody will have seen."""
    scale = place.scale
    files = scale.samples * scale.files_per_sample
    drawn = draw_materials(
        place.raw("classes"),
        files_per_class=files,
        samples_per_class=scale.samples,
        size_px=scale.size_px,
        seed=place.seed,
        progress=lambda *_: place.left() and None,
    )
    _lay_out_parts(drawn, place.raw("classes"), place.raw("parts"), scale.samples)
    draw_materials(
        place.folder / "unseen",
        files_per_class=scale.unseen,
        samples_per_class=max(1, scale.unseen // 3),
        size_px=scale.size_px,
        seed=place.seed + 1000,
        progress=lambda *_: place.left() and None,
        flaws=False,
    )
    return {"files": len(drawn), "planted": sum(bool(file.flaw) for file in drawn)}


def _lay_out_parts(drawn: Iterable[DrawnFile], source: Path, target: Path, samples: int) -> None:
    """Link the files as the origin had them: whole samples in train, val and test."""
    for file in drawn:
        number = int(file.sample[-2:])
        part = PARTS[0] if number <= samples - 2 else PARTS[number - samples + 2]
        path = target / part / file.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copy2(source / file.file, path)


def prepare(place: Place, layout: str) -> dict[str, Any]:
    """Prepare; compare what was dropped with what was planted, and the parts with the samples."""
    rule = ("--split", "folder") if layout == "classes" else ()
    out = place.of(layout, "data")
    run(place, "edge-trainer", "prepare", place.raw(layout), out, *rule)
    dataset = load_dataset(out)
    by_file = {_own_name(crop.source): crop for crop in dataset.crops}
    drawn = read_drawn(place.raw("classes"))
    found, planted = Counter[str](), Counter[str]()
    for file in drawn:
        if file.flaw:
            planted[file.flaw] += 1
            found[file.flaw] += _is_found(file, by_file)
    repeated = {file.base for file in drawn if file.flaw == "re-saved"}
    good = [file.file for file in drawn if not file.flaw and file.file not in repeated]
    dropped = {name: by_file[name].reason for name in good if not by_file[name].kept}
    return {
        "crops": len(dataset.kept),
        "found": {flaw: [found[flaw], planted[flaw]] for flaw in FLAWS if planted[flaw]},
        "good": len(good),
        "good_dropped": dropped,
        "torn": _torn(dataset, drawn),
        "classes": len(dataset.labels),
        "sheets": sorted(path.name for path in out.glob("*.html")),
        "wrong_part": _wrong_part(dataset) if layout == "parts" else [],
    }


def _own_name(source: str) -> str:
    """A file's name as `drawn.csv` has it, whatever the layout."""
    first, _, rest = source.partition("/")
    return rest if first in PARTS else source


def _is_found(file: DrawnFile, by_file: Mapping[str, Crop]) -> bool:
    """Whether screening did what it should with a planted flaw; tilted ones are kept, together with their base."""
    crop = by_file[file.file]
    if file.flaw == "tilted":
        base = by_file[file.base]
        together = crop.part == base.part and getattr(crop, "near", "") == getattr(base, "near", "") != ""
        return not crop.kept or not base.kept or together
    if file.flaw == "re-saved":
        return not (crop.kept and by_file[file.base].kept)
    return not crop.kept


def _torn(dataset: DataSet, drawn: Iterable[DrawnFile]) -> list[str]:
    """Samples of which kept crops stand in two parts."""
    sample_of = {file.file: file.sample for file in drawn}
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for crop in dataset.kept:
        parts[sample_of[_own_name(crop.source)]].add(crop.part)
    return sorted(sample for sample, seen in parts.items() if len(seen) > 1)


def _wrong_part(dataset: DataSet) -> list[str]:
    names = {"train": "train", "val": "validation", "test": "test"}
    return [crop.source for crop in dataset.kept if crop.part != names[crop.source.partition("/")[0]]]


def preview(place: Place, layout: str) -> dict[str, Any]:
    """The picture of what augmentation does."""
    picture = place.of(layout, "preview.png")
    run(place, "edge-trainer", "preview", place.of(layout, "data"), "--out", picture, wants=picture)
    return {"bytes": picture.stat().st_size}


def train(place: Place, layout: str) -> dict[str, Any]:
    """Train with the ready recipe, found by its name."""
    folder = place.of(layout, "run")
    options = ("--recipe", "eight-materials", "--epochs", place.scale.epochs, "--seed", place.seed)
    started = time.monotonic()
    run(
        place,
        "edge-trainer",
        "train",
        place.of(layout, "data"),
        "--run",
        folder,
        *options,
        wants=folder / "run.json",
    )
    return {"seconds": round(time.monotonic() - started)}


def export(place: Place, layout: str) -> dict[str, Any]:
    """Export to a bundle, which gives it limits measured on the validation part."""
    bundle = place.of(layout, "bundle")
    if bundle.exists():
        shutil.rmtree(bundle)
    name = ("--name", "eight-materials", "--version", "1")
    run(place, "edge-trainer", "export", place.of(layout, "run"), bundle, *name, wants=bundle / "model.onnx")
    record = read_trust(open_bundle(bundle))
    if record is None:
        return {"limits": False}
    refused = {kind.kind: [kind.abstained, kind.pictures] for kind in record.strangers}
    return {
        "limits": True,
        "accepted": record.accepted,
        "right_of_accepted": record.accepted_accuracy,
        "refused": refused,
    }


def evaluate(place: Place, layout: str) -> dict[str, Any]:
    """Score the test part."""
    bundle, data = place.of(layout, "bundle"), place.of(layout, "data")
    told = json.loads(run(place, "edge-trainer", "evaluate", bundle, data, "--json"))
    figures = told["figures"]
    return {"accuracy": figures["balanced_accuracy"], "micrographs": figures["micrographs"]}


def explain(place: Place, layout: str) -> dict[str, Any]:
    """The figure for a paper."""
    out = place.of(layout, "explained")
    run(
        place,
        "edge-trainer",
        "explain",
        place.of(layout, "bundle"),
        place.of(layout, "data"),
        "--out",
        out,
        wants=out,
    )
    return {suffix: len(list(out.glob(f"*.{suffix}"))) for suffix in ("png", "pdf")}


def report(place: Place, layout: str) -> dict[str, Any]:
    """One HTML file that needs no other."""
    page = place.of(layout, "report.html")
    run(place, "edge-trainer", "report", place.of(layout, "bundle"), "--out", page, wants=page)
    text = page.read_text(encoding="utf-8")
    labels = load_dataset(place.of(layout, "data")).labels
    outside = [
        mark for mark in ('src="http', "src='http", 'href="http', '<link rel="stylesheet') if mark in text
    ]
    return {
        "bytes": len(text),
        "missing": [label for label in labels if label not in text],
        "outside": outside,
    }


def classify(place: Place, layout: str) -> dict[str, Any]:
    """The agent, with the new bundle, on samples that no command has seen."""
    unseen, out = place.folder / "unseen", place.of(layout, "answers")
    options = ("--recursive", "--output", out, "--model", place.of(layout, "bundle"), "--json")
    printed = run(place, "edge-agent", "classify", unseen, *options)
    records = [json.loads(line) for line in printed.splitlines()]
    drawn = {str((unseen / file.file).resolve()): file.material for file in read_drawn(unseen)}
    right, all_ = Counter[str](), Counter(drawn.values())
    accepted, right_of_accepted = 0, 0
    for record in records:
        material = drawn[str(Path(record["source"]["path"]).resolve())]
        answer = record["prediction"] or {}
        is_right, is_accepted = answer.get("label") == material, answer.get("decision") == "accept"
        right[material] += is_right
        accepted += is_accepted
        right_of_accepted += is_accepted and is_right
    return {
        "accepted": [accepted, len(records)],
        "right_of_accepted": right_of_accepted,
        "accuracy": sum(right[name] / all_[name] for name in all_) / len(all_),
        "by_class": {name: [right[name], all_[name]] for name in sorted(all_)},
        "without_sidecar": len(drawn) - len(list(out.rglob("*.dm3.json"))),
        "without_heatmap": len(drawn) - len(list(out.rglob("*.heatmap.png"))),
    }


STEPS: Final[tuple[Callable[[Place, str], dict[str, Any]], ...]] = (
    prepare, preview, train, export, evaluate, explain, report, classify,
)  # fmt: skip


# --- the table ------------------------------------------------------------------------------------


def bars(name: str, seen: dict[str, Any], scale: Scale) -> list[tuple[str, str, bool]]:
    """What a step must have reached: what, how much, whether it did."""
    if name == "draw":
        return [("files drawn, of them planted bad ones", f"{seen['files']}, {seen['planted']}", True)]
    kind = name.partition(" ")[2]
    if kind == "prepare":
        return _preparation(seen)
    rules: dict[str, Callable[[], list[tuple[str, str, bool]]]] = {
        "preview": lambda: [("picture", f"{seen['bytes'] / 1024:.0f} KiB", seen["bytes"] > 20_000)],
        "train": lambda: [("seconds", str(seen["seconds"]), True)],
        "export": lambda: _exported(seen),
        "evaluate": lambda: [_at_least("class-balanced accuracy", seen["accuracy"], scale.accuracy)],
        "explain": lambda: [
            ("PNG and PDF", f"{seen['png']}, {seen['pdf']}", min(seen["png"], seen["pdf"]) > 0)
        ],
        "report": lambda: [
            ("MiB", f"{seen['bytes'] / 2**20:.1f}", seen["bytes"] > 100_000),
            ("classes not in it", str(seen["missing"]), not seen["missing"]),
            ("what it would fetch", str(seen["outside"]), not seen["outside"]),
        ],
        "classify": lambda: [
            _at_least("class-balanced accuracy, unseen samples", seen["accuracy"], scale.accuracy - 0.1),
            ("accepted, and right of these", _accepted(seen), True),
            ("files without sidecar or heatmap", str(_without(seen)), _without(seen) == 0),
        ],
    }
    return rules[kind]()


def _exported(seen: dict[str, Any]) -> list[tuple[str, str, bool]]:
    rows = [("parity proven", "yes", True), ("limits", "yes" if seen["limits"] else "none", seen["limits"])]
    if seen["limits"]:
        rows.append(("held-out ones accepted", f"{seen['accepted']:.3f}", True))
        rows.append(("accuracy of the accepted ones", f"{seen['right_of_accepted']:.3f}", True))
        rows += [
            (f"strangers refused: {kind}", f"{refused} of {drawn}", True)
            for kind, (refused, drawn) in seen["refused"].items()
        ]
    return rows


def _accepted(seen: dict[str, Any]) -> str:
    accepted, all_ = seen["accepted"]
    return f"{accepted} of {all_}, {seen['right_of_accepted']}"


def _without(seen: dict[str, Any]) -> int:
    return int(seen["without_sidecar"] + seen["without_heatmap"])


def _at_least(what: str, value: float, bar: float) -> tuple[str, str, bool]:
    return f"{what} (at least {bar:.2f})", f"{value:.3f}", value >= bar


def _preparation(seen: dict[str, Any]) -> list[tuple[str, str, bool]]:
    rows = []
    for flaw, (found, planted) in seen["found"].items():
        what = f"{'kept together' if flaw == 'tilted' else 'found'} (at least {LEAST_FOUND[flaw]:.0%})"
        rows.append(
            (f"planted: {flaw}, {what}", f"{found} of {planted}", found >= LEAST_FOUND[flaw] * planted)
        )
    share = len(seen["good_dropped"]) / seen["good"]
    rows += [
        (f"good ones dropped (at most {MOST_GOOD_DROPPED:.0%})", f"{len(seen['good_dropped'])} of {seen['good']}",
         share <= MOST_GOOD_DROPPED),
        ("samples in two parts", str(len(seen["torn"])), not seen["torn"]),
        ("files in another part than their folder's", str(len(seen["wrong_part"])), not seen["wrong_part"]),
        ("classes", str(seen["classes"]), seen["classes"] == 8),
        ("contact sheets", ", ".join(seen["sheets"]) or "none", bool(seen["sheets"])),
    ]  # fmt: skip
    return rows


def table(done: Mapping[str, dict[str, Any]], failed: Mapping[str, str], scale: Scale) -> bool:
    """Print what was reached; return whether all of it suffices."""
    well = not failed
    for name, seen in done.items():
        for what, value, reached in bars(name, seen, scale):
            well &= reached
            print(f"{name:18} {what:52} {value:>16}  {'' if reached else 'MISSED'}")
        for dropped, reason in list(seen.get("good_dropped", {}).items())[:8]:
            print(f"{'':18}   dropped: {dropped}: {reason}")
    for name, text in failed.items():
        print(f"{name:18} FAILED: {text}")
    return well


# --- the run --------------------------------------------------------------------------------------


def walk(place: Place, done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Run what is not done; a layout's later steps are left out where one fails, unless they do not need it."""
    failed: dict[str, str] = {}
    steps: list[tuple[str, Callable[[], dict[str, Any]]]] = [("draw", lambda: draw(place))]
    for layout in LAYOUTS:
        steps += [
            (f"{layout} {step.__name__}", lambda step=step, layout=layout: step(place, layout))
            for step in STEPS
        ]
    for name, step in steps:
        if name in done or _hopeless(name, failed):
            continue
        print(f"... {name}", flush=True)
        try:
            done[name] = step()
        except StepFailed as error:
            failed[name] = str(error)
            print(f"    FAILED: {error}", flush=True)
            continue
        with (place.folder / RECORD).open("a", encoding="utf-8") as record:
            record.write(json.dumps({"step": name, "seen": done[name]}) + "\n")
    return failed


def _hopeless(name: str, failed: Mapping[str, str]) -> bool:
    """Whether something it builds on has failed in this run."""
    layout, _, kind = name.partition(" ")
    needs = {"preview": ("prepare",), "train": ("prepare",), "export": ("prepare", "train")}
    built_on = needs.get(kind, ("prepare", "train", "export") if kind and kind != "prepare" else ())
    if kind == "report":
        built_on = (*built_on, "evaluate")
    return "draw" in failed or any(f"{layout} {step}" in failed for step in built_on)


def read_record(folder: Path) -> dict[str, dict[str, Any]]:
    """The steps that an earlier run finished."""
    path = folder / RECORD
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {entry["step"]: entry["seen"] for entry in map(json.loads, lines)}


def main() -> int:
    """Run the long tier."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a third of the files, at half the size")
    parser.add_argument(
        "--folder", type=Path, help="where everything lies, and is kept (default: a temporary one)"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="stop after so long; run again to go on"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    scale = SMALL if options.small else FULL
    with tempfile.TemporaryDirectory(prefix="eight-materials-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        done = read_record(folder)
        place = Place(folder, scale, options.seed, time.monotonic() + options.seconds)
        try:
            failed = walk(place, done)
        except NotDone:
            table(done, {}, scale)
            print("not done yet: the same command goes on")
            return EXIT_NOT_DONE
        return 0 if table(done, failed, scale) else 1


if __name__ == "__main__":
    sys.exit(main())
