"""What a person reads while a stage runs and when it ends: progress, epochs, figures; all of it on stderr."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic import BaseModel

    from edge_agent.model_bundle import Manifest
    from trainer.fitting.run_folder import Epoch
    from trainer.scoring.calibration import Calibration
    from trainer.scoring.evaluation import Evaluation, Figures
    from trainer.trusting.trust_record import StrangerKind, TrustRecord


def say(text: str) -> None:
    """Write one message to stderr."""
    typer.echo(text, err=True)


def print_json(record: BaseModel) -> None:
    """Write a record to stdout, in UTF-8 whatever the console's encoding, as JSON must be."""
    sys.stdout.buffer.write(record.model_dump_json(indent=1, by_alias=True).encode() + b"\n")
    sys.stdout.buffer.flush()


def epoch_line(epoch: Epoch) -> str:
    """Return how an epoch went, in one line."""
    text = f"{epoch.stage} epoch {epoch.epoch}: loss {epoch.loss:.4f}"
    if epoch.validation_loss is not None and epoch.validation_balanced_accuracy is not None:
        text += f", validation loss {epoch.validation_loss:.4f}"
        text += f", class-balanced accuracy {epoch.validation_balanced_accuracy:.3f}"
    return text


def imported_text(manifest: Manifest) -> str:
    """What was found of an imported network, and how it was proven."""
    parity, cam = manifest.parity, manifest.cam
    lines = [
        f"answers as the model gave them to within {parity.probabilities:.1e} on {parity.crops} pictures"
    ]
    if manifest.tensors.cam is None:
        return "\n".join([*lines, "no map in the graph: edge-trainer explain draws occlusion maps"])
    lines.append(f"map: {cam.description}")
    lines.append(f"its mean is the measured derivative of the logits to within {parity.cam:.1e}")
    return "\n".join(lines)


def evaluation_text(result: Evaluation) -> str:
    """Return the figures of an evaluation, what to beware of, and what could not be read."""
    lines = [f"{result.bundle} on {result.part}", figures_table(result.figures)]
    lines += [f"warning: {warning}" for warning in result.warnings]
    lines += [f"not read: {file}: {reason}" for file, reason in result.unreadable.items()]
    return "\n".join(lines)


def trust_text(record: TrustRecord) -> str:
    """What the limits of a bundle cost and buy, and what becomes of strangers."""
    limits = record.thresholds
    others = (("novelty", limits.get("novelty")), ("disagreement of tiles", limits.get("tile_disagreement")))
    lines = [
        f"measured on {record.source}",
        f"temperature {record.temperature:g}: calibration error {_error(record.before)} before, "
        f"{_error(record.after)} after",
        f"limits: probability {limits.get('confidence') or 0:.3f}"
        + "".join(f", {name} {most:.3f}" for name, most in others if most is not None)
        + ("" if others[0][1] is not None else ", no novelty"),
        f"accepted: {record.accepted:.1%} of held-out micrographs, of these {record.accepted_accuracy:.1%} right",
    ]
    if record.strangers:
        width = max(len("strangers"), *(len(kind.kind) for kind in record.strangers)) + 2
        lines.append("strangers".ljust(width) + "abstained        AUROC of novelty, of confidence, of both")
        lines += [_stranger_line(kind, width) for kind in record.strangers]
    return "\n".join([*lines, *(f"note: {note}" for note in record.notes)])


def _error(found: Calibration) -> str:
    if found.debiased_error is None:
        return "not known"
    return _with_interval(found.debiased_error, found.debiased_error_interval)


def _stranger_line(kind: StrangerKind, width: int) -> str:
    areas = (kind.novelty_auroc, kind.confidence_auroc, kind.combined_auroc)
    shown = "  ".join("-    " if area is None else f"{area:.3f}" for area in areas)
    return f"{kind.kind.ljust(width)}{kind.abstained} of {kind.pictures}".ljust(width + 17) + shown


def figures_table(figures: Figures) -> str:
    """Return figures as a table, a line a class."""
    labels = tuple(figures.classes)
    low, high = figures.balanced_accuracy_interval
    width = max(12, *(len(label) + 2 for label in labels))
    lines = [
        f"{figures.micrographs} micrographs in {figures.groups} groups; class-balanced accuracy "
        f"{figures.balanced_accuracy:.3f} (95 % interval by group {low:.3f} to {high:.3f})",
        "".join(name.ljust(width) for name in ("class", "count", "precision", "recall", "F1"))
        + "answered: "
        + ", ".join(labels),
    ]
    for label, row in zip(labels, figures.confusion, strict=True):
        one = figures.classes[label]
        cells = [
            f"{value:.3f}" if value is not None else "-" for value in (one.precision, one.recall, one.f1)
        ]
        lines.append(
            "".join(cell.ljust(width) for cell in (label, str(one.micrographs), *cells))
            + " ".join(map(str, row))
        )
    lines += _abstaining_lines(figures)
    if figures.cam is not None:
        lines.append(
            f"map: peak on a particle in {figures.cam.peak_on_particle:.2f} of {figures.cam.micrographs} correct "
            f"answers (chance {figures.cam.chance:.2f}), {figures.cam.energy_on_particles:.2f} of the evidence on "
            f"particles ({figures.cam.particle_share:.2f} of the area)"
        )
    return "\n".join(lines)


def _abstaining_lines(figures: Figures) -> Iterator[str]:
    """How far probabilities hold, and what abstaining buys."""
    known, kept, curve = figures.calibration, figures.accepted, figures.selective
    if known is not None and known.debiased_error is not None:
        yield f"calibration error {_with_interval(known.debiased_error, known.debiased_error_interval)}, debiased"
    if kept is not None:
        given = "" if kept.accuracy is None else f"; accuracy {_with_interval(kept.accuracy, kept.interval)}"
        yield f"accepted: {kept.micrographs} of {figures.micrographs} ({100 * kept.coverage:.0f} %){given}"
    if figures.reasons:
        each = ", ".join(f"{reason} {number}" for reason, number in figures.reasons.items())
        yield f"abstained: {each}"
    if curve is not None:
        at = curve.at_80
        yield f"the surest 80 %: accuracy {_with_interval(at.accuracy, at.interval)}"


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{value:.3f}"
    return f"{value:.3f} (95 % interval by group {interval[0]:.3f} to {interval[1]:.3f})"


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function that shows `(what, done, total)` as a progress bar on a terminal, as nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show
