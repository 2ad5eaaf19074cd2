"""The figure for a paper: micrographs beside the evidence that a bundle found in them, and what it answered.

Every micrograph goes through the agent (reader, classifier, decision, colours), never through cached crops: the
figure shows what the microscope PC shows. Beside the pictures (PNG, and PDF with text as text) stand a caption, and
a table of what is shown, so that every panel can be found again.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from edge_agent import __version__
from edge_agent.classifier import Classifier
from edge_agent.decision import decide
from edge_agent.evidence import paint_panels, spread_evidence
from edge_agent.files import write_durably
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.preprocessing import grey_field
from trainer.preparing.split import Part, listed
from trainer.showing.explain_page import PANEL_DPI, Exhibit, draw_pages, letter, panel_mm, said
from trainer.showing.micrograph_panels import MM_PER_INCH, figure_style, save_pdf, save_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edge_agent.micrograph import Micrograph
    from trainer.preparing.crops import Crop, DataSet

NAME: Final = "explain"


class ExplainError(Exception):
    """No figure can be made of this choice; the message says what was seen and what to do."""


class Shown(BaseModel):
    """One pair of panels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    panel: str
    file: str
    label: str
    answer: str
    probability: float
    decision: str
    reasons: str
    right: bool
    scale_bar: str
    evidence_scale: float | None
    """Evidence at which the colour scale ends (logits of the pre-softmax map); None where nothing is drawn."""
    pixel_height_nm: float | None
    pixel_width_nm: float | None
    sha256: str | None


