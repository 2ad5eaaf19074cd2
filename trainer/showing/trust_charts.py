"""The charts of abstaining: what it buys, what temperature did, and how strangers stand to the limit of novelty.

Only this module knows their marks: before in grey, after in blue, strangers in orange, a limit as a dashed line.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from trainer.showing.chart_style import (
    FAINT,
    INK,
    RIGHT,
    RULE,
    WIDE_INCHES,
    WRONG,
    drawn,
    percent,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.scoring.calibration import Calibration
    from trainer.scoring.selective import RiskCoverage
    from trainer.trusting.trust_record import StrangerKind

_DASHED: Final = (0, (4, 3))
_LOOKS: Final[Any] = ((RIGHT, "-", "o"), (WRONG, (0, (5, 1.5)), "s"))
_BARS: Final = 36
_WIDE_RANGE: Final = 30
"""Of the largest novelty over the smallest: beyond it the axis is logarithmic."""


class Curve(NamedTuple):
    """One risk-coverage curve; `at` is the operating point (coverage, accuracy), where there is one."""

    name: str
    curve: RiskCoverage
    at: tuple[float, float] | None


def risk_coverage_chart(curves: Sequence[Curve]) -> str:
    """Accuracy of the answers kept against the share that is kept, the bundle's operating point marked."""
    words = "Risk and coverage: accuracy of the answers that are kept against the share kept"
    with drawn(WIDE_INCHES, 3.4, "risk-coverage", words) as (_, axes, taken):
        lowest = 1.0
        for one, (colour, line, marker) in zip(curves, _LOOKS, strict=False):
            coverage = [point.coverage for point in one.curve.points]
            accuracy = [point.accuracy for point in one.curve.points]
            axes.plot(
                coverage, accuracy, label=short(one.name, 60), color=colour, linestyle=line, clip_on=False
            )
            lowest = min(lowest, *_settled(one.curve))
            if one.at is not None:
                label = f"operating point: {percent(one.at[1])} right of {percent(one.at[0])} kept"
                mark = {"color": colour, "marker": marker, "markeredgecolor": INK, "markersize": 9}
                axes.plot(*one.at, linestyle="", label=label, clip_on=False, zorder=5, **mark)
                lowest = min(lowest, one.at[1])
        floor = min(0.9, max(0.0, math.floor(20 * (lowest - 0.02)) / 20))
        _shares(axes, "x", 0)
        _shares(axes, "y", floor)
        axes.set_xlabel("answers kept, the surest first")
        axes.set_ylabel("right among them")
        axes.grid()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=1 if len(curves) > 1 else 2)
    return taken[0]


def _settled(curve: RiskCoverage) -> list[float]:
    """Accuracies from a tenth of the answers on: one wrong answer among the first few hides all the rest."""
    return [point.accuracy for point in curve.points if point.coverage >= 0.1]


