"""What augmentation does to a crop, as a picture: the windows that training draws, and each setting on its own.

The windows are drawn by the trainer's own `Augmenter` from what the network is shown, with the crop's own seed: a
run of the same seed trains on exactly these. Each setting alone is shown at its strongest of a few draws; where
it goes both ways, the left half of the panel shows one end and the right half the other.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from trainer.fitting.augmentation import Augmentation, Augmenter
from trainer.fitting.features import crop_seed, shown
from trainer.preparing.split import PrepareError, listed
from trainer.showing.micrograph_panels import (
    FAINT,
    blank_page,
    draw_scale_below,
    figure_style,
    place_panel,
    save_png,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from trainer.preparing.crops import Crop, DataSet

DPI: Final = 160
_PANEL_MM: Final = 30.0
_GAP_MM: Final = 2.0
_MARGIN_MM: Final = 7.0
_LINE_MM: Final = 4.0
_BETWEEN_MM: Final = 8.0
_HEAD_MM: Final = 21.0
_DRAWS: Final = 12
_EFFECTS: Final = 10
_STILL: Final[dict[str, Any]] = {
    "rotation_degrees": 0.0, "flips": False, "zoom": (1.0, 1.0), "shift": 0.0, "brightness": 0.0,
    "contrast": 0.0, "gamma": 0.0, "noise": 0.0, "polarity": 0.0,
}  # fmt: skip


class Effect(NamedTuple):
    """One setting on its own: what it is called, and what it made of the plain window (None: it is off)."""

    name: str
    window: NDArray[np.float32] | None


def preview(
    dataset: DataSet,
    rule: Augmentation,
    out: Path,
    *,
    crops: Sequence[str] = (),
    count: int = 1,
    views: int = 10,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Path:
    """Draw the picture (PNG) for the crops named by id or file, or for `count` random ones of each class.

    Raises PrepareError where a name is no kept crop of the data set, OSError where `out` cannot be written.
    """
    if not 1 <= views <= 40:
        raise PrepareError(f"{views} views were asked for; between 1 and 40 fit on a picture")
    chosen = _named(dataset, crops) if crops else _random(dataset, count, seed)
    columns = 1 + max(views, _EFFECTS)
    with figure_style():
        height = _HEAD_MM + len(chosen) * _row_mm() + _MARGIN_MM
        page = blank_page(2 * _MARGIN_MM + columns * (_PANEL_MM + _GAP_MM) - _GAP_MM, height)
        write(page, (_MARGIN_MM, _MARGIN_MM - 2), "What augmentation does to training crops", size=11)
        for line, words in enumerate(settings_text(rule).splitlines()):
            write(page, (_MARGIN_MM, _MARGIN_MM + 4 + 4 * line), words, size=7.5, colour=FAINT)
        for index, crop in enumerate(chosen):
            _draw_crop(page, _HEAD_MM + index * _row_mm(), dataset, crop, rule, views, seed)
            progress("crops drawn", index + 1, len(chosen))
        out.parent.mkdir(parents=True, exist_ok=True)
        save_png(page, out, DPI, f"Augmentation of {dataset.root.name}")
    return out


def settings_text(rule: Augmentation) -> str:
    """The settings in two lines: what moves the window, then the grey values, in the order of their doing."""
    return ",\n".join(
        (
            f"window of {rule.window_px} px (outlined at zoom 1), rotated by up to {rule.rotation_degrees:g}°, "
            f"{'mirrored half of the time' if rule.flips else 'never mirrored'}, zoom {rule.zoom[0]:g} to "
            f"{rule.zoom[1]:g}, shifted by up to {rule.shift:.0%} of the free way",
            f"gamma {np.exp(-rule.gamma):.2f} to {np.exp(rule.gamma):.2f}, contrast ±{rule.contrast:.0%}, "
            f"brightness ±{rule.brightness:.0%} of the grey scale, noise of up to {rule.noise:.0%}, inverted with "
            f"probability {rule.polarity:g}. Below, each setting alone at its strongest of {_DRAWS} draws; "
            "halves show both ends.",
        )
    )


def _named(dataset: DataSet, names: Sequence[str]) -> list[Crop]:
    kept = dataset.kept
    found = [[crop for crop in kept if name in (crop.crop_id, crop.source)] for name in names]
    missing = [name for name, crops in zip(names, found, strict=True) if not crops]
    if missing:
        raise PrepareError(
            f"{dataset.root}: has no kept crop {listed(missing)}; name files as dataset.csv does, relative to the "
            "raw folder, or crop ids"
        )
    return [crop for crops in found for crop in crops]


def _random(dataset: DataSet, count: int, seed: int) -> list[Crop]:
    draw = np.random.default_rng(seed)
    by_label: defaultdict[str, list[Crop]] = defaultdict(list)
    for crop in dataset.train or dataset.kept:
        by_label[crop.label].append(crop)
    return [
        members[index]
        for _, members in sorted(by_label.items())
        for index in sorted(draw.permutation(len(members))[:count])
    ]


def _row_mm() -> float:
    return 2 * _PANEL_MM + 3 * _LINE_MM + _BETWEEN_MM


def _draw_crop(
    page: Figure, top: float, dataset: DataSet, crop: Crop, rule: Augmentation, views: int, seed: int
) -> None:
    """Two rows of panels: the crop and its windows; the plain window and each setting on its own."""
    grey = shown(dataset, crop)
    size = (
        "" if crop.pixel_size_nm is None else f", {crop.pixel_size_nm[1]:.4g} nm per pixel of the micrograph"
    )
    write(page, (_MARGIN_MM, top), crop.label, size=9, bold=True, room_mm=_PANEL_MM)
    write(page, (_MARGIN_MM + 32, top + 0.6), f"{crop.source}{size}", size=7.5, colour=FAINT)
    first, second = top + 2 * _LINE_MM, top + 2 * _LINE_MM + _PANEL_MM + _BETWEEN_MM
    _draw_whole(page, (_MARGIN_MM, first), grey, crop, rule)
    augmenter = Augmenter(rule, seed=crop_seed(seed, crop))
    for number in range(1, views + 1):
        _draw_window(page, (_column(number), first), f"drawn {number}", augmenter.window(grey))
    _draw_window(page, (_MARGIN_MM, second), "window alone", _plain(rule, grey))
    for number, effect in enumerate(_effects(grey, rule, seed), start=1):
        _draw_window(page, (_column(number), second), effect.name, effect.window)


def _column(number: int) -> float:
    return _MARGIN_MM + number * (_PANEL_MM + _GAP_MM)


def _draw_whole(
    page: Figure, at_mm: tuple[float, float], grey: NDArray[np.float32], crop: Crop, rule: Augmentation
) -> None:
    from matplotlib.patches import Rectangle

    write(page, (at_mm[0], at_mm[1] - 0.6), "as the agent shows it", size=6.5, va="bottom")
    axes = place_panel(page, at_mm, (_PANEL_MM, _PANEL_MM), grey)
    rows, columns = grey.shape
    side = rule.window_px
    corner = (columns - side) / 2 - 0.5, (rows - side) / 2 - 0.5
    for colour, width in (("black", 1.8), ("white", 0.9)):
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width, clip_on=False)
        )
    if crop.pixel_size_nm is not None:
        across_nm = crop.pixel_size_nm[1] * (crop.box_px[2] - crop.box_px[0])
        mm_per_px = _PANEL_MM / max(rows, columns)
        below = at_mm[1] + rows * mm_per_px + 0.8
        draw_scale_below(page, (at_mm[0], below), columns * mm_per_px, across_nm)


def _draw_window(
    page: Figure, at_mm: tuple[float, float], name: str, window: NDArray[np.float32] | None
) -> Axes:
    write(page, (at_mm[0], at_mm[1] - 0.6), name, size=6.5, va="bottom")
    axes = place_panel(page, at_mm, (_PANEL_MM, _PANEL_MM), window)
    if window is None:
        axes.text(0.5, 0.5, "off", transform=axes.transAxes, ha="center", color=FAINT)
    return axes


def _only(rule: Augmentation, **changed: object) -> Augmentation:
    """The rule with everything off but what is given."""
    return Augmentation.model_validate({**rule.model_dump(), **_STILL, **changed})


def _plain(rule: Augmentation, grey: NDArray[np.float32]) -> NDArray[np.float32]:
    return Augmenter(_only(rule), seed=0).window(grey)


def _effects(grey: NDArray[np.float32], rule: Augmentation, seed: int) -> list[Effect]:
    plain = _plain(rule, grey)

    def strongest(**only: object) -> NDArray[np.float32] | None:
        return _strongest(grey, plain, _only(rule, **only), seed)

    def halves(measure: Callable[[NDArray[np.float32]], float], **only: object) -> NDArray[np.float32] | None:
        return _halves(grey, _only(rule, **only), seed, measure) if any(only.values()) else None

    smallest, largest = rule.zoom
    darker, brighter = np.exp(-rule.gamma), np.exp(rule.gamma)
    return [
        Effect(
            f"rotation up to {rule.rotation_degrees:g}°", strongest(rotation_degrees=rule.rotation_degrees)
        ),
        Effect("mirrored", strongest(flips=rule.flips)),
        Effect(f"shift {rule.shift:.0%}", strongest(shift=rule.shift)),
        Effect(f"zoom {smallest:g}", strongest(zoom=(smallest, smallest))),
        Effect(f"zoom {largest:g}", strongest(zoom=(largest, largest))),
        Effect(
            f"gamma {darker:.2f} to {brighter:.2f}", halves(lambda one: -float(one.mean()), gamma=rule.gamma)
        ),
        Effect(
            f"contrast ±{rule.contrast:.0%}", halves(lambda one: float(one.std()), contrast=rule.contrast)
        ),
        Effect(
            f"brightness ±{rule.brightness:.0%}",
            halves(lambda one: float(one.mean()), brightness=rule.brightness),
        ),
        Effect(f"noise up to {rule.noise:.0%}", strongest(noise=rule.noise)),
        Effect("inverted", strongest(polarity=float(rule.polarity > 0))),
    ]


def _strongest(
    grey: NDArray[np.float32], plain: NDArray[np.float32], rule: Augmentation, seed: int
) -> NDArray[np.float32] | None:
    """The draw that differs most from the plain window, None where none does."""
    augmenter = Augmenter(rule, seed)
    draws = [augmenter.window(grey) for _ in range(_DRAWS)]
    best = max(draws, key=lambda one: float(np.abs(one - plain).mean()))
    return None if np.array_equal(best, plain) else best


def _halves(
    grey: NDArray[np.float32], rule: Augmentation, seed: int, measure: Callable[[NDArray[np.float32]], float]
) -> NDArray[np.float32]:
    """The lowest draw beside the highest one, with a line between them."""
    augmenter = Augmenter(rule, seed)
    draws = [augmenter.window(grey) for _ in range(_DRAWS)]
    low, high = min(draws, key=measure), max(draws, key=measure)
    middle = low.shape[1] // 2
    joined = np.concatenate([low[:, :middle], high[:, middle:]], axis=1)
    joined[:, middle - 1 : middle + 1] = 1.0
    return joined
