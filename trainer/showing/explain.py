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
from edge_agent.decision import decide
from edge_agent.evidence import UNITS, colour_scale, paint_panels, spread_evidence
from edge_agent.files import write_durably
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.model_bundle import UNKNOWN_DATASET, Bundle, Manifest, open_bundle
from edge_agent.preprocessing import grey_field
from trainer.preparing.split import Part, listed
from trainer.showing.explain_maps import (
    ANSWERED,
    EVERY,
    ExplainError,
    FigureMethod,
    MapMaker,
    legend,
    map_maker,
    method_sentence,
)
from trainer.showing.explain_page import PANEL_DPI, Exhibit, Shade, draw_pages, letter, panel_mm, said
from trainer.showing.micrograph_panels import MM_PER_INCH, figure_style, save_pdf, save_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.classifier import Prediction
    from edge_agent.micrograph import Micrograph
    from trainer.preparing.crops import Crop, DataSet

__all__ = ["ExplainError", "Explanation", "Shown", "explain"]

NAME: Final = "explain"


class Shown(BaseModel):
    """One map: several belong to one panel letter where every class's is shown."""

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
    map_of: str = ""
    """Class whose evidence is drawn; "" in explanations of scopewatch 0.3 and before: the class answered."""
    map_probability: float | None = None
    """What the network gave that class."""
    evidence_scale: float | None
    """Evidence at which the colour scale ends, in the method's unit; None where nothing is drawn."""
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
    method: str = "cam"
    settings: str = ""
    """Of the method, in words: what was hidden, how far apart."""
    unit: str = "logits"
    map_of: str = "answered"
    """`answered`, `every`, or one class."""
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
    method: FigureMethod = "bundle",
    map_of: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Explanation:
    """Make the figure in the folder `out`: `explain.pdf`, `.png` (one a page), `.csv`, `.json`, `.txt` (caption).

    `files` names kept micrographs as the data set does (of any part); otherwise `count` random ones of each class
    of `part` are taken, of `classes` where given. `columns` pairs stand side by side on a page 180 mm wide. The
    maps are the bundle's own unless another `method` is asked for, and of the class answered unless `map_of` names
    one or says `every`.

    Raises:
        ExplainError: nothing fits the choice, none of it can be read, or the network has no such map.

    """
    bundle = open_bundle(bundle_path)
    _check(bundle, dataset, count, columns, classes)
    maker = map_maker(bundle, method, map_of)
    queues = _named(dataset, files) if files else _random(dataset, part, classes, seed)
    wanted = 1 if files else count
    room_mm = panel_mm(columns, len(bundle.manifest.labels) if maker.map_of == EVERY else 1)
    exhibits, skipped = _exhibits(maker, dataset, queues, wanted, room_mm, progress)
    if not exhibits:
        raise ExplainError(
            f"{dataset.raw}: none of the micrographs can be read ({listed([*skipped.values()])})"
        )
    out.mkdir(parents=True, exist_ok=True)
    title = f"Class evidence of {_named_bundle(bundle)}"
    pictures, bars = _drawn(exhibits, columns, legend(maker), out, title)
    shown = [_shown(index, *pair) for index, pair in enumerate(zip(exhibits, bars, strict=True))]
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
        method=maker.method,
        settings="; ".join(dict.fromkeys(exhibit.settings for exhibit in exhibits if exhibit.settings)),
        unit=UNITS.get(maker.method, ""),
        map_of=maker.map_of,
        shown=tuple(one for rows in shown for one in rows),
        skipped=skipped,
        caption="",
        pictures=pictures,
    )
    return _written(found.model_copy(update={"caption": _caption(found, bundle, maker)}), out)


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
    maker: MapMaker,
    dataset: DataSet,
    queues: Sequence[Sequence[Crop]],
    wanted: int,
    room_mm: float,
    progress: Callable[[str, int, int], None],
) -> tuple[list[Exhibit], dict[str, str]]:
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
            exhibits.append(_exhibit(maker, crop, micrograph, room_mm, progress))
            taken += 1
    progress("classified", len(exhibits), total)
    return exhibits, skipped


def _read(dataset: DataSet, crop: Crop) -> Micrograph:
    micrograph = read_micrograph(dataset.path_of(crop.source))
    if None not in (crop.sha256, micrograph.source.sha256) and crop.sha256 != micrograph.source.sha256:
        raise UnusableFile(
            "was changed since edge-trainer prepare; run that again", dataset.path_of(crop.source)
        )
    return micrograph


