"""What people see of a package for bioimage.io: its cover picture and its documentation."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from edge_agent import __version__
from edge_agent.classifier import Classifier
from edge_agent.evidence import paint_panels, spread_evidence
from edge_agent.preprocessing import cut_tiles, grey_field
from edge_agent.simulation import SHAPES, draw_field
from trainer.exporting.front_matter import without_front_matter

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle
    from trainer.scoring.figures import Figures

_CARD: Final = "MODEL_CARD.md"
_COVER_PX: Final = 480
_ON_NOVELTY: Final = (
    " The output `novelty` says how unlike the training micrographs the input is. When an answer counts, by "
    "novelty, probability and the look of the field together, stands in the attached `manifest.json` and in the "
    "metadata of the ONNX file (`scopewatch.decision`)."
)


def cover(bundle: Bundle, seed: int) -> bytes:
    """A simulated micrograph, and beside it its map as the agent draws it; the micrograph alone without one."""
    random = np.random.default_rng(seed)
    pixels = draw_field(SHAPES[seed % len(SHAPES)], random, size_px=1024).pixels
    tiles = cut_tiles(pixels, None, bundle.manifest.preprocessing)
    panel = (_COVER_PX, _COVER_PX)
    grey = grey_field(pixels, tiles.field.contrast, panel)
    if bundle.manifest.tensors.cam is None:
        shown = np.rint(grey * 255).astype(np.uint8)
    else:
        shape = (int(pixels.shape[0]), int(pixels.shape[1]))
        cam = Classifier(bundle).classify_tiles(tiles, shape).cam
        shown = np.concatenate(paint_panels(grey, spread_evidence(cam, shape, panel)), axis=1)
    buffer = io.BytesIO()
    Image.fromarray(shown).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def readme(bundle: Bundle, figures: Figures, part: str) -> str:
    """The model card, how to feed the network, and how it was validated."""
    manifest, rule = bundle.manifest, bundle.manifest.preprocessing
    card = f"# {manifest.name} {manifest.version}\n\n{manifest.intended_use}\n"
    if _CARD in manifest.sha256:
        card = without_front_matter((bundle.path / _CARD).read_text(encoding="utf-8"))
    size = (
        f"stretched to exactly {rule.input_px} x {rule.input_px} px"
        if rule.proportions == "square"
        else f"brought to the area of {rule.input_px} x {rule.input_px} px with its own proportions"
    )
    low, high = figures.balanced_accuracy_interval
    feeding = (
        f"One grey micrograph, {size}, in whatever counts it has: the description's preprocessing takes its "
        "contrast limits and value range. The outputs are probabilities in the order of the labels and, where the "
        "graph has one, the class activation map in logits, whose cells lie evenly over the input."
        f"{_ON_NOVELTY if manifest.tensors.novelty is not None else ''}"
    )
    validation = (
        f"On {figures.micrographs} micrographs in {figures.groups} groups (part `{part}` of the data set), through "
        f"the agent's own reader and preprocessing: class-balanced accuracy {figures.balanced_accuracy:.3f} (95 % "
        f"interval by group {low:.3f} to {high:.3f}), accuracy {figures.accuracy:.3f}. Validate it on micrographs "
        "of your own that it has not seen before you rely on it."
    )
    return (
        f"{card.rstrip()}\n\n## Feeding it\n\n{feeding}\n\n## Validation\n\n{validation}\n\n"
        f"Made with scopewatch {__version__}.\n"
    )
