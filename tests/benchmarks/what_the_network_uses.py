"""Does the network look at particles, or at burnt-in bars, letters and contrast polarity?

    python tests/benchmarks/what_the_network_uses.py CV_RUN DATASET MASKS

Takes the fold bundles of `edge-trainer crossvalidate`, so every picture is judged by a network that saw none of
its article, and changes the held-out pictures in ways that each remove one thing: see `CHANGES`. Prints the
class-balanced accuracy over all folds for each change, as a Markdown table. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edge_agent.classifier import Classifier
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from trainer.preparing.crops import load_dataset
from trainer.scoring.figures import balanced_accuracy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Change = Callable[[NDArray[np.uint8], NDArray[np.bool_]], NDArray[np.uint8]]

BORDER_SHARE = 0.15


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("masks", type=Path)
    given = parser.parse_args()
    dataset = load_dataset(given.dataset)
    true: list[int] = []
    answers: dict[str, list[int]] = {name: [] for name in CHANGES}
    for fold in sorted(given.run.glob("fold-*")):
        classifier = Classifier(open_bundle(fold / "bundle"), threads=2)
        for entry in json.loads((fold / "scores.json").read_text())["scored"]:
            micrograph = read_micrograph(dataset.raw / entry["file"])
            pixels = np.asarray(micrograph.pixels)
            with Image.open(given.masks / f"{Path(entry['file']).stem}.png") as picture:
                mask = np.asarray(picture) > 0
            true.append(dataset.labels.index(entry["label"]))
            for name, change in CHANGES.items():
                seen = classifier.classify(replace(micrograph, pixels=change(pixels, mask)))
                answers[name].append(dataset.labels.index(seen.label))
        print(f"{fold.name}: {len(true)} pictures so far")
    print("\n| picture | class-balanced accuracy | answers unchanged |\n|---|---|---|")
    plain = np.array(answers["as it is"])
    for name, given_answers in answers.items():
        answer = np.array(given_answers)
        print(
            f"| {name} | {balanced_accuracy(np.array(true), answer):.3f} | {(answer == plain).mean():.3f} |"
        )


def inverted(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bright becomes dark: an answer that hangs on polarity changes."""
    return (255 - pixels).astype(np.uint8)


def only_particles(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The ground, with every bar and letter on it, becomes one grey; a rim around each particle is kept."""
    near = dilated(mask, max(2, min(mask.shape) // 64))
    return np.where(near, pixels, ground(pixels, mask)).astype(np.uint8)


def without_particles(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Particles become the ground's grey, generously: bars, letters and support stay."""
    near = dilated(mask, max(4, min(mask.shape) // 32))
    return np.where(near, ground(pixels, mask), pixels).astype(np.uint8)


def silhouettes(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Nothing but the outlines: dark discs, rods, polygons on grey."""
    return np.where(mask, 60, 190).astype(np.uint8)


def without_border(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The outer 15 % on each side, where bars and letters stand, become the ground's grey."""
    out = np.full_like(pixels, ground(pixels, mask))
    down, across = (int(length * BORDER_SHARE) for length in pixels.shape)
    out[down:-down, across:-across] = pixels[down:-down, across:-across]
    return out


def bars_and_letters_painted_over(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pure black and pure white off the particles (what burnt-in marks are made of) become the ground's grey."""
    mark = ((pixels >= 250) | (pixels <= 5)) & ~mask
    return np.where(dilated(mark, 2) & ~mask, ground(pixels, mask), pixels).astype(np.uint8)


def ground(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> np.uint8:
    """Median grey of what is no particle."""
    outside = pixels[~mask]
    return np.uint8(np.median(outside if outside.size else pixels))


def dilated(mask: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    """The mask grown by a square."""
    padded = np.pad(mask, radius_px)
    for axis in (0, 1):
        total = np.cumsum(padded, axis=axis)
        padded = (total - np.roll(total, 2 * radius_px + 1, axis=axis)) > 0
        padded = np.roll(padded, -radius_px, axis=axis)
    return padded[radius_px : radius_px + mask.shape[0], radius_px : radius_px + mask.shape[1]]


CHANGES: dict[str, Change] = {
    "as it is": lambda pixels, mask: pixels,
    "polarity inverted": inverted,
    "bars and letters painted over": bars_and_letters_painted_over,
    "outer 15 % painted over": without_border,
    "only the particles, ground one grey": only_particles,
    "silhouettes of the masks": silhouettes,
    "particles painted over": without_particles,
}

if __name__ == "__main__":
    main()
