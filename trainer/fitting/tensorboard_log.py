"""The history of a run as TensorBoard shows it: scalars, and the confusion as a picture, in `tensorboard/`.

The log says nothing that the history does not, so each session writes it anew from the history: a resumed run has
every point once. Events are written as TensorFlow's own records; the package `tensorboard` is needed only by those
who want to look at them.
"""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any, Final

from PIL import Image, ImageDraw

from edge_agent.lettering import Lettering

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from trainer.fitting.run_folder import Epoch

FOLDER: Final = "tensorboard"
_CELL_PX: Final = 44
_LETTERS_PX: Final = 14
_MARGIN_PX: Final = 150
_DARK: Final = (0, 32, 77)
_BRIGHT: Final = (255, 234, 70)
"""Ends of cividis, which the colour-blind and a grey print can tell apart."""


class TensorBoardLog:
    """Writes epochs to a file that TensorBoard can read while it grows."""

    def __init__(self, run: Path, labels: tuple[str, ...], history: Iterable[Epoch]) -> None:
        import tensorflow as tf

        folder = run / FOLDER
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        before = list(history)
        at = time.time() - sum(line.seconds or 0.0 for line in before)
        self._labels, self._step = labels, 0
        self._writer = tf.io.TFRecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.scopewatch"))
        self._write(tf.compat.v1.Event(wall_time=at, file_version="brain.Event:2"))
        for line in before:
            at += line.seconds or 0.0
            self._add(line, at)

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, line: Epoch) -> None:
        """Append an epoch that has just ended."""
        self._add(line, time.time())

    def _add(self, line: Epoch, at: float) -> None:
        import tensorflow as tf

        self._step += 1
        summary = tf.compat.v1.Summary(
            value=[tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(line)]
        )
        if line.confusion is not None:
            picture = confusion_png(line.confusion, self._labels)
            with Image.open(io.BytesIO(picture)) as opened:
                width, height = opened.size
            image = tf.compat.v1.Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=picture
            )
            summary.value.add(tag="confusion", image=image)
        self._write(tf.compat.v1.Event(wall_time=at, step=self._step, summary=summary))
        self._writer.flush()

    def _write(self, event: Any) -> None:  # noqa: ANN401
        self._writer.write(event.SerializeToString())


def _scalars(line: Epoch) -> Iterator[tuple[str, float]]:
    named = {
        "loss/training": line.loss,
        "loss/validation": line.validation_loss,
        "accuracy/training": line.training_accuracy,
        "accuracy/validation, class-balanced": line.validation_balanced_accuracy,
        "learning rate": line.learning_rate,
        "speed/steps per second": line.steps_per_second,
        "speed/share of waiting for input": line.input_wait_share,
    }
    return ((tag, value) for tag, value in named.items() if value is not None)


def confusion_png(confusion: tuple[tuple[int, ...], ...], labels: tuple[str, ...]) -> bytes:
    """Draw a confusion: a row for each class as it is, a column as it was answered, counts in the cells."""
    count = len(labels)
    size = _MARGIN_PX + count * _CELL_PX
    picture = Image.new("RGB", (size, _CELL_PX + count * _CELL_PX), "white")
    draw = ImageDraw.Draw(picture)
    letters, ink = Lettering(draw), (0, 0, 0)
    letters.write((8, _CELL_PX // 2), "is / answered", _LETTERS_PX, ink)
    for row, (label, counts) in enumerate(zip(labels, confusion, strict=True)):
        top, heading = (row + 1) * _CELL_PX, _MARGIN_PX + row * _CELL_PX + _CELL_PX // 2
        letters.write((heading, _CELL_PX // 2), str(row + 1), _LETTERS_PX, ink, anchor="mm")
        place = (8, top + _CELL_PX // 2)
        letters.write(place, f"{row + 1} {label}", _LETTERS_PX, ink, room=_MARGIN_PX - 16)
        for column, number in enumerate(counts):
            share, left = number / max(1, sum(counts)), _MARGIN_PX + column * _CELL_PX
            draw.rectangle((left, top, left + _CELL_PX - 2, top + _CELL_PX - 2), shade(share))
            middle = (left + _CELL_PX // 2, top + _CELL_PX // 2)
            light = (0, 0, 0) if share > 0.5 else (255, 255, 255)
            letters.write(middle, str(number), _LETTERS_PX, light, anchor="mm")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def shade(share: float) -> tuple[int, int, int]:
    """Red, green and blue of a share between 0 (dark) and 1 (bright)."""
    red, green, blue = (
        round(dark + share * (bright - dark)) for dark, bright in zip(_DARK, _BRIGHT, strict=True)
    )
    return red, green, blue
