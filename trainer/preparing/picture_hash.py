"""Perceptual hashes of a picture and of windows in it, and which pairs of many pictures have like ones.

Only this module knows the hash: the signs, about their median, of the 63 lowest frequencies of the cosine transform
(Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010; as the package imagehash computes
it). A window's transform is linear in the picture's pixels, so the 35 hashes of a picture are two small matrix
products, 1 ms, where a library's hash of each window took 1 ms a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

Turn = tuple[bool, bool, bool]
"""One of the eight symmetries of a square: transposed, then rows reversed, then columns reversed."""
Hypothesis = tuple[Turn, float]
"""How the second picture is turned, and how large the first then is in it: 0.94 is a crop of it."""

AS_IT_IS: Final[Turn] = (False, False, False)
_TURNS: Final = tuple((bool(at & 4), bool(at & 2), bool(at & 1)) for at in range(8))
_FREQUENCIES: Final = 8
_PAIRS_AT_ONCE: Final = 1 << 21


@dataclass(frozen=True, slots=True)
class _Windows:
    """Square windows: side over the side of the field, and the offsets of their first row or column."""

    side: float
    offsets: tuple[float, ...]


_WHOLE: Final = _Windows(1.0, (0.0,))
_CROPPED: Final = _Windows(0.94, (0.0, 0.03, 0.06))
_SHIFTED: Final = _Windows(0.8, (0.0, 0.05, 0.1, 0.15, 0.2))
_MIDDLE: Final = 12  # of the 25 windows of a shifted view
_CROP_SCALES: Final = (0.97, 0.94)


@dataclass(frozen=True, slots=True)
class _Hashes:
    """uint64 [pictures, kinds]: the whole in eight turns, 9 windows of a crop, 25 of a shifted view."""

    whole: NDArray[np.uint64]
    cropped: NDArray[np.uint64]
    shifted: NDArray[np.uint64]


def like_pairs(
    pictures: Sequence[NDArray[np.uint8]],
    most_bits: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, int, tuple[Hypothesis, ...]]]:
    """Yield pairs (first < second) of which two hashes differ in `most_bits` or fewer, and how they may lie.

    `progress(done, total)` counts the first pictures of pairs. 20,000 pictures: 90 s of one core.
    """
    known = _hashes(pictures)
    rows = max(1, _PAIRS_AT_ONCE // len(pictures))
    for start in range(0, len(pictures), rows):
        hypotheses: dict[tuple[int, int], dict[Hypothesis, None]] = {}
        for first, second, hypothesis in _like_in_block(known, slice(start, start + rows), most_bits):
            hypotheses.setdefault((first, second), {})[hypothesis] = None
        for (first, second), found in sorted(hypotheses.items()):
            yield first, second, tuple(found)
        if progress:
            progress(min(start + rows, len(pictures)), len(pictures))


def turned(picture: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    """Return the picture turned or mirrored."""
    transposed, down, across = turn
    picture = picture.T if transposed else picture
    return picture[:: -1 if down else 1, :: -1 if across else 1]


def _like_in_block(known: _Hashes, block: slice, most_bits: int) -> Iterator[tuple[int, int, Hypothesis]]:
    """Compare the pictures of a block with all that come after each."""

    def like(ours: NDArray[np.uint64], theirs: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        rest = theirs[block.start :]
        near = np.bitwise_count(ours[block, None] ^ rest[None]) <= most_bits
        for first, second in zip(*np.nonzero(np.triu(near, 1)), strict=True):
            yield block.start + int(first), block.start + int(second)

    whole = np.ascontiguousarray(known.whole[:, 0])
    for at, turn in enumerate(_TURNS):
        yield from ((*pair, (turn, 1.0)) for pair in like(whole, known.whole[:, at]))
    for window in known.cropped.T:
        yield from ((*pair, (AS_IT_IS, scale)) for pair in like(whole, window) for scale in _CROP_SCALES)
        yield from ((*pair, (AS_IT_IS, 1 / scale)) for pair in like(window, whole) for scale in _CROP_SCALES)
    middle = np.ascontiguousarray(known.shifted[:, _MIDDLE])
    for window in known.shifted.T:
        yield from ((*pair, (AS_IT_IS, 1.0)) for pair in like(middle, window))


def _hashes(pictures: Sequence[NDArray[np.uint8]]) -> _Hashes:
    whole, cropped, shifted = zip(
        *(
            (
                _hashed(_turned_spectra(picture)),
                _hashed(_spectra(picture, _CROPPED)),
                _hashed(_spectra(picture, _SHIFTED)),
            )
            for picture in pictures
        ),
        strict=True,
    )
    return _Hashes(np.stack(whole), np.stack(cropped), np.stack(shifted))


def _spectra(picture: NDArray[np.uint8], windows: _Windows) -> NDArray[np.float32]:
    """Lowest frequencies of the cosine transform of every window: [windows, rows, columns]."""
    rows, columns = picture.shape
    found = _waves(rows, windows) @ picture.astype(np.float32) @ _waves(columns, windows).T
    count = len(windows.offsets)
    return found.reshape(count, _FREQUENCIES, count, _FREQUENCIES).transpose(0, 2, 1, 3).reshape(-1, 8, 8)


@cache
def _waves(length: int, windows: _Windows) -> NDArray[np.float32]:
    """[offsets x frequencies, length]: cosines over each window, 0 outside, in part where a pixel is cut."""
    edges, side = np.arange(length + 1), windows.side * length
    found = []
    for offset in windows.offsets:
        first = offset * length
        share = np.clip(np.minimum(edges[1:], first + side) - np.maximum(edges[:-1], first), 0, 1)
        place = np.clip((edges[:-1] + 0.5 - first) / side, 0, 1)
        found.append(np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * place) * share)
    return np.concatenate(found).astype(np.float32)


def _turned_spectra(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """To mirror a picture is to change the sign of its odd frequencies."""
    (spectrum,) = _spectra(picture, _WHOLE)
    mirror = np.where(np.arange(_FREQUENCIES) % 2, -1, 1).astype(np.float32)
    found = []
    for transposed, down, across in _TURNS:
        turned_spectrum = spectrum.T if transposed else spectrum
        turned_spectrum = turned_spectrum * mirror[:, None] if down else turned_spectrum
        found.append(turned_spectrum * mirror if across else turned_spectrum)
    return np.stack(found)


def _hashed(spectra: NDArray[np.float32]) -> NDArray[np.uint64]:
    values = spectra.reshape(len(spectra), -1)
    above = values > np.median(values[:, 1:], axis=1, keepdims=True)
    above[:, 0] = True  # the mean grey says nothing
    return np.packbits(above, axis=1).view(np.uint64)[:, 0]
