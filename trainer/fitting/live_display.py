"""What a person sees while a network is trained: where it stands, how the losses go, what it confuses.

On a terminal a picture that is drawn anew in place, to its size; elsewhere a line after each epoch, and one every
half minute in between. All of it goes to stderr.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trainer.fitting.tensorboard_log import shade
from trainer.terminal import epoch_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from trainer.fitting.run_folder import Epoch
    from trainer.fitting.steps import Step

_LINE_EVERY_S: Final = 30.0
_EPOCHS_SHOWN: Final = 24
_BARS: Final = "▁▂▃▄▅▆▇█"
_NAME: Final = (8, 24)
"""Least and largest width of a class name, in characters."""
_RIGHT: Final = 8
"""Width of the column that says how many are right."""
_WIDE: Final = 64
"""From so many characters on, names are written out and curves are drawn."""


@contextlib.contextmanager
def training_display(
    labels: tuple[str, ...], history: Sequence[Epoch] = (), console: Console | None = None
) -> Iterator[LiveDisplay | PlainLines]:
    """Give what `fitting.training.train` tells its news: `progress`, `watched` and `told`.

    `history` are the epochs of an earlier session, to be shown from the start.
    """
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainLines(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
        return
    display = LiveDisplay(labels, list(history))
    with Live(display, console=console, refresh_per_second=4, vertical_overflow="crop"):
        yield display


@dataclass(slots=True)
class PlainLines:
    """The news as lines of text."""

    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _last: float | None = None
    _pace: _Pace = field(default_factory=lambda: _Pace())

    def progress(self, what: str, done: int, total: int) -> None:
        """Something of which `done` of `total` are done; the stages' own are told as epochs."""
        if self._pace.step is None and self._is_time():
            self.say(f"{what}: {done} of {total}")

    def watched(self, step: Step) -> None:
        """Steps go on."""
        self._pace.tell(step, self.clock())
        if self._is_time():
            self.say(
                f"{step.stage} epoch {step.epoch} of {step.epochs}: {step.step} of {step.steps} steps, "
                f"loss {step.loss:.4f}, {self._pace.text()}"
            )

    def told(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        self._last = self.clock()
        self.say(epoch_line(epoch))

    def _is_time(self) -> bool:
        """Whether nothing has been said for long."""
        now = self.clock()
        if self._last is None:
            self._last = now
        if now - self._last < _LINE_EVERY_S:
            return False
        self._last = now
        return True


@dataclass(slots=True)
class _Pace:
    """How fast steps go in this epoch, and how long its rest will take."""

    step: Step | None = None
    _first: tuple[int, float] = (0, 0.0)
    steps_per_second: float | None = None

    def tell(self, step: Step, now: float) -> None:
        """Note where training stands."""
        before, self.step = self.step, step
        if before is None or (before.stage, before.epoch) != (step.stage, step.epoch):
            # The first steps of a stage are slow (TensorFlow builds its graph), so the clock starts behind them.
            self._first = (step.step, now)
            return
        done, seconds = step.step - self._first[0], now - self._first[1]
        if done > 0 and seconds > 0:
            self.steps_per_second = done / seconds

    def text(self) -> str:
        """Rate, and the time that the rest of the epoch and of the stage takes without validation."""
        if self.step is None or not self.steps_per_second:
            return "-- steps/s"
        rest = self.step.steps - self.step.step
        stage = rest + (self.step.epochs - self.step.epoch) * self.step.steps
        rate = self.steps_per_second
        return f"{rate:.3g} steps/s, left: epoch {_time(rest / rate)}, stage {_time(stage / rate)}"


class LiveDisplay:
    """The news as a picture of the terminal's width and height; rich asks for it some times a second."""

    def __init__(
        self, labels: tuple[str, ...], history: list[Epoch], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._labels, self._history, self._clock = labels, history, clock
        self._work: tuple[str, int, int] | None = None
        self._pace = _Pace()

    def progress(self, what: str, done: int, total: int) -> None:
        """Something of which `done` of `total` are done; the stages themselves are told step by step."""
        if self._pace.step is None or what != self._pace.step.stage:
            self._work = (what, done, total)

    def watched(self, step: Step) -> None:
        """Steps go on."""
        self._work = None
        self._pace.tell(step, self._clock())

    def told(self, epoch: Epoch) -> None:
        """An epoch has ended; one that an earlier session had begun to tell of is replaced."""
        place = (epoch.stage, epoch.epoch)
        kept = [line for line in self._history if (line.stage, line.epoch) != place]
        self._history = [*kept, epoch]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts: list[Any] = [*self._where(options.max_width)]
        curves = self._curves(options)
        if curves is not None:
            parts.append(curves)
        rows = console.size.height - 1 - len(parts) - (curves.row_count if curves is not None else 0)
        last = next((line for line in reversed(self._history) if line.confusion is not None), None)
        if last is not None and last.confusion is not None:
            when = f"validation, {last.stage} epoch {last.epoch}"
            parts += confusion_lines(last.confusion, self._labels, when, options.max_width, rows)
        yield Group(*parts)

    def _where(self, width: int) -> Iterator[Any]:
        step = self._pace.step
        if self._work is not None:
            what, done, total = self._work
            yield _bar(what, done, total, width)
        elif step is not None:
            yield _bar(f"{step.stage}, epoch {step.epoch} of {step.epochs}", step.step, step.steps, width)
            yield Text(self._pace.text(), no_wrap=True, overflow="ellipsis")

    def _curves(self, options: ConsoleOptions) -> Table | None:
        """Losses and accuracy of the last epochs, the best epoch's marked."""
        lines = self._history[-_EPOCHS_SHOWN:]
        if not lines:
            return None
        best = min(
            (line for line in self._history if line.validation_loss is not None),
            key=lambda line: line.validation_loss or 0.0,
            default=None,
        )
        wide = options.max_width >= _WIDE
        table = Table.grid(padding=(0, 2, 0, 0))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        rows: dict[str, list[float | None]] = {
            "loss": [line.loss for line in lines],
            "validation loss" if wide else "validation": [line.validation_loss for line in lines],
            "class-balanced accuracy" if wide else "accuracy": [
                line.validation_balanced_accuracy for line in lines
            ],
        }
        marked = next((at for at, line in enumerate(lines) if line is best), None)
        for name, values in rows.items():
            if values[-1] is not None:
                drawn = _sparkline(values) if wide and not options.ascii_only else Text()
                table.add_row(Text(name), Text(f"{values[-1]:.4f}"), drawn)
        if best is not None and best.validation_loss is not None:
            name = "lowest validation loss" if wide else "lowest"
            where = f"{best.stage} epoch {best.epoch}" if wide else f"epoch {best.epoch}"
            if wide and not options.ascii_only and marked is not None:
                where = f"{' ' * marked}▲ {where}"
            table.add_row(Text(name), Text(f"{best.validation_loss:.4f}"), Text(where))
        return table


def _bar(name: str, done: int, total: int, width: int) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(max_width=max(12, width - 22), no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=total, completed=done, width=max(6, min(40, width - len(name) - 16)))
    table.add_row(Text(name, style="bold"), bar, Text(f"{done}/{total}"))
    return table


def _sparkline(values: Sequence[float | None]) -> Text:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    drawn = ""
    for value in values:
        level = 0.5 if high == low or value is None else (value - low) / (high - low)
        drawn += " " if value is None else _BARS[round(level * (len(_BARS) - 1))]
    return Text(drawn)


def confusion_lines(
    confusion: tuple[tuple[int, ...], ...], labels: tuple[str, ...], when: str, width: int, height: int
) -> list[Any]:
    """A confusion as a table where it fits, else its largest mistakes as a list; the first line says which."""
    digits = max(len(str(count)) for row in confusion for count in row)
    cell = max(digits, len(str(len(labels)))) + 1
    room = width - len(labels) * cell
    if room < _NAME[0] or len(labels) + 2 > height:
        heading = Text(f"largest mistakes ({when})", style="dim", no_wrap=True, overflow="ellipsis")
        return [heading, *_mistakes(confusion, labels, width, max(1, height - 1))]
    right = _RIGHT if room >= _NAME[0] + _RIGHT else 0
    longest = max(Text(label).cell_len for label in labels) + 3
    name_width = min(longest, room - right, _NAME[1])
    head = Text(" " * name_width + "right".rjust(_RIGHT - 2).ljust(_RIGHT)[:right])
    for column in range(len(labels)):
        head.append(str(column + 1).rjust(cell))
    title = f"row: what it is, column: answer ({when})"
    lines = [Text(title, style="dim", no_wrap=True, overflow="ellipsis"), head]
    for index, (label, counts) in enumerate(zip(labels, confusion, strict=True)):
        line = Text(f"{index + 1:>{len(str(len(labels)))}} {label}", no_wrap=True)
        line.truncate(name_width, overflow="ellipsis", pad=True)
        share = f"{counts[index] / sum(counts):.0%}" if sum(counts) else "-"
        line.append(share.rjust(_RIGHT - 2).ljust(_RIGHT)[:right])
        lines.append(_cells(line, counts, index, cell))
    return lines


def _cells(line: Text, counts: tuple[int, ...], own: int, width: int) -> Text:
    """Append the counts of a row; right answers are bold, so that they are seen without colour."""
    for column, count in enumerate(counts):
        share = count / max(1, sum(counts))
        red, green, blue = shade(share)
        style = f"{'black' if share > 0.5 else 'white'} on rgb({red},{green},{blue})" if count else "dim"
        line.append((str(count) if count else "·").rjust(width), f"bold {style}" if column == own else style)
    return line


def _mistakes(
    confusion: tuple[tuple[int, ...], ...], labels: tuple[str, ...], width: int, height: int
) -> list[Any]:
    """The largest mistakes, one a line."""
    found = [
        (count, is_label, answered)
        for is_label, row in zip(labels, confusion, strict=True)
        for answered, count in zip(labels, row, strict=True)
        if count and answered != is_label
    ]
    lines = []
    for count, is_label, answered in sorted(found, key=lambda one: -one[0])[:height]:
        line = Text(f"{count} x {is_label} answered as {answered}", no_wrap=True)
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    return lines or [Text("no mistake")]


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