class Explanation(BaseModel):
    """The file `explain.json`: what the figure shows, of which bundle and data set, and how it was chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["scopewatch.explanation/1"] = Field(default="scopewatch.explanation/1", alias="schema")
    scopewatch: str = __version__
    made: datetime
    bundle: str
    model_sha256: str
    dataset: str
    dataset_fingerprint: str
    trained_on_this_dataset: bool
    part: str
    chosen: Literal["by name", "at random"]
    seed: int
    shown: tuple[Shown, ...]
    skipped: dict[str, str]
    """Files that were drawn but cannot be shown, with the reason."""
    caption: str
    pictures: tuple[str, ...]


def explain(
    bundle_path: Path,
    dataset: DataSet,
    out: Path,
    *,
    part: Part = "test",
    classes: Sequence[str] = (),
    count: int = 2,
    files: Sequence[str] = (),
    columns: int = 2,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Explanation:
    """Make the figure in the folder `out`: `explain.pdf`, `.png` (one a page), `.csv`, `.json`, `.txt` (caption).

    `files` names kept micrographs as the data set does (of any part); otherwise `count` random ones of each class
    of `part` are taken, of `classes` where given. `columns` pairs stand side by side on a page 180 mm wide.

    Raises:
        ExplainError: nothing fits the choice, or none of it can be read.

    """
    bundle = open_bundle(bundle_path)
    _check(bundle, dataset, count, columns, classes)
    queues = _named(dataset, files) if files else _random(dataset, part, classes, seed)
    wanted = 1 if files else count
    exhibits, skipped = _exhibits(bundle, dataset, queues, wanted, panel_mm(columns), progress)
    if not exhibits:
        raise ExplainError(
            f"{dataset.raw}: none of the micrographs can be read ({listed([*skipped.values()])})"
        )
    out.mkdir(parents=True, exist_ok=True)
    pictures, bars = _drawn(exhibits, columns, out, f"Class evidence of {_named_bundle(bundle)}")
    found = Explanation(
        made=datetime.now(UTC).replace(microsecond=0),
        bundle=_named_bundle(bundle),
        model_sha256=bundle.sha256,
        dataset=dataset.root.name,
        dataset_fingerprint=dataset.fingerprint,
        trained_on_this_dataset=bundle.manifest.dataset_fingerprint == dataset.fingerprint,
        part=", ".join(sorted({exhibit.part for exhibit in exhibits})),
        chosen="by name" if files else "at random",
        seed=seed,
        shown=tuple(_shown(index, *pair) for index, pair in enumerate(zip(exhibits, bars, strict=True))),
        skipped=skipped,
        caption="",
        pictures=pictures,
    )
    return _written(found.model_copy(update={"caption": _caption(found, bundle)}), out)


def _check(bundle: Bundle, dataset: DataSet, count: int, columns: int, classes: Sequence[str]) -> None:
    if not 1 <= columns <= 4:
        raise ExplainError(f"{columns} columns were asked for; 1 to 4 pairs fit side by side")
    if count < 1:
        raise ExplainError(f"{count} micrographs a class were asked for; ask for 1 at least")
    for label in classes:
        if label not in dataset.labels:
            raise ExplainError(f"{dataset.root}: has no class {label!r}; it has {listed(dataset.labels, 12)}")
    unknown = sorted(set(dataset.labels) - set(bundle.manifest.labels))
    if unknown:
        raise ExplainError(f"{bundle.path}: does not know the classes {listed(unknown)} of {dataset.root}")


def _named_bundle(bundle: Bundle) -> str:
    return f"{bundle.manifest.name}-{bundle.manifest.version}"


def _named(dataset: DataSet, files: Sequence[str]) -> list[list[Crop]]:
    """A queue of one for each file, in the order given."""
    kept = {crop.source: crop for crop in dataset.kept}
    missing = [file for file in files if file not in kept]
    if missing:
        raise ExplainError(
            f"{dataset.root}: has no kept micrograph {listed(missing)}; name files as dataset.csv does, relative "
            "to the raw folder"
        )
    return [[kept[file]] for file in dict.fromkeys(files)]


def _random(dataset: DataSet, part: Part, classes: Sequence[str], seed: int) -> list[list[Crop]]:
    """A shuffled queue of micrographs for each class: where one cannot be read, the next is taken."""
    draw = np.random.default_rng(seed)
    by_label: defaultdict[str, dict[str, Crop]] = defaultdict(dict)
    for crop in dataset.part(part):
        by_label[crop.label].setdefault(crop.source, crop)
    wanted = [label for label in classes or dataset.labels if by_label[label]]
    if not wanted:
        raise ExplainError(
            f"{dataset.root}: has no micrograph of {listed(classes or dataset.labels)} in the part {part}; "
            "choose another part"
        )
    members = [list(by_label[label].values()) for label in wanted]
    return [[queue[index] for index in draw.permutation(len(queue))] for queue in members]


def _exhibits(
    bundle: Bundle,
    dataset: DataSet,
    queues: Sequence[Sequence[Crop]],
    wanted: int,
    room_mm: float,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Exhibit], dict[str, str]]:
    classifier = Classifier(bundle)
    exhibits: list[Exhibit] = []
    skipped: dict[str, str] = {}
    total = sum(min(wanted, len(queue)) for queue in queues)
    for queue in queues:
        taken = 0
        for crop in queue:
            if taken == wanted:
                break
            progress("classified", len(exhibits), total)
            try:
                micrograph = _read(dataset, crop)
            except (UnusableFile, OSError) as error:
                skipped[crop.source] = str(error)
                continue
            exhibits.append(_exhibit(classifier, crop, micrograph, room_mm))
            taken += 1
    progress("classified", len(exhibits), total)
    return exhibits, skipped


def _read(dataset: DataSet, crop: Crop) -> Micrograph:
    micrograph = read_micrograph(dataset.raw / crop.source)
    if None not in (crop.sha256, micrograph.source.sha256) and crop.sha256 != micrograph.source.sha256:
        raise UnusableFile(
            "was changed since edge-trainer prepare; run that again", dataset.raw / crop.source
        )
    return micrograph


def _exhibit(classifier: Classifier, crop: Crop, micrograph: Micrograph, room_mm: float) -> Exhibit:
    """Classify, and paint both panels as large as they will stand on the page; the micrograph itself may go."""
    prediction = classifier.classify(micrograph)
    rows, columns = micrograph.pixels.shape
    scale = room_mm / MM_PER_INCH * PANEL_DPI / max(rows, columns)
    shape = max(1, round(rows * scale)), max(1, round(columns * scale))
    evidence = spread_evidence(prediction.cam, (rows, columns), shape)
    plain, covered = paint_panels(grey_field(micrograph.pixels, prediction.field.contrast, shape), evidence)
    size = micrograph.pixel_size_nm
    decision = decide(prediction, classifier.bundle.manifest)
    return Exhibit(
        file=crop.source,
        label=crop.label,
        part=str(crop.part),
        sha256=micrograph.source.sha256,
        answer=prediction.label,
        probability=prediction.probability,
        decision=decision.decision,
        reasons=decision.reasons,
        plain=plain,
        covered=covered,
        panel_pixel_nm=None if size is None else (size[0] * rows / shape[0], size[1] * columns / shape[1]),
        pixel_size_nm=size,
        evidence_scale=None if evidence.values is None else evidence.scale,
        absence=evidence.absence,
    )


def _drawn(
    exhibits: Sequence[Exhibit], columns: int, out: Path, title: str
) -> tuple[tuple[str, ...], list[str]]:
    """Write the pictures and give their names, and each exhibit's scale bar in words."""
    with figure_style():
        pages, bars = draw_pages(exhibits, columns)
        names = [f"{NAME}.png", *(f"{NAME}-{number}.png" for number in range(2, len(pages) + 1))]
        for page, name in zip(pages, names, strict=True):
            save_png(page, out / name, PANEL_DPI, title)
        save_pdf(pages, out / f"{NAME}.pdf", PANEL_DPI, title)
    for old in {*out.glob(f"{NAME}-*.png")} - {out / name for name in names}:
        old.unlink()  # pages of an earlier, longer figure
    return (*names, f"{NAME}.pdf"), bars


