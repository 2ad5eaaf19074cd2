"""Pictures that show the same area of a specimen: saved twice, or taken one after the other.

Only this module knows how two pictures are recognised as nearly the same. Three looks, each at far fewer pairs than
the one before: perceptual hashes (`preparing.picture_hash`, all pairs), registration (pairs of like hashes), and
the features of a network that never saw a micrograph (pairs that lie on each other). A picture that lies wholly
within another and is alike in every detail is the same picture, saved again; two that share a part, or are alike
only roughly, are neighbouring views: drift, a tilt series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from PIL import Image

from trainer.preparing.picture_hash import Hypothesis, Turn, like_pairs, turned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from trainer.fitting.backbones import Backbone

    Embed = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.floating[Any]]]
    Progress = Callable[[str, int, int], None]

_SIDE_PX: Final = 80
"""Side of the square whose area a picture has when it is laid on another."""
_BACKGROUND: Final = 1 / 12
"""Scale, over the side, above which differences of grey are illumination and thickness, not details."""
_SHARED: Final = 0.6
"""Two pictures are laid on each other only so that they share this part of each side."""
_PEAKS: Final = 2
_EMBED_PX: Final = 160
_EMBED_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on two pictures are alike; `tests/benchmarks/screening_rates.py` measures what they do."""

    hash_bits: int = 10
    """Of the 63 bits of two hashes so many may differ."""
    near_correlation: float = 0.6
    near_cosine: float = 0.8
    alike_correlation: float = 0.85
    alike_cosine: float = 0.6
    """What is asked of the embeddings from `alike_correlation` on: contrast that was stretched changes them more
    than it changes the correlation."""
    same_correlation: float = 0.97
    same_inside: float = 0.96


@dataclass(frozen=True, slots=True)
class Likeness:
    """Two pictures, by their places in the question (first < second), that show the same area."""

    first: int
    second: int
    kind: Literal["same", "near"]
    correlation: float
    """Of the details where the pictures lie on each other."""
    inside: float
    """Part of the smaller picture that lies within the other."""
    cosine: float
    """Between the embeddings."""


@dataclass(frozen=True, slots=True)
class _Overlay:
    correlation: float = -1.0
    inside: float = 0.0
    turn: Turn = (False, False, False)


def find(
    pictures: Sequence[NDArray[np.uint8]],
    *,
    embed: Embed | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    since: int = 0,
) -> tuple[Likeness, ...]:
    """Find the pairs of like pictures (2-D, uint8, any proportions, whole fields of about one area in pixels).

    Pairs among the first `since` pictures are not looked at: they were compared before. `embed` gives a row of
    features for each picture; it is called only where pictures lie on each other, by default it is the pooled last
    feature map of EfficientNet-Lite0. `progress("comparing pictures", done, total)`.
    """
    limits = limits or Limits()

    def compared(done: int, total: int) -> None:
        if progress:
            progress("comparing pictures", done, total)

    laid: dict[tuple[int, int], _Overlay] = {}
    if len(pictures) > 1:
        for first, second, hypotheses in like_pairs(pictures, limits.hash_bits, compared):
            if second < since:
                continue
            overlay = _laid_on(pictures[first], pictures[second], hypotheses)
            if overlay.correlation >= limits.near_correlation:
                laid[first, second] = overlay
    if not laid:
        return ()
    cosines = _cosines(pictures, laid, embed or lite0_features)
    judged = (_judged(pair, overlay, cosines[pair], limits) for pair, overlay in sorted(laid.items()))
    return tuple(likeness for likeness in judged if likeness)


def _judged(pair: tuple[int, int], overlay: _Overlay, cosine: float, limits: Limits) -> Likeness | None:
    alike = overlay.correlation >= limits.alike_correlation
    if cosine < (limits.alike_cosine if alike else limits.near_cosine):
        return None
    same = overlay.correlation >= limits.same_correlation and overlay.inside >= limits.same_inside
    return Likeness(*pair, "same" if same else "near", overlay.correlation, overlay.inside, cosine)


def _laid_on(
    first: NDArray[np.uint8], second: NDArray[np.uint8], hypotheses: Sequence[Hypothesis]
) -> _Overlay:
    """The best overlay of the first picture on the second, over how this may be turned and scaled."""
    details = _details(first)
    best = _Overlay()
    for turn, scale in hypotheses:
        for correlation, inside in _registered(details, _details(turned(second, turn)), scale):
            if correlation > best.correlation:
                best = _Overlay(correlation, inside, turn)
    return best