def _exhibit(
    maker: MapMaker,
    crop: Crop,
    micrograph: Micrograph,
    room_mm: float,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Exhibit:
    """Classify, and paint the panels as large as they will stand on the page; the micrograph itself may go."""
    predictions = maker.predictions(micrograph, progress)
    first, size = predictions[0], micrograph.pixel_size_nm
    rows, columns = micrograph.pixels.shape
    scale = room_mm / MM_PER_INCH * PANEL_DPI / max(rows, columns)
    shape = max(1, round(rows * scale)), max(1, round(columns * scale))
    plain, shades = _painted(
        predictions, grey_field(micrograph.pixels, first.field.contrast, shape), (rows, columns)
    )
    decision = decide(first, micrograph, maker.classifier.bundle.manifest)
    return Exhibit(
        file=crop.source,
        label=crop.label,
        part=str(crop.part),
        sha256=micrograph.source.sha256,
        answer=first.label,
        probability=first.probability,
        decision=decision.decision,
        reasons=decision.reasons,
        plain=plain,
        shades=shades,
        panel_pixel_nm=None if size is None else (size[0] * rows / shape[0], size[1] * columns / shape[1]),
        pixel_size_nm=size,
        settings=first.cam.settings,
    )


def _painted(
    predictions: Sequence[Prediction], grey: NDArray[np.float32], field_shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[Shade, ...]]:
    """The plain panel with the outline of one map (the answer's, where there are several), and each map's panel.

    Maps of one micrograph have one colour scale: a class that little speaks for must look so beside the others.
    """
    scale = colour_scale([one.cam for one in predictions])
    panels, shades = {}, []
    for one in predictions:
        evidence = spread_evidence(one.cam, field_shape, grey.shape, scale=scale)
        panels[one.cam.label], covered = paint_panels(grey, evidence)
        probability = one.probabilities[one.labels.index(one.cam.label)]
        drawn_to = None if evidence.values is None else evidence.scale
        shades.append(Shade(one.cam.label, probability, covered, drawn_to, evidence.absence))
    return panels.get(predictions[0].label, panels[predictions[0].cam.label]), tuple(shades)


def _drawn(
    exhibits: Sequence[Exhibit], columns: int, legend: str, out: Path, title: str
) -> tuple[tuple[str, ...], list[str]]:
    """Write the pictures and give their names, and each exhibit's scale bar in words."""
    with figure_style():
        pages, bars = draw_pages(exhibits, columns, legend)
        names = [f"{NAME}.png", *(f"{NAME}-{number}.png" for number in range(2, len(pages) + 1))]
        for page, name in zip(pages, names, strict=True):
            save_png(page, out / name, PANEL_DPI, title)
        save_pdf(pages, out / f"{NAME}.pdf", PANEL_DPI, title)
    for old in {*out.glob(f"{NAME}-*.png")} - {out / name for name in names}:
        old.unlink()  # pages of an earlier, longer figure
    return (*names, f"{NAME}.pdf"), bars


def _shown(index: int, exhibit: Exhibit, scale_bar: str) -> list[Shown]:
    size = exhibit.pixel_size_nm or (None, None)
    return [
        Shown(
            panel=letter(index),
            file=exhibit.file,
            label=exhibit.label,
            answer=exhibit.answer,
            probability=round(exhibit.probability, 4),
            decision=exhibit.decision,
            reasons=", ".join(exhibit.reasons),
            right=exhibit.right,
            scale_bar=scale_bar,
            map_of=shade.label,
            map_probability=round(shade.probability, 4),
            evidence_scale=None if shade.scale is None else round(shade.scale, 4),
            pixel_height_nm=size[0],
            pixel_width_nm=size[1],
            sha256=exhibit.sha256,
        )
        for shade in exhibit.shades
    ]


def _caption(found: Explanation, bundle: Bundle, maker: MapMaker) -> str:
    """What a journal's reader has to know to judge the figure."""
    method = method_sentence(found.method, found.settings, maker.forced)
    return " ".join(_sentences(found, bundle.manifest, method))


def _sentences(found: Explanation, manifest: Manifest, method: str) -> Iterator[str]:
    name, version = manifest.name, manifest.version
    where = "elsewhere" if manifest.dataset_fingerprint == UNKNOWN_DATASET else "on another data set"
    unit = f" ({found.unit})" if found.unit else ""
    network = f"the evidence that the network {name}, version {version}, found in them"
    ends = f"The colour scale runs from zero to the value in the upper right corner of each map{unit}"
    if found.map_of == EVERY:
        yield (
            f"Figure. Micrographs (first of each row) and {network} for each class, with its probability above "
            f"({method}). {ends}, the same for all maps of one micrograph; what does not speak for a class is "
            "not coloured. The line in the micrograph marks half of the scale, for the class answered."
        )
    else:
        of = "the class it answered" if found.map_of == ANSWERED else f"the class {found.map_of}"
        yield (
            f"Figure. Micrographs (left) and {network} for {of} (right; {method}). {ends}; what does not speak for "
            "the class is not coloured. The line in the micrograph marks half of the scale."
        )
    for one in {one.panel: one for one in found.shown}.values():
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
        yield f"The network was trained {where}."
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