def _shown(index: int, exhibit: Exhibit, scale_bar: str) -> Shown:
    size = exhibit.pixel_size_nm or (None, None)
    return Shown(
        panel=letter(index),
        file=exhibit.file,
        label=exhibit.label,
        answer=exhibit.answer,
        probability=round(exhibit.probability, 4),
        decision=exhibit.decision,
        reasons=", ".join(exhibit.reasons),
        right=exhibit.right,
        scale_bar=scale_bar,
        evidence_scale=None if exhibit.evidence_scale is None else round(exhibit.evidence_scale, 4),
        pixel_height_nm=size[0],
        pixel_width_nm=size[1],
        sha256=exhibit.sha256,
    )


def _caption(found: Explanation, bundle: Bundle) -> str:
    """What a journal's reader has to know to judge the figure."""
    method = "class activation map" if bundle.manifest.cam.method == "cam" else "class evidence map"
    return " ".join(_sentences(found, bundle.manifest.name, bundle.manifest.version, method))


def _sentences(found: Explanation, name: str, version: str, method: str) -> Iterator[str]:
    yield (
        f"Figure. Micrographs (left) and the evidence that the network {name}, version {version}, found in them "
        f"for the class it answered (right; {method} before the softmax). The colour scale runs from zero to the "
        "value in the upper right corner of each map (logits); what does not speak for the class is not coloured. "
        "The line in the micrograph marks half of the scale."
    )
    for one in found.shown:
        bar = f"; scale bar {one.scale_bar}" if one.scale_bar else "; not calibrated"
        answer = said(one.answer, one.probability, one.decision)
        yield f"({one.panel}) {one.label}: answered {answer}, {'right' if one.right else 'wrong'}{bar}."
    chosen = (
        "chosen by hand"
        if found.chosen == "by name"
        else f"drawn at random in each class (seed {found.seed})"
    )
    yield f"The micrographs are of the {found.part} part of the data set and were {chosen}."
    if not found.trained_on_this_dataset:
        yield "The network was trained on another data set."
    elif "train" in found.part.split(", "):
        yield "Micrographs of the train part were used to fit the network."
    yield f"Model SHA-256 {found.model_sha256[:16]}; scopewatch {found.scopewatch}."


def _written(found: Explanation, out: Path) -> Explanation:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(Shown.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(one.model_dump() for one in found.shown)
    write_durably(out / f"{NAME}.csv", text.getvalue().encode("utf-8-sig"))
    write_durably(out / f"{NAME}.txt", (found.caption + "\n").encode("utf-8", "replace"))
    write_durably(out / f"{NAME}.json", (found.model_dump_json(indent=1, by_alias=True) + "\n").encode())
    return found