def _shares(axes: Any, which: str, low: float) -> None:  # noqa: ANN401
    step = 0.2 if low < 0.4 else 0.1 if low < 0.75 else 0.05 if low < 0.9 else 0.02
    ticks = 1 - step * np.arange((1 - low + 1e-9) // step + 1)[::-1]
    getattr(axes, f"set_{which}lim")(low, 1)
    getattr(axes, f"set_{which}ticks")(ticks, [f"{100 * tick:.0f} %" for tick in ticks])


def temperature_chart(before: Calibration, after: Calibration) -> str:
    """Promised against kept, before and after temperature, side by side."""
    words = "Reliability before and after temperature: share of right answers against probability"
    with drawn(WIDE_INCHES, 3.5, "temperature", words, ncols=2, sharey=True) as (_, both, taken):
        for axes, known, title, colour, marker in (
            (both[0], before, "Before temperature", FAINT, "s"),
            (both[1], after, "After", RIGHT, "o"),
        ):
            axes.plot((0, 1), (0, 1), color=FAINT, linestyle=_DASHED, linewidth=1)
            for one in known.bins:
                axes.plot(
                    (one.confidence, one.confidence), one.interval, color=colour, alpha=0.55, linewidth=2.2
                )
            at = [(one.confidence, one.accuracy) for one in known.bins]
            axes.plot(*zip(*at, strict=True), color=colour, marker=marker, linewidth=1, clip_on=False)
            axes.set_title(title)
            axes.text(0.97, 0.04, _error_text(known), ha="right", size=8.5, transform=axes.transAxes)
            _shares(axes, "x", 0)
            _shares(axes, "y", 0)
            axes.set_xticks(np.linspace(0, 1, 6), [f"{at:.0f}" for at in np.linspace(0, 100, 6)])
            axes.set_xlabel("probability of the answer (%)")
            axes.grid()
        both[0].set_ylabel("right answers")
    return taken[0]


def _error_text(known: Calibration) -> str:
    if known.debiased_error is None:
        return f"error {known.error:.3f}"
    text = f"debiased error {known.debiased_error:.3f}"
    if known.debiased_error_interval is None:
        return text
    low, high = known.debiased_error_interval
    return f"{text}\n({low:.3f} to {high:.3f})"


def novelty_chart(held: Sequence[float], strangers: Sequence[StrangerKind], limit: float | None) -> str:
    """A histogram a row on one axis: held-out micrographs above, each kind of stranger below, and the limit."""
    rows = [("held-out micrographs", np.array(held), RIGHT, "")]
    rows += [(one.kind, np.array(one.novelty), WRONG, "////") for one in strangers if one.novelty]
    words = "Novelty of held-out micrographs and of strangers, kind by kind"
    every = np.concatenate([values for _, values, _, _ in rows])
    edges, logarithmic = _edges(every if limit is None else np.append(every, limit))
    grid = {"nrows": len(rows), "sharex": True, "squeeze": False, "gridspec_kw": {"hspace": 0.06}}
    with drawn(WIDE_INCHES, 0.75 + 0.5 * len(rows), "novelty", words, **grid) as (figure, axes, taken):
        for place, (name, values, colour, hatch) in zip(axes[:, 0], rows, strict=True):
            counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
            place.bar(
                edges[:-1],
                counts / counts.max(),
                np.diff(edges),
                align="edge",
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0,
            )
            _novelty_row(place, f"{short(name, 30)} ({len(values)})", values, limit)
            place.set_xscale("log" if logarithmic else "linear")
            place.set_xlim(edges[0], edges[-1])
        axes[-1, 0].set_xlabel("novelty" if limit is None else "novelty (dashed: the limit)")
        if logarithmic:
            _plain_ticks(axes[-1, 0], edges)
        figure.align_ylabels()
    return taken[0]


def _novelty_row(place: Any, name: str, values: NDArray[np.float64], limit: float | None) -> None:  # noqa: ANN401
    place.set_ylabel(name, rotation=0, ha="right", va="center", size=8.5)
    place.set_yticks([])
    place.set_ylim(0, 1.12)
    place.tick_params(axis="x", which="both", length=2)
    if limit is not None:
        place.axvline(limit, color=INK, linestyle=_DASHED, linewidth=1.2)
        place.annotate(
            f"{percent(float((values > limit).mean()))} beyond",
            (1.01, 0.35),
            xycoords="axes fraction",
            size=8.5,
            annotation_clip=False,
        )


def _edges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
    """Of the bars, from the smallest to the largest value; even in the logarithm where they span much."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > _WIDE_RANGE * low:
        return np.geomspace(low / 1.05, high * 1.05, _BARS + 1), True
    margin = 0.02 * (high - low) or 0.5
    return np.linspace(max(0.0, low - margin), high + margin, _BARS + 1), False


def _plain_ticks(axes: Any, edges: NDArray[np.float64]) -> None:  # noqa: ANN401
    powers = range(math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[-1])) + 1)
    digits = (1, 2, 5) if len(powers) <= 3 else (1, 3) if len(powers) <= 5 else (1,)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    shown = [tick for tick in ticks if edges[0] <= tick <= edges[-1]]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)


def strangers_chart(strangers: Sequence[StrangerKind], wanted: float) -> str:
    """The share of each kind that was refused, as bars; the dashed line is what one would want."""
    words = "Strangers: share of each kind that the agent refused to answer"
    with drawn(WIDE_INCHES, 0.85 + 0.34 * len(strangers), "strangers", words) as (_, axes, taken):
        for at, one in enumerate(strangers):
            share = one.abstained / one.pictures if one.pictures else 0.0
            axes.barh(at, 1, height=0.62, color="none", edgecolor=RULE, linewidth=0.8)
            look = {"color": RIGHT} if share >= wanted else {"color": WRONG, "hatch": "////"}
            axes.barh(at, share, height=0.62, edgecolor="white", linewidth=0, **look)
            axes.annotate(
                f"{one.abstained} of {one.pictures}",
                (1.02, at),
                xycoords=("axes fraction", "data"),
                va="center",
                size=8.5,
                annotation_clip=False,
            )
        axes.axvline(wanted, color=INK, linestyle=_DASHED, linewidth=1.2)
        axes.set_yticks(range(len(strangers)), [short(one.kind, 38) for one in strangers])
        axes.set_ylim(len(strangers) - 0.5, -0.5)
        _shares(axes, "x", 0)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"refused (dashed: {percent(wanted)}, which one would want)")
    return taken[0]
