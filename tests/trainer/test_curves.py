"""The picture of a run's losses and accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from trainer.fitting.curves import draw_curves
from trainer.fitting.run_folder import Epoch

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([], id="nothing yet"),
        pytest.param([Epoch("head", 1, 0.5, None, None)], id="an old run without validation"),
        pytest.param(
            [
                Epoch("head", 1, 1.0, 0.9, 0.5, training_accuracy=0.4),
                Epoch("fine-tuning", 1, 0.5, 0.4, 0.75, training_accuracy=0.8),
            ],
            id="two stages",
        ),
    ],
)
def test_curves_are_a_picture_to_print(tmp_path: Path, history: list[Epoch]) -> None:
    with Image.open(draw_curves(tmp_path, history)) as picture:
        assert (picture.format, picture.size) == ("PNG", (960, 900))
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert ((0, 0x72, 0xB2) in colours) == bool(history)
    assert ((0xD5, 0x5E, 0) in colours) == any(line.validation_loss for line in history)
