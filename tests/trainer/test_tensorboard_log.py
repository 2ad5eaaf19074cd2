"""The TensorBoard log: what the history says, each point once, readable by TensorFlow's own reader."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import tensorflow as tf
from PIL import Image

from trainer.fitting.run_folder import Epoch
from trainer.fitting.tensorboard_log import TensorBoardLog, confusion_png

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("Å particles of a very long name indeed", "石墨烯")
LINES = [
    Epoch("head", 1, 1.0, 0.9, 0.5, 1e-3, 0.4, ((3, 1), (0, 4)), 2.0, 5.0, 0.01),
    Epoch("fine-tuning", 1, 0.5, 0.4, 0.75, 1e-4, 0.8, ((4, 0), (0, 4)), 3.0, 6.0, 0.02),
    Epoch("fine-tuning", 2, 0.25, None, None),
]


def events(run: Path) -> list[tf.compat.v1.Event]:
    (file,) = (run / "tensorboard").iterdir()
    return list(tf.compat.v1.train.summary_iterator(str(file)))


def points(run: Path) -> dict[str, list[tuple[int, float]]]:
    seen: dict[str, list[tuple[int, float]]] = {}
    for event in events(run):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                seen.setdefault(value.tag, []).append((event.step, round(value.simple_value, 6)))
    return seen


def test_scalars_stand_at_the_epoch_counted_over_all_stages(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path, LABELS, []) as log:
        for line in LINES:
            log.add(line)
    seen = points(tmp_path)
    assert seen["loss/training"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert seen["accuracy/validation, class-balanced"] == [(1, 0.5), (2, 0.75)]
    assert seen["learning rate"] == [(1, 0.001), (2, 0.0001)]
    assert events(tmp_path)[0].file_version == "brain.Event:2"


def test_a_resumed_run_has_every_point_once(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path, LABELS, []) as log:
        log.add(LINES[0])
        log.add(LINES[1])  # killed before its checkpoint: done again
    with TensorBoardLog(tmp_path, LABELS, LINES[:1]) as log:
        log.add(LINES[1])
        log.add(LINES[2])
    assert points(tmp_path)["loss/training"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    times = [event.wall_time for event in events(tmp_path)]
    assert times == sorted(times)


def test_the_confusion_is_a_picture(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path, LABELS, LINES):
        pass
    images = [
        (event.step, value.image)
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tag == "confusion"
    ]
    assert [step for step, _ in images] == [1, 2]
    with Image.open(io.BytesIO(images[0][1].encoded_image_string)) as picture:
        assert picture.size == (images[0][1].width, images[0][1].height)
    assert confusion_png(((0, 0), (0, 0)), LABELS).startswith(b"\x89PNG")
