"""The charts of a bundle's maps: what becomes of the answer as their cells go, and of them as the network forgets.

Only this module knows their marks: methods in colour, maps that know nothing in grey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.scoring.deletion import STEPS
from trainer.scoring.map_verdicts import titled
from trainer.showing.chart_style import CLASS_COLOURS, CLASS_MARKERS, FAINT, WIDE_INCHES, drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.scoring.faithfulness_record import MethodFigures

_GREY_LINES: Final = ((0, (1, 1.5)), (0, (5, 2)))


def curves_chart(methods: Sequence[MethodFigures]) -> str:
    """Deletion and insertion side by side, a line a method."""
    words = "Deletion and insertion: probability of the answer against the share of cells"
    with drawn(WIDE_INCHES, 3.3, "deletion", words, ncols=2, sharey=True) as (figure, both, taken):
        at = np.arange(STEPS + 1) / STEPS
        for axes, kind, title in zip(
            both, ("deletion", "insertion"), ("Deletion: low is good", "Insertion: high is good"), strict=True
        ):
            for one, look in zip(methods, _looks(methods), strict=True):
                curve = getattr(one, kind)
                axes.plot(at, curve.mean, label=titled(one.names), markevery=4, **look)
            axes.set_title(title)
            _shares(axes)
        both[0].set_ylabel("mean probability of the answer")
        both[0].set_xlabel("% of cells blurred, the map's highest first")
        both[1].set_xlabel("% of cells given back, the highest first")
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return taken[0]


def _looks(methods: Sequence[MethodFigures]) -> list[dict[str, Any]]:
    looks: list[dict[str, Any]] = []
    coloured = grey = 0
    for one in methods:
        if one.baseline:
            looks.append({"color": FAINT, "linestyle": _GREY_LINES[grey % 2], "linewidth": 1.3})
            grey += 1
        else:
            marker = CLASS_MARKERS[coloured % len(CLASS_MARKERS)]
            looks.append(
                {"color": CLASS_COLOURS[coloured % len(CLASS_COLOURS)], "marker": marker, "markersize": 4.5}
            )
            coloured += 1
    return looks


def _shares(axes: Any) -> None:  # noqa: ANN401
    ticks = np.linspace(0, 1, 6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:.1f}" for tick in ticks])
    axes.grid()


def forgetting_chart(methods: Sequence[MethodFigures]) -> str:
    """Likeness to the trained network's map against the number of layers with random weights."""
    words = "Random weights: likeness of the maps as more layers are drawn anew"
    known = [one for one in methods if one.randomised is not None]
    with drawn(WIDE_INCHES, 3.3, "forgetting", words, ncols=2, sharey=True) as (figure, both, taken):
        for axes, kind, title in zip(
            both, ("absolute", "positive"), ("Absolute values", "Positive part, as it is drawn"), strict=True
        ):
            for one, look in zip(known, _looks(known), strict=True):
                _cascade(axes, one, kind, look)
            axes.set_title(title)
            axes.set_xlabel("last layers with random weights")
            axes.set_ylim(min(-0.25, axes.get_ylim()[0]), 1.04)
            axes.grid(axis="y")
        both[0].set_ylabel("rank correlation with the map")
        figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return taken[0]


def _cascade(axes: Any, one: MethodFigures, kind: str, look: dict[str, Any]) -> None:  # noqa: ANN401
    seen = one.randomised
    assert seen is not None  # noqa: S101 - chosen so
    at = np.arange(len(seen.stages))
    for place, stage in zip(at, seen.stages, strict=True):
        interval = getattr(stage, f"{kind}_interval")
        if interval is not None:
            axes.plot((place, place), interval, color=look["color"], alpha=0.5, linewidth=2.2)
    axes.plot(at, [getattr(stage, kind) for stage in seen.stages], label=titled(one.names), **look)
    axes.axhline(
        getattr(seen, f"unrelated_{kind}"),
        color=look["color"],
        linestyle=_GREY_LINES[0],
        linewidth=1.2,
        label=f"{titled(one.names)}: maps of different micrographs",
    )
    axes.set_xticks(at, [str(stage.layers) if stage.layers else "none" for stage in seen.stages])
