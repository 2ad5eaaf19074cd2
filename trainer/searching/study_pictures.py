"""The pages of a hyperparameter search: `study.html` with its pictures, and `trials.csv`.

Pictures: how the best score came about, what mattered (with what chance alone would show), and the score against
each parameter. Colours are those of Okabe and Ito, shapes say the same again for print.
"""

from __future__ import annotations

import base64
import csv
import io
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge_agent.files import write_durably
from trainer.searching.study_result import HEAD, TUNED, importance_text, label_of, table_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trainer.searching.study_result import Importance, StudyResult, TrialLine

PAGE: Final = "study.html"
TABLE: Final = "trials.csv"
_BLUE, _ORANGE, _GREY, _GREEN = "#0072B2", "#D55E00", "#777777", "#009E73"
_WIDTH_INCHES: Final = 9.0
_TITLES: Final = {HEAD: "heads on frozen features", TUNED: "fine-tuned"}
_CHOICES: Final = ("head_width", "augmentation_strength", "batch", "optimizer", "fine_tune_from")
_LOGARITHMIC: Final = ("head_learning_rate", "learning_rate", "weight_decay")


def write_pages(result: StudyResult) -> Path:
    """Write the pictures, the table and the page that shows them into the study folder; returns the page."""
    pictures = {name: _png(figure) for name, figure in _figures(result)}
    for name, data in pictures.items():
        write_durably(result.folder / f"{name}.png", data)
    write_durably(result.folder / TABLE, _csv(result).encode("utf-8-sig"))
    write_durably(result.folder / PAGE, _page(result, pictures).encode())
    return result.folder / PAGE


def _figures(result: StudyResult) -> list[tuple[str, Figure]]:
    found = [("history", _history(result))]
    found += [(f"importance-{one.stage}", _importance(one)) for one in result.importance]
    for stage in (TUNED, HEAD):
        lines = [line for line in result.stage(stage) if line.score is not None]
        if len(lines) > 1:
            found.append((f"slices-{stage}", _slices(lines, stage)))
    return found


def _blank(rows: int, columns: int, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _history(result: StudyResult) -> Figure:
    """Scores in the order of the trials, and the best so far; failed trials as ticks below."""
    stages = [stage for stage in (HEAD, TUNED) if result.stage(stage)]
    figure, axes = _blank(1, len(stages), 3.4)
    for stage, axis in zip(stages, axes[0], strict=True):
        _stage_history(axis, sorted(result.stage(stage), key=lambda line: line.number))
        axis.set_title(_TITLES[stage])
    axes[0, 0].set_ylabel("score")
    return figure


def _stage_history(axis: Axes, lines: Sequence[TrialLine]) -> None:
    from matplotlib.ticker import MaxNLocator

    done = [line for line in lines if line.score is not None]
    best = np.maximum.accumulate(np.array([line.score or 0.0 for line in done]))
    axis.step(
        [line.number for line in done], best, where="post", color=_GREY, linewidth=1, label="best so far"
    )
    groups = (
        ("complete", _BLUE, "o", [(line.number, line.score) for line in done if not line.is_base]),
        ("begun with", _GREEN, "D", [(line.number, line.score) for line in done if line.is_base]),
        (
            "pruned",
            _ORANGE,
            "x",
            [(line.number, max(line.curve)) for line in lines if line.state == "pruned" and line.curve],
        ),
    )
    for name, colour, marker, points in groups:
        if points:
            x, y = np.array(points, dtype=float).T
            axis.scatter(x, y, c=colour, marker=marker, s=30, label=name, zorder=3)
    for line in lines:
        if line.state == "failed":
            axis.axvline(line.number, ymax=0.06, color=_ORANGE, linewidth=2)
    axis.set_xlabel(
        "trial (ticks at the bottom: failed)" if any(x.state == "failed" for x in lines) else "trial"
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)


def _importance(one: Importance) -> Figure:
    names = list(one.shares)[::-1]
    figure, axes = _blank(1, 1, 0.9 + 0.34 * len(names))
    axis = axes[0, 0]
    axis.barh(
        [label_of(name) for name in names], [one.shares[name] for name in names], color=_BLUE, height=0.6
    )
    axis.scatter(
        [one.chance[name] for name in names],
        range(len(names)),
        color=_ORANGE,
        marker="|",
        s=260,
        linewidths=2.5,
        zorder=3,
        label="chance: 9 of 10 shuffles of the scores stay left of this",
    )
    axis.set_xlabel("share of the scores' variance (fANOVA)")
    axis.set_title(f"what mattered: {_TITLES[one.stage]}, {one.trials} completed trials")
    axis.grid(axis="x", alpha=0.25)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def _slices(lines: Sequence[TrialLine], stage: str) -> Figure:
    """Score against each parameter that took more than one value."""
    names = [name for name in lines[0].parameters if len({line.parameters.get(name) for line in lines}) > 1]
    columns = min(4, max(1, len(names)))
    rows = -(-len(names) // columns) or 1
    figure, axes = _blank(rows, columns, 2.5 * rows + 0.3)
    for axis, name in zip(axes.flat, names, strict=False):
        _slice(axis, lines, name)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("score")
    figure.suptitle(
        f"score against each parameter: {_TITLES[stage]} (learning rates as of AdamW; diamond: begun with)",
        size=10,
    )
    return figure


def _slice(axis: Axes, lines: Sequence[TrialLine], name: str) -> None:
    values = [line.parameters[name] for line in lines]
    if name in _CHOICES:
        chosen = sorted(set(values), key=_in_order)
        axis.set_xticks(
            range(len(chosen)), [f"{value:g}" if isinstance(value, float) else str(value) for value in chosen]
        )
        axis.set_xlim(-0.5, len(chosen) - 0.5)
        axis.tick_params(axis="x", labelsize=8)
        places = [float(chosen.index(value)) for value in values]
    else:
        places = [float(value) for value in values]
        if name in _LOGARITHMIC:
            axis.set_xscale("log")
    first = np.array([line.is_base for line in lines])
    x, y = np.array(places), np.array([line.score for line in lines], dtype=float)
    axis.scatter(x[~first], y[~first], c=_BLUE, s=22, marker="o")
    axis.scatter(x[first], y[first], c=_GREEN, s=30, marker="D")
    axis.set_xlabel(label_of(name))
    axis.grid(alpha=0.25)


def _in_order(value: float | str) -> list[tuple[float, str]]:
    """Numbers by size, also those within names: block4 comes before block10."""
    parts = re.findall(r"\d+|\D+", value) if isinstance(value, str) else [value]
    return [
        (float(part), "") if isinstance(part, float | int) or part.isdigit() else (-1.0, part)
        for part in parts
    ]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _csv(result: StudyResult) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for index, stage in enumerate(stage for stage in (TUNED, HEAD) if result.stage(stage)):
        rows = table_of(result.stage(stage), whole=True)
        writer.writerows(
            [("stage", *row) if at == 0 else (stage, *row) for at, row in enumerate(rows)][bool(index) :]
        )
    return text.getvalue()


def _page(result: StudyResult, pictures: dict[str, bytes]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trainer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    tables = [
        (_TITLES[stage], table_of(result.stage(stage))) for stage in (TUNED, HEAD) if result.stage(stage)
    ]
    return environment.get_template(PAGE).render(
        result=result,
        tables=tables,
        mattered=importance_text(result),
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        recipe=result.best_recipe.model_dump_json(indent=1),
    )
