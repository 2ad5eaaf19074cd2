"""What does the screening of `edge-trainer prepare` drop of real and simulated pictures, and what does it miss?

    python tests/benchmarks/screening_rates.py ../shared/data [--each 20] [--size 1024] [--only quality|copies]

First table: pictures of each set that are kept, dropped for each reason, and noted. The real pictures are
published micrographs that somebody chose to show, so every drop of one is doubtful and is named below the table.
The simulated ones are drawn by `edge_agent.simulation`; some are then blurred (standard deviation of the Gaussian
in parts of the field, with the noise of an exposure on top and without) or turned into their Fourier transform.

Second table: every third picture of `labelled/emps`, changed as people and drifting specimens change it, against
itself. How often the pair is found, and as what. Below it: pairs among all pictures of that set, and among all
simulated fields, that are found alike. About six minutes of one core. Asserts nothing.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edge_agent.grey_scale import ContrastLimits
from edge_agent.micrograph import UnusableFile, read_micrograph
from edge_agent.preprocessing import Preprocessing, describe_field, grey_field
from edge_agent.simulation import SHAPES, draw_field
from trainer.fitting.backbones import build_backbone
from trainer.preparing.burnt_in import find_burnt_in
from trainer.preparing.cutting import OVERVIEW_PX, CutFile
from trainer.preparing.near_duplicates import Limits, find, pooled_features
from trainer.preparing.picture_hash import like_pairs
from trainer.preparing.quality import measured, standard_field
from trainer.preparing.screening import ScreeningRule, screened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from trainer.fitting.backbones import Backbone

RULE = Preprocessing()
EVERY = 3
KINDS = ("kept", "blank field", "empty field", "support film only", "saturated", "blurred", "not_an_image")
NOTES = ("info bar", "scale bar")


@dataclass(frozen=True, slots=True)
class Example:
    """A picture of one row of the first table."""

    of: str
    name: str
    pixels: NDArray


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("data", type=Path, help="the folder with labelled/ and dm3/")
    options.add_argument("--each", type=int, default=20, help="simulated pictures of each kind")
    options.add_argument("--size", type=int, default=1024, help="side of a simulated picture, px")
    options.add_argument("--only", choices=("quality", "copies"))
    given = options.parse_args()
    if given.only != "copies":
        print_quality(chain(real(given.data), simulated(given.each, given.size)))
    if given.only != "quality":
        pictures = [grey(path) for path in pictures_below(given.data / "labelled/emps")]
        print_copies(pictures)
        for drawn in SHAPES:
            fields = (
                draw_field(drawn, np.random.default_rng([5, seed]), 512) for seed in range(4 * given.each)
            )
            print_alike(f"simulated fields ({drawn})", [overview(field.pixels) for field in fields])


def print_quality(examples: Iterable[Example]) -> None:
    """Judge every example by the default thresholds."""
    counts: dict[str, Counter[str]] = {}
    named: list[str] = []
    for example in examples:
        cut = judged(example)
        kind = cut.reason.partition(":")[0] or "kept"
        of = counts.setdefault(example.of, Counter())
        of.update((kind, *(note.partition(":")[0] for note in cut.note.split("; ") if note)))
        if kind != "kept" and not example.of.startswith("simulated"):
            named.append(f"  {example.of}: {example.name}: {cut.reason}")
    print(f"{'set':36}{'all':>5}" + "".join(f"{name:>{len(name) + 2}}" for name in (*KINDS, *NOTES)))
    for of, seen in counts.items():
        cells = "".join(f"{seen[name] or '-':>{len(name) + 2}}" for name in (*KINDS, *NOTES))
        print(f"{of:36}{sum(seen[kind] for kind in KINDS):>5}{cells}")
    print("\nreal pictures that are dropped:", *(named or ["none"]), sep="\n")


def judged(example: Example) -> CutFile:
    """What `prepare` would say of it."""
    burnt_in = find_burnt_in(example.pixels)
    above = example.pixels[: example.pixels.shape[0] - burnt_in.info_bar_rows]
    field = describe_field(above, RULE)
    measures = measured(above, field, standard_field(above, field), burnt_in)
    cut = CutFile(source=example.name, reason="blank field" if field.blank else "", measures=measures)
    return screened([cut], ScreeningRule())[0]


def pictures_below(folder: Path) -> list[Path]:
    """Sorted; masks are no pictures."""
    suffixes = (".png", ".jpg", ".tif", ".dm3", ".dm4")
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and "masks" not in path.parts
    ]


def real(data: Path) -> Iterator[Example]:
    """The published micrographs."""
    for folder in ("labelled/emps", "labelled/supported_catalysts", "labelled/nasa_ood", "dm3"):
        for path in pictures_below(data / folder):
            try:
                pixels = read_micrograph(path).pixels
            except UnusableFile:
                continue
            if min(pixels.shape) >= 64:
                kind = path.relative_to(data / folder).parts[0] if folder.endswith("emps") else ""
                yield Example(f"{folder.removeprefix('labelled/')} {kind}".strip(), path.name, pixels)


def simulated(each: int, size_px: int) -> Iterator[Example]:
    """Drawn fields, and what becomes of those of particles."""
    for drawn in (*SHAPES, "overfull", "empty", "saturated", "blank"):
        for seed in range(each):
            pixels = draw_field(drawn, np.random.default_rng([21, seed]), size_px).pixels
            yield Example(f"simulated {drawn}", str(seed), pixels)
            if drawn in SHAPES:
                yield from blurred(pixels, seed)
                yield Example("simulated Fourier transform", str(seed), fourier_transform(pixels))


def blurred(pixels: NDArray, seed: int) -> Iterator[Example]:
    """By three widths; shot and read-out noise on top of the blur, and without it."""
    random = np.random.default_rng(seed)
    for part in (0.004, 0.008, 0.016):
        smooth = low_passed(pixels, part * pixels.shape[0])
        yield Example(f"simulated blurred by {part:.1%}", str(seed), smooth)
        noise = random.normal(0, 1, smooth.shape) * np.sqrt(np.maximum(smooth * 8, 1))
        yield Example(f"simulated blurred by {part:.1%}, noisy", str(seed), smooth + noise)


def low_passed(pixels: NDArray, sigma_px: float) -> NDArray:
    """By a Gaussian."""
    frequency = np.fft.fftfreq(pixels.shape[0])[:, None] ** 2 + np.fft.rfftfreq(pixels.shape[1])[None] ** 2
    spectrum = np.fft.rfft2(pixels.astype(np.float64)) * np.exp(-2 * (np.pi * sigma_px) ** 2 * frequency)
    return np.fft.irfft2(spectrum, pixels.shape)


def fourier_transform(pixels: NDArray) -> NDArray[np.uint8]:
    """Logarithm of the power, centred, 8 bit: what viewers export."""
    power = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(pixels - pixels.mean()))))
    return np.clip((power - power.min()) / np.ptp(power) * 255, 0, 255).astype(np.uint8)


def grey(path: Path) -> NDArray[np.uint8]:
    """As 8-bit grey."""
    return np.asarray(Image.open(path).convert("L"))


def print_copies(pictures: Sequence[NDArray[np.uint8]]) -> None:
    """Find changed pictures, and what is alike among different ones."""
    pairs: dict[str, list[NDArray[np.uint8]]] = {}
    for seed, picture in enumerate(pictures[::EVERY]):
        for name, first, second in changed(picture, np.random.default_rng(seed)):
            pairs.setdefault(name, []).extend((overview(first), overview(second)))
    print(f"\n{'changed':34}{'like hashes':>13}{'same picture':>14}{'neighbour':>11}{'missed':>8}")
    for name, overviews in pairs.items():
        hashed = sum(own(*pair[:2]) for pair in like_pairs(overviews, Limits().hash_bits))
        alike = find(overviews, embed=network_features)
        seen = Counter(likeness.kind for likeness in alike if own(likeness.first, likeness.second))
        total = len(overviews) // 2
        rates = (hashed, seen["same"], seen["near"], total - seen["same"] - seen["near"])
        cells = zip(rates, (13, 14, 11, 8), strict=True)
        print(f"{name:34}" + "".join(f"{rate / total:>{width}.0%}" for rate, width in cells))
    print_alike("different pictures of labelled/emps", [overview(picture) for picture in pictures])


def own(first: int, second: int) -> bool:
    """Whether these are a picture and what became of it."""
    return first % 2 == 0 and second == first + 1


def print_alike(what: str, overviews: Sequence[NDArray[np.uint8]]) -> None:
    """Count what is found among pictures that are all different."""
    hashed = sum(1 for _ in like_pairs(overviews, Limits().hash_bits))
    found = Counter(likeness.kind for likeness in find(overviews, embed=network_features))
    pairs = len(overviews) * (len(overviews) - 1) // 2
    print(
        f"\n{pairs} pairs of {what}: like hashes {hashed}, neighbours {found['near']}, same picture {found['same']}"
    )


def overview(pixels: NDArray) -> NDArray[np.uint8]:
    """As `preparing.cutting` makes it."""
    above = pixels[: pixels.shape[0] - find_burnt_in(pixels).info_bar_rows]
    standard = standard_field(above, describe_field(above, RULE))
    shrink = min(1.0, OVERVIEW_PX / standard.size**0.5)
    shape = (round(standard.shape[0] * shrink), round(standard.shape[1] * shrink))
    return np.rint(grey_field(standard, ContrastLimits(0.0, 1.0), shape) * 255).astype(np.uint8)


def changed(
    picture: NDArray[np.uint8], random: np.random.Generator
) -> Iterator[tuple[str, NDArray, NDArray]]:
    """The same picture, saved again; then the same area, exposed again."""
    yield "JPEG, quality 30", picture, jpeg(picture, 30)
    yield "half the pixels", picture, resized(picture, 0.5)
    yield "gamma 0.6", picture, np.rint(255 * (picture / 255) ** 0.6).astype(np.uint8)
    yield "contrast x 1.6, clipped", picture, np.clip((picture - 128.0) * 1.6 + 128, 0, 255).astype(np.uint8)
    yield "scale bar and info bar burnt in", picture, with_bars(picture)
    yield "cropped by 3 %", picture, cropped(picture, 0.03, random)
    yield "cropped by 6 %", picture, cropped(picture, 0.06, random)
    yield "cropped by 6 %, 0.6 x, JPEG 50", picture, jpeg(resized(cropped(picture, 0.06, random), 0.6), 50)
    yield "mirrored", picture, picture[:, ::-1]
    yield "turned by 90 degrees", picture, np.rot90(picture)
    yield "exposed again", noisy(picture, random), noisy(picture, random)
    for part in (0.02, 0.05, 0.1, 0.15):
        first, second = drifted(picture, part, random.uniform(0, 2 * np.pi))
        yield f"drift of {part:.0%}", noisy(first, random), noisy(second, random)
    for degrees, shrunk in ((2, 1.0), (5, 1.0), (0.5, 0.966), (2, 0.906)):
        tilt = f", tilted by {np.degrees(np.arccos(shrunk)):.0f}" if shrunk < 1 else ""
        yield (
            f"turned by {degrees} degrees{tilt}",
            noisy(middle(picture), random),
            noisy(middle(tilted(picture, degrees, shrunk)), random),
        )


def jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Saved and read again."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(picture: NDArray[np.uint8], times: float) -> NDArray[np.uint8]:
    """Bicubic."""
    shape = (round(picture.shape[1] * times), round(picture.shape[0] * times))
    return np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BICUBIC))


def with_bars(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A white scale bar in the picture and a black band of 7 % below it."""
    height, width = picture.shape
    drawn = picture.copy()
    drawn[int(0.9 * height) : int(0.92 * height), int(0.7 * width) : int(0.92 * width)] = 255
    return np.concatenate([drawn, np.zeros((int(0.07 * height), width), np.uint8)])


