"""Which answers a report shows as pictures, and the pictures: micrograph and evidence as the agent draws them.

Only this module knows how pictures are chosen and how large they may be, so that a page with many classes stays
small enough to be sent by mail. All of them are data URIs: the page opens no other file.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from edge_agent.classifier import Answer, Classifier, Prediction
from edge_agent.evidence import Evidence, paint_panels, spread_evidence
from edge_agent.heatmap import length_text, round_length
from edge_agent.preprocessing import grey_field
from trainer.scoring.evaluation import answer, readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle
    from trainer.preparing.crops import DataSet
    from trainer.scoring.evaluation import Source
    from trainer.scoring.figures import Scored

RIGHT_A_CLASS: Final = 6
WRONG_A_CLASS: Final = 6
MOST_MISTAKES: Final = 9
_MOST_IN_GALLERIES: Final = 160
_PANEL_PX: Final = 230
_LARGE_PANEL_PX: Final = 420
_STACKED_FROM: Final = 1.7
_GAP_PX: Final = 4
_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class Choice:
    """Places of answers in the evaluation."""

    mistakes: tuple[int, ...]
    """The most confident wrong answers."""
    right: dict[str, tuple[int, ...]]
    """By class: right answers drawn by chance."""
    wrong: dict[str, tuple[int, ...]]
    """By true class: wrong answers, the most confident first."""

    @property
    def all(self) -> tuple[int, ...]:
        """Each place once, in rising order."""
        galleries = (*self.right.values(), *self.wrong.values())
        return tuple(sorted({*self.mistakes, *(at for places in galleries for at in places)}))


@dataclass(frozen=True, slots=True)
class Picture:
    """One answer drawn: `small` and `large` are data URIs, "" with the reason in `absence`."""

    small: str
    large: str
    plain: str
    """The micrograph alone."""
    scale: str
    """What the bar on the micrograph stands for."""
    absence: str = ""


def choose(predictions: Sequence[Scored], labels: Sequence[str], seed: int) -> Choice:
    """Choose the answers to show: every class its share, mistakes by how sure the network was."""
    share = max(1, _MOST_IN_GALLERIES // (2 * len(labels)))
    surest = sorted(
        range(len(predictions)), key=lambda at: (-predictions[at].probability, predictions[at].file)
    )
    wrong = [at for at in surest if not predictions[at].right]
    draw = np.random.default_rng(seed)
    right = {}
    for label in labels:
        mine = [at for at, entry in enumerate(predictions) if entry.right and entry.label == label]
        count = min(len(mine), RIGHT_A_CLASS, share)
        right[label] = (
            tuple(sorted(int(mine[at]) for at in draw.choice(len(mine), count, replace=False)))
            if mine
            else ()
        )
    return Choice(
        mistakes=tuple(wrong[:MOST_MISTAKES]),
        right=right,
        wrong={
            label: tuple(at for at in wrong if predictions[at].label == label)[: min(WRONG_A_CLASS, share)]
            for label in labels
        },
    )


def draw_pictures(
    bundle: Bundle,
    dataset: DataSet,
    sources: Sequence[Source],
    wanted: Iterable[int],
    *,
    large: Iterable[int] = (),
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[int, Picture]:
    """Draw the sources at the places `wanted`; those in `large` also at twice the size."""
    places, larger = sorted(set(wanted)), set(large)
    without_map = bundle.manifest.tensors.cam is None
    classifier = Classifier(bundle, without_map=without_map) if places else None
    drawn: dict[int, Picture] = {}
    chosen = [sources[at] for at in places]
    for done, (at, (source, micrograph)) in enumerate(zip(places, readable(dataset, chosen), strict=True)):
        progress("pictures", done, len(places))
        if classifier is None or isinstance(micrograph, str):
            drawn[at] = Picture("", "", "", "", absence=str(micrograph))
        else:
            drawn[at] = _picture(micrograph, answer(classifier, micrograph, source), at in larger)
    progress("pictures", len(places), len(places))
    return drawn


def _picture(micrograph: Micrograph, prediction: Answer, large: bool) -> Picture:
    plain, both, scale = _panels(micrograph, prediction, _PANEL_PX)
    return Picture(
        small=_uri(both),
        large=_uri(_panels(micrograph, prediction, _LARGE_PANEL_PX)[1]) if large else "",
        plain=_uri(plain),
        scale=scale,
    )


def _panels(
    micrograph: Micrograph, prediction: Answer, longest_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """The plain micrograph, plain and covered beside or above each other, and what the scale bar stands for."""
    rows, columns = int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1])
    shrink = longest_px / max(rows, columns)
    shape = (max(1, round(rows * shrink)), max(1, round(columns * shrink)))
    grey = grey_field(micrograph.pixels, prediction.field.contrast, shape)
    evidence = Evidence(None, 0.0)  # where the network gives no map, both panels are plain
    if isinstance(prediction, Prediction):
        evidence = spread_evidence(prediction.cam, (rows, columns), shape)
    plain, covered = paint_panels(grey, evidence)
    _frame(plain, covered, prediction, (rows, columns))
    bare = np.repeat(np.rint(grey * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    plain, scale = _with_scale_bar(plain, micrograph)
    across = shape[1] <= _STACKED_FROM * shape[0]
    gap = (shape[0], _GAP_PX, 3) if across else (_GAP_PX, shape[1], 3)
    joined = np.concatenate([plain, np.full(gap, 255, np.uint8), covered], axis=1 if across else 0)
    return bare, joined, scale


def _frame(
    plain: NDArray[np.uint8], covered: NDArray[np.uint8], prediction: Answer, field_shape: tuple[int, int]
) -> None:
    """Outline what the network was shown, where that is not the whole field."""
    rows, columns = field_shape
    boxes = {tile.box_px for tile in prediction.tiles}
    if len(boxes) > 1 or boxes == {(0, 0, columns, rows)}:
        return
    ((x0, y0, x1, y1),) = boxes
    for panel in (plain, covered):
        left, right = (min(panel.shape[1] - 1, round(x * panel.shape[1] / columns)) for x in (x0, x1))
        top, bottom = (min(panel.shape[0] - 1, round(y * panel.shape[0] / rows)) for y in (y0, y1))
        panel[[top, bottom], left : right + 1] = 255
        panel[top : bottom + 1, [left, right]] = 255


def _with_scale_bar(panel: NDArray[np.uint8], micrograph: Micrograph) -> tuple[NDArray[np.uint8], str]:
    if micrograph.pixel_size_nm is None:
        return panel, ""
    nm_per_px = micrograph.pixel_size_nm[1] * micrograph.pixels.shape[1] / panel.shape[1]
    length_nm = round_length(nm_per_px * 0.4 * panel.shape[1])
    picture = Image.fromarray(panel)
    bottom, length_px = panel.shape[0] - 8, max(1, round(length_nm / nm_per_px))
    ImageDraw.Draw(picture).rectangle((8, bottom - 4, 8 + length_px, bottom), fill="white", outline="black")
    return np.asarray(picture), length_text(length_nm)


def _uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