def _details(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture at the size of comparison, without its background."""
    shrink = _SIDE_PX / math.sqrt(picture.size)
    rows, columns = (max(8, round(length * shrink)) for length in picture.shape)
    small = _resized(picture.astype(np.float32), rows, columns)
    # A Gaussian of this width is wide against its own steps: two running means do as well.
    reach = max(1, round(_BACKGROUND * _SIDE_PX * math.sqrt(6) / 2))
    return small - _running_mean(_running_mean(small, reach).T, reach).T


def _running_mean(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Twice the mean of 2 reach + 1 rows, mirrored at the ends."""
    reach = min(reach, len(values) // 2 - 1)
    for _ in range(2):
        sums = np.cumsum(
            np.pad(values, ((reach + 1, reach), (0, 0)), mode="symmetric"), axis=0, dtype=np.float64
        )
        values = ((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)).astype(np.float32)
    return values


def _resized(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    return np.asarray(Image.fromarray(values).resize((columns, rows), Image.Resampling.BILINEAR))


def _registered(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], scale: float
) -> list[tuple[float, float]]:
    """(correlation, part inside) at the shifts where the phase correlation of two pictures is highest."""
    if scale < 1:
        ours = _resized(ours, round(ours.shape[0] * scale), round(ours.shape[1] * scale))
    elif scale > 1:
        theirs = _resized(theirs, round(theirs.shape[0] / scale), round(theirs.shape[1] / scale))
    shape = tuple(
        math.ceil(max(pair) * 1.25 / 16) * 16 for pair in zip(ours.shape, theirs.shape, strict=True)
    )
    peaks = _phase_correlation(ours, theirs, (shape[0], shape[1]))
    found = []
    for _ in range(_PEAKS):
        row, column = (int(at) for at in np.unravel_index(np.argmax(peaks), peaks.shape))
        peaks[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = -np.inf
        shift = (row - shape[0] * (row > shape[0] // 2), column - shape[1] * (column > shape[1] // 2))
        found.append(_correlation(ours, theirs, shift))
    return found


def _phase_correlation(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Cross-correlation with a flattened spectrum (Kuglin and Hines 1975), highest where the pictures agree."""
    spectra = [
        np.fft.rfft2(values * np.outer(*map(np.hanning, values.shape)).astype(np.float32), shape)
        for values in (ours, theirs)
    ]
    product = np.conj(spectra[0]) * spectra[1]
    # Not wholly flattened: where the pictures hold nothing but noise, its frequencies must not outvote the rest.
    product /= np.maximum(np.abs(product), 1e-9) ** 0.7
    frequency = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.rfftfreq(shape[1])[None] ** 2
    product *= np.exp(-2 * (0.8 * np.pi) ** 2 * frequency)
    return np.asarray(np.fft.irfft2(product, shape), dtype=np.float32)


def _correlation(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], shift: tuple[int, int]
) -> tuple[float, float]:
    """Pearson's correlation where they overlap, with `ours` at `shift`; the part of the smaller one that does."""
    (top, bottom), (left, right) = (
        (max(0, by), min(length, by + own))
        for by, length, own in zip(shift, theirs.shape, ours.shape, strict=True)
    )
    shared = (bottom - top) * (right - left)
    enough = [_SHARED * min(pair) for pair in zip(ours.shape, theirs.shape, strict=True)]
    if bottom - top < enough[0] or right - left < enough[1]:
        return -1.0, 0.0
    one = ours[top - shift[0] : bottom - shift[0], left - shift[1] : right - shift[1]].astype(np.float64)
    other = theirs[top:bottom, left:right].astype(np.float64)
    one, other = one - one.mean(), other - other.mean()
    power = math.sqrt(float((one * one).sum() * (other * other).sum()))
    return (float((one * other).sum()) / power if power else -1.0), shared / min(ours.size, theirs.size)


def _cosines(
    pictures: Sequence[NDArray[np.uint8]], laid: dict[tuple[int, int], _Overlay], embed: Embed
) -> dict[tuple[int, int], float]:
    """Of the embeddings of each pair, the second picture turned as it lies on the first."""
    wanted = dict.fromkeys(
        key
        for (first, second), overlay in laid.items()
        for key in ((first, _Overlay().turn), (second, overlay.turn))
    )
    features = np.asarray(embed([turned(pictures[index], turn) for index, turn in wanted]), dtype=np.float64)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    row = dict(zip(wanted, features, strict=True))
    return {
        (first, second): float(row[first, _Overlay().turn] @ row[second, overlay.turn])
        for (first, second), overlay in laid.items()
    }


def lite0_features(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Pooled last feature map of EfficientNet-Lite0 with its ImageNet weights: a row for each picture."""
    from trainer.fitting.backbones import build_backbone  # TensorFlow takes seconds to start

    return pooled_features(build_backbone("efficientnet-lite0"), pictures)


def pooled_features(backbone: Backbone, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Mean over the last feature map, the pictures brought to one square size: a row for each picture."""
    low, high = backbone.value_range
    found = []
    for start in range(0, len(pictures), _EMBED_AT_ONCE):
        some = pictures[start : start + _EMBED_AT_ONCE]
        grey = (
            np.stack([_resized(picture.astype(np.float32), _EMBED_PX, _EMBED_PX) for picture in some]) / 255
        )
        values = (grey * (high - low) + low)[..., None].astype(np.float32)
        features = backbone.top(backbone.trunk(values, training=False), training=False)
        found.append(np.asarray(features).mean(axis=(1, 2)))
    return np.concatenate(found)
