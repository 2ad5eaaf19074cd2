"""The charts of a report: each a function of named values that gives SVG in the one style (`showing.chart_style`).

Only this module knows which marks say what: right answers are blue dots, wrong ones orange crosses or hatched, an
interval is a line through its dot, and the numbers stand beside it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.showing.chart_style import (
    CLASS_COLOURS,
    CLASS_MARKERS,
    FAINT,
    INK,
    NARROW_INCHES,
    RIGHT,
    RULE,
    WIDE_INCHES,
    WRONG,
    drawn,
    percent,
    short,
    wrapped,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trainer.fitting.run_folder import Epoch
    from trainer.scoring.calibration import Calibration
    from trainer.scoring.figures import Figures, Scored, Slice

MOST_SLICES: Final = 24
SHOWN_OF_MANY: Final = 14


def confusion_chart(figures: Figures, labels: Sequence[str], name: str = "confusion") -> str:
    """Rows are what a person said, columns what the network answered; colour is the share of the row."""
    counts = np.array(figures.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = len(labels)
    side = min(WIDE_INCHES, 1.9 + 0.72 * size)
    letters = 9 if size <= 6 else 7.5 if size <= 10 else 6
    with drawn(side, side - 0.55, name, "Confusion matrix") as (_, axes, taken):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                text = f"{counts[row, column]}\n{percent(shares[row, column])}"
                colour = "white" if shares[row, column] > 0.55 else INK
                weight = "bold" if row == column else "normal"
                axes.text(
                    column, row, text, ha="center", va="center", color=colour, size=letters, weight=weight
                )
        if size > 5:
            names = [short(label, 20) for label in labels]
            axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(range(size), [wrapped(label) for label in labels])
        axes.set_yticks(range(size), [wrapped(label, 16) for label in labels])
        axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
        axes.grid(which="minor", color=RULE)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("answer of the network")
        axes.set_ylabel("label given by a person")
    return taken[0]


def accuracy_chart(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], name: str, words: str
) -> str:
    """Dots with 95 % intervals, a line for each (name, value, interval)."""
    height = 0.75 + 0.3 * len(rows)
    with drawn(WIDE_INCHES, height, name, words) as (_, axes, taken):
        for at, (_, value, interval) in enumerate(rows):
            if interval is not None:
                axes.plot(interval, (at, at), color=RIGHT, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
            axes.plot(value, at, "o", color=RIGHT, markersize=6, clip_on=False, zorder=3)
            axes.annotate(
                _value_text(value, interval),
                (1.02, at),
                xycoords=("axes fraction", "data"),
                va="center",
                size=8.5,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(rows)), [short(row[0], 40) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        _share_axis(axes, "x")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
    return taken[0]


def _value_text(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({interval[0]:.2f}–{interval[1]:.2f})"


def _share_axis(axes: Any, which: str) -> None:  # noqa: ANN401
    getattr(axes, f"set_{which}lim")(0, 1)
    ticks = np.linspace(0, 1, 6)
    getattr(axes, f"set_{which}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])


def reliability_chart(calibration: Calibration) -> str:
    """Promised against kept, with the numbers of answers below."""
    bins = calibration.bins
    words = "Reliability diagram: share of right answers against probability"
    ratios = {"height_ratios": (4, 1)}
    with drawn(NARROW_INCHES, 4.6, "reliability", words, nrows=2, sharex=True, gridspec_kw=ratios) as (
        _,
        both,
        taken,
    ):
        upper, lower = both
        upper.plot((0, 1), (0, 1), color=FAINT, linestyle=(0, (4, 3)), linewidth=1)
        upper.text(
            0.06,
            0.085,
            "as promised",
            color=FAINT,
            size=8,
            rotation=45,
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
        for one in bins:
            upper.plot((one.confidence, one.confidence), one.interval, color=RIGHT, alpha=0.55, linewidth=2.2)
        upper.plot(
            [one.confidence for one in bins], [one.accuracy for one in bins], "o-", color=RIGHT, linewidth=1
        )
        _share_axis(upper, "x")
        _share_axis(upper, "y")
        upper.set_ylabel("right answers")
        upper.grid()
        lower.bar(
            [one.confidence for one in bins], [one.micrographs for one in bins], width=0.02, color=FAINT
        )
        lower.set_ylabel("answers")
        lower.set_ylim(0, 1.3 * max(one.micrographs for one in bins))
        lower.set_xlabel("probability of the answer")
    return taken[0]


def slices_chart(slices: Sequence[Slice], name: str, words: str) -> str:
    """Accuracy of each slice with its interval and numbers; of many slices the telling ones."""
    chosen = list(slices)
    if len(chosen) > MOST_SLICES:
        telling = sorted(chosen, key=lambda one: (one.right - one.micrographs, -one.micrographs, one.name))
        chosen = telling[:SHOWN_OF_MANY]
    with drawn(WIDE_INCHES, 0.75 + 0.27 * len(chosen), name, words) as (_, axes, taken):
        for at, one in enumerate(chosen):
            axes.plot(one.interval, (at, at), color=RIGHT, linewidth=2.2, solid_capstyle="butt", alpha=0.55)
            axes.plot(one.accuracy, at, "o", color=RIGHT, markersize=5.5, clip_on=False, zorder=3)
            axes.annotate(
                f"{one.right} of {one.micrographs}",
                (1.02, at),
                xycoords=("axes fraction", "data"),
                va="center",
                size=8.5,
                annotation_clip=False,
            )
        axes.set_yticks(range(len(chosen)), [short(one.name, 34) for one in chosen])
        axes.set_ylim(len(chosen) - 0.5, -0.5)
        _share_axis(axes, "x")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("right answers (line: 95 % interval)")
    return taken[0]


def pixel_size_chart(predictions: Sequence[Scored], labels: Sequence[str]) -> str:
    """Each calibrated micrograph by pixel size and class: right answers as dots, wrong ones as crosses."""
    sized = [(entry.pixel_size_nm, entry) for entry in predictions if entry.pixel_size_nm is not None]
    with drawn(WIDE_INCHES, 0.9 + 0.36 * len(labels), "pixel-size", "Answers by pixel size") as (
        _,
        axes,
        taken,
    ):
        for right, marker, colour in ((True, "o", RIGHT), (False, "X", WRONG)):
            points = [(size, labels.index(entry.label)) for size, entry in sized if entry.right is right]
            rows = np.array([row for _, row in points]) + _spread_out(len(points))
            axes.plot(
                [size for size, _ in points],
                rows,
                linestyle="",
                marker=marker,
                color=colour,
                markersize=5 if right else 7,
                alpha=0.6 if right else 1,
                markeredgewidth=0,
                label="right" if right else "wrong",
            )
        axes.set_xscale("log")
        ticks = _size_ticks([size for size, _ in sized])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_yticks(range(len(labels)), [short(label) for label in labels])
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("pixel size (nm)")
        axes.grid(axis="x")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return taken[0]


def _size_ticks(sizes: Sequence[float]) -> list[float]:
    """1, 2 and 5 times the powers of ten about these sizes; over many decades the powers alone."""
    low, high = min(sizes), max(sizes)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) <= 4 else (1,)
    every = [float(f"{digit}e{power}") for power in powers for digit in digits]
    below = max((tick for tick in every if tick <= low), default=every[0])
    above = min((tick for tick in every if tick >= high), default=every[-1])
    return [tick for tick in every if below <= tick <= above]


def _spread_out(count: int) -> NDArray[np.float64]:
    """Offsets up and down, the same each time, so that equal points stand beside each other."""
    return np.asarray(((np.arange(count) * 0.618034) % 1 - 0.5) * 0.5, dtype=np.float64)


def probability_chart(predictions: Sequence[Scored], labels: Sequence[str]) -> str:
    """For each class the probability that every micrograph of it was given, lowest first."""
    there = [label for label in labels if any(entry.label == label for entry in predictions)]
    columns = min(3, len(there))
    rows = math.ceil(len(there) / columns)
    words = "Probability given to the right class, micrograph by micrograph"
    grid = {"nrows": rows, "ncols": columns, "sharey": True, "squeeze": False}
    with drawn(WIDE_INCHES, 0.4 + 1.75 * rows, "probabilities", words, **grid) as (_, axes, taken):
        for place, label in zip(axes.flat, there, strict=False):
            given = sorted(
                (entry.probabilities.get(label, 0.0), entry.right)
                for entry in predictions
                if entry.label == label
            )
            at = np.arange(len(given))
            for right, colour, hatch in ((True, RIGHT, None), (False, WRONG, "////")):
                mine = np.array([one is right for _, one in given])
                heights = np.array([value for value, _ in given])[mine]
                place.bar(
                    at[mine],
                    np.maximum(heights, 0.006),
                    width=0.86,
                    color=colour,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0,
                )
            place.set_title(short(label, 20), fontweight="normal")
            place.set_xticks([])
            place.set_xlim(-0.7, len(given) - 0.3)
            place.set_xlabel(f"{len(given)} micrograph{'s' * (len(given) != 1)}", size=8.5)
            _share_axis(place, "y")
            place.grid(axis="y")
        for place in axes.flat[len(there) :]:
            place.set_visible(False)
    return taken[0]


def embedding_chart(
    points: NDArray[np.float64],
    predictions: Sequence[Scored],
    labels: Sequence[str],
    numbered: Mapping[int, int],
) -> str:
    """The map [n, 2]: a colour and shape for each true class, wrong answers ringed, outliers numbered."""
    words = "Map of the micrographs by what the network sees in them"
    with drawn(WIDE_INCHES, 5.6, "embedding", words) as (_, axes, taken):
        for index, label in enumerate(labels):
            rows = [at for at, entry in enumerate(predictions) if entry.label == label]
            if rows:
                axes.plot(
                    *points[rows].T,
                    linestyle="",
                    marker=CLASS_MARKERS[index % len(CLASS_MARKERS)],
                    color=CLASS_COLOURS[index % len(CLASS_COLOURS)],
                    markersize=6.5,
                    alpha=0.85,
                    markeredgecolor=INK,
                    markeredgewidth=0.4,
                    label=short(label, 30),
                )
        wrong = [at for at, entry in enumerate(predictions) if not entry.right]
        if wrong:
            axes.plot(
                *points[wrong].T,
                linestyle="",
                marker="o",
                markersize=14,
                markerfacecolor="none",
                markeredgecolor=WRONG,
                markeredgewidth=1.8,
                label="wrong answer",
            )
        for at, number in numbered.items():
            axes.annotate(
                str(number), points[at], xytext=(7, 6), textcoords="offset points", size=9, weight="bold"
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.08)
        axes.spines[:].set_visible(True)
        columns = 2 if max(map(len, labels)) > 14 else min(4, len(labels) + 1)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns, columnspacing=1.2)
    return taken[0]


def history_chart(members: Sequence[tuple[str, Sequence[Epoch]]]) -> str:
    """Loss and accuracy over the epochs, a line a member; a grey line stands where fine-tuning begins."""
    words = "Learning curves: loss and accuracy over the epochs"
    several = len(members) > 1
    with drawn(WIDE_INCHES, 2.9, "history", words, ncols=2) as (_, (losses, accuracies), taken):
        for number, (_, history) in enumerate(members):
            named = number == 0
            look = {"linewidth": 1.0, "alpha": 0.65} if several else {"markersize": 3.5}
            for axes, values, colour, marker, name in (
                (losses, [line.loss for line in history], RIGHT, "o", "training"),
                (losses, [line.validation_loss for line in history], WRONG, "s", "validation"),
                (accuracies, [line.training_accuracy for line in history], RIGHT, "o", "training"),
                (
                    accuracies,
                    [line.validation_balanced_accuracy for line in history],
                    WRONG,
                    "s",
                    "validation, class-balanced",
                ),
            ):
                known = [(at, value) for at, value in enumerate(values, start=1) if value is not None]
                if known:
                    style = "-" if marker == "o" else "--"
                    axes.plot(
                        *zip(*known, strict=True),
                        color=colour,
                        linestyle=style,
                        marker="" if several else marker,
                        label=name if named else None,
                        **look,
                    )
        change = _second_stage(members[0][1])
        for axes, title in ((losses, "Loss"), (accuracies, "Accuracy")):
            axes.set_title(title)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if change is not None:
                axes.axvline(change, color=FAINT, linewidth=1, linestyle=":")
            axes.grid(axis="y")
            if axes.get_legend_handles_labels()[0]:
                axes.legend()
        losses.set_ylim(bottom=0)
        _share_axis(accuracies, "y")
    return taken[0]


def _second_stage(history: Sequence[Epoch]) -> float | None:
    """Between which epochs the second stage begins."""
    stages = [line.stage for line in history]
    return next((at + 0.5 for at in range(1, len(stages)) if stages[at] != stages[at - 1]), None)
