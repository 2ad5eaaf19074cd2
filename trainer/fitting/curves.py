"""`curves.png` in a run folder: losses and accuracies over the epochs, stages and best epoch marked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

from edge_agent.files import write_durably

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.fitting.run_folder import Epoch

FILE: Final = "curves.png"
_TRAINING: Final = "#0072B2"
_VALIDATION: Final = "#D55E00"
"""Okabe and Ito's blue and vermilion; the lines differ in their markers too."""


def draw_curves(run: Path, history: Sequence[Epoch]) -> Path:
    """Write `curves.png` into the folder of a run; returns the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 6.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracies = figure.subplots(2, 1, sharex=True)
    _curve(losses, [line.loss for line in history], "training (augmented, smoothed labels)", _TRAINING, "o")
    _curve(losses, [line.validation_loss for line in history], "validation", _VALIDATION, "s")
    _curve(accuracies, [line.training_accuracy for line in history], "training", _TRAINING, "o")
    balanced = [line.validation_balanced_accuracy for line in history]
    _curve(accuracies, balanced, "validation, class-balanced", _VALIDATION, "s")
    losses.set_ylabel("loss")
    losses.set_ylim(bottom=0)
    accuracies.set_ylabel("accuracy")
    accuracies.set_ylim(-0.02, 1.02)
    accuracies.set_xlim(0.5, max(1, len(history)) + 0.5)
    accuracies.set_xlabel("epoch, of all stages")
    accuracies.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, accuracies):
        _mark_stages(axes, history, named=axes is losses)
        _mark_best(axes, history)
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_durably(run / FILE, buffer.getvalue())
    return run / FILE


def _curve(axes: Any, values: Sequence[float | None], name: str, colour: str, marker: str) -> None:  # noqa: ANN401
    points = [(epoch, value) for epoch, value in enumerate(values, start=1) if value is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)


def _mark_stages(axes: Any, history: Sequence[Epoch], *, named: bool) -> None:  # noqa: ANN401
    """A line where a stage begins, with its name above the upper picture."""
    for index, line in enumerate(history):
        if index and line.stage == history[index - 1].stage:
            continue
        if index:
            axes.axvline(index + 0.5, color="0.4", linewidth=1, linestyle="--")
        if named:
            place = {"xy": (index + 0.55, 1.0), "xycoords": ("data", "axes fraction")}
            axes.annotate(line.stage, **place, xytext=(0, 3), textcoords="offset points", fontsize="small")


def _mark_best(axes: Any, history: Sequence[Epoch]) -> None:  # noqa: ANN401
    known = [
        (line.validation_loss, epoch)
        for epoch, line in enumerate(history, 1)
        if line.validation_loss is not None
    ]
    if known:
        best = min(known)[1]
        axes.axvline(
            best, color="0.6", linewidth=6, alpha=0.3, label=f"lowest validation loss (epoch {best})"
        )
