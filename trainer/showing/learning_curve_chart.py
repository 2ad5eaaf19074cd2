"""The learning curve as a picture for screen and print: points with their spread, the fit where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.scoring.accuracy_curve import LearningCurve

# Okabe and Ito's colours, which the colour-blind tell apart; the markers do so in print without colour.
_STYLES: Final = {"frozen features": ("#0072B2", "o"), "fine-tuning": ("#D55E00", "s")}
_NAMES: Final = {
    "frozen features": "linear classifier on pretrained features",
    "fine-tuning": "fine-tuned network",
}
_BEYOND: Final = 4
"""How many times the micrographs that there are the law is drawn on for."""


def draw_learning_curve(*curves: LearningCurve) -> Figure:
    """Draw one curve, or the frozen and the fine-tuned one together; error bars are one standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        _draw(axes, curve)
    sizes = {point.micrographs for curve in curves for point in curve.points}
    sizes |= {_BEYOND * curve.points[-1].micrographs for curve in curves if curve.law}
    _label(axes, sorted(sizes), len(curves[0].labels))
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _draw(axes: Axes, curve: LearningCurve) -> None:
    colour, marker = _STYLES[curve.kind]
    sizes = np.array([point.micrographs for point in curve.points])
    means = [point.balanced_accuracy for point in curve.points]
    errors = [point.standard_error for point in curve.points]
    for point in curve.points:
        # A little to the left and right, or equal folds would hide each other.
        aside = np.linspace(0.975, 1.025, len(point.by_fold)) if len(point.by_fold) > 1 else np.ones(1)
        axes.plot(
            point.micrographs * aside, point.by_fold, ".", color=colour, alpha=0.35, markersize=4, zorder=1
        )
    axes.errorbar(
        sizes, means, errors, color=colour, marker=marker, markersize=5, capsize=3, lw=1.4,
        ls="none" if curve.law else "-", label=_NAMES[curve.kind], zorder=3,
    )  # fmt: skip
    if curve.law:
        inside = np.geomspace(sizes[0], sizes[-1], 60)
        beyond = np.geomspace(sizes[-1], _BEYOND * sizes[-1], 40)
        axes.plot(inside, curve.law.at(inside), color=colour, lw=1.4, zorder=2)
        axes.plot(
            beyond,
            curve.law.at(beyond),
            "--",
            color=colour,
            lw=1.4,
            zorder=2,
            label="power law, extrapolated",
        )


def _label(axes: Axes, sizes: list[float], classes: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    # Only the numbers that were measured or foretold, and of those that would overlap the larger.
    shown = [size for size, after in zip(sizes, [*sizes[1:], np.inf], strict=True) if after / size > 1.15]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:.0f}")
    low, _ = axes.get_ylim()
    axes.set_ylim(max(0.0, np.floor(10 * low) / 10), 1.02)
    if 1 / classes > axes.get_ylim()[0]:
        axes.axhline(1 / classes, color="0.4", lw=0.8, ls=":", label="chance")
    axes.set_xlabel("training micrographs")
    axes.set_ylabel("class-balanced accuracy, held-out groups")
    axes.grid(axis="y", color="0.88", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
