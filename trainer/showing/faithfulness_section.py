"""The part of a report that says whether the map is faithful: table, charts, pictures and sentences.

Only this module knows which of the record's figures are shown; the words between them stand in
`templates/faithfulness.html`, the verdicts in `scoring.map_verdicts`.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from edge_agent.evidence import paint_panels, spread_evidence
from edge_agent.preprocessing import CamMap, describe_field, grey_field
from trainer.scoring.evaluation import Source, readable
from trainer.scoring.faithfulness_record import FaithfulnessError, read_faithfulness
from trainer.scoring.map_verdicts import limits, sentences, titled
from trainer.showing.faithfulness_charts import curves_chart, forgetting_chart

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from edge_agent.micrograph import Micrograph
    from edge_agent.model_bundle import Bundle
    from trainer.preparing.crops import DataSet
    from trainer.scoring.faithfulness_record import Example, Faithfulness, MethodFigures

PANEL_PX: Final = 230
_QUALITY: Final = 80


@dataclass(frozen=True, slots=True)
class DrawnExample:
    """One row of pictures: `panels` are data URIs by title, the micrograph first; empty with the `absence`."""

    example: Example
    panels: Mapping[str, str]
    absence: str = ""


@dataclass(frozen=True, slots=True)
class FaithfulnessSection:
    """What the template shows; without a `result` only `absence`."""

    result: Faithfulness | None
    absence: str = ""
    sentences: Sequence[str] = ()
    limits: Sequence[str] = ()
    charts: Mapping[str, str] = field(default_factory=dict)
    """SVG by name; `forgetting` only where weights were drawn anew."""
    drawn: Sequence[DrawnExample] = ()
    pictures_absence: str = ""

    @property
    def pointed(self) -> bool:
        """Whether any map was held against masks."""
        return any(one.pointing is not None for _, one in self.rows)

    @property
    def rows(self) -> list[tuple[str, MethodFigures]]:
        """Title and figures of each method."""
        return [] if self.result is None else [(titled(one.names), one) for one in self.result.methods]


def faithfulness_section(
    bundle: Bundle,
    data: DataSet | None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> FaithfulnessSection:
    """What is known of a bundle's maps; pictures need the data set that they were measured on."""
    try:
        result = read_faithfulness(bundle)
    except FaithfulnessError as error:
        return FaithfulnessSection(None, str(error))
    if result is None:
        return FaithfulnessSection(
            None,
            "it was not measured; edge-trainer faithfulness BUNDLE DATASET does, with --masks also against masks",
        )
    drawn, absence = _drawn(bundle, result, data, progress)
    charts = {"deletion": curves_chart(result.methods)}
    if any(one.randomised is not None for one in result.methods):
        charts["forgetting"] = forgetting_chart(result.methods)
    return FaithfulnessSection(result, "", sentences(result), limits(result), charts, drawn, absence)


def _drawn(
    bundle: Bundle,
    result: Faithfulness,
    data: DataSet | None,
    progress: Callable[[str, int, int], None],
) -> tuple[list[DrawnExample], str]:
    if data is None:
        return [], "the data set is not there"
    if data.fingerprint != result.dataset_fingerprint:
        return [], f"the maps were measured on another data set ({result.dataset})"
    hashes = {crop.source: crop.sha256 for crop in data.kept}
    sources = [Source(one.file, one.label, "", hashes.get(one.file)) for one in result.examples]
    titles = {one.names[0]: titled(one.names) for one in result.methods}
    drawn = []
    for done, (one, (_, micrograph)) in enumerate(zip(result.examples, readable(data, sources), strict=True)):
        progress("maps", done, len(sources))
        if isinstance(micrograph, str):
            drawn.append(DrawnExample(one, {}, micrograph))
        else:
            drawn.append(DrawnExample(one, _panels(bundle, one, micrograph, titles)))
    progress("maps", len(sources), len(sources))
    return drawn, ""


def _panels(
    bundle: Bundle, example: Example, micrograph: Micrograph, titles: Mapping[str, str]
) -> dict[str, str]:
    rows, columns = int(micrograph.pixels.shape[0]), int(micrograph.pixels.shape[1])
    shrink = PANEL_PX / max(rows, columns)
    shape = (max(1, round(rows * shrink)), max(1, round(columns * shrink)))
    contrast = describe_field(micrograph.pixels, bundle.manifest.preprocessing).contrast
    grey = grey_field(micrograph.pixels, contrast, shape)
    panels = {"micrograph": _uri(_plain(grey))}
    for name, values in example.maps.items():
        cells = np.array(values, dtype=np.float32)
        cam = CamMap(example.answer, name, example.map_box_px, cells, "")
        covered = paint_panels(grey, spread_evidence(cam, (rows, columns), shape))[1]
        panels[titles.get(name, name)] = _uri(covered)
    return panels


def _plain(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.repeat(np.rint(grey * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _uri(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