def cropped(picture: NDArray[np.uint8], part: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Each side shorter by this part, at any place."""
    rows, columns = (round(length * (1 - part)) for length in picture.shape)
    top, left = (
        random.integers(0, spare + 1) for spare in (picture.shape[0] - rows, picture.shape[1] - columns)
    )
    return picture[top : top + rows, left : left + columns]


def noisy(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Another exposure: noise of six grey levels."""
    return np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def drifted(picture: NDArray[np.uint8], part: float, direction: float) -> tuple[NDArray, NDArray]:
    """Two views of 85 % of the picture's sides, this part of a view apart."""
    rows, columns = (round(0.85 * length) for length in picture.shape)
    top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - columns) // 2
    down, across = round(part * rows * np.sin(direction) / 2), round(part * columns * np.cos(direction) / 2)
    views = [
        picture[
            top + sign * down : top + sign * down + rows,
            left + sign * across : left + sign * across + columns,
        ]
        for sign in (-1, 1)
    ]
    return views[0], views[1]


def middle(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Eight tenths of each side."""
    rows, columns = (length // 10 for length in picture.shape)
    return picture[rows:-rows, columns:-columns]


def tilted(picture: NDArray[np.uint8], degrees: float, shrunk: float) -> NDArray[np.uint8]:
    """Turned, and foreshortened along the rows' direction."""
    turned = Image.fromarray(picture).rotate(degrees, Image.Resampling.BICUBIC)
    return np.asarray(turned.resize((turned.width, round(turned.height * shrunk)), Image.Resampling.BICUBIC))


def network_features(pictures: Sequence[NDArray[np.uint8]]) -> NDArray:
    """What `preparing.near_duplicates` asks by default, the network built once for all pairs."""
    return pooled_features(network(), pictures)


@cache
def network() -> Backbone:
    """As it comes."""
    return build_backbone("efficientnet-lite0")


if __name__ == "__main__":
    main()
