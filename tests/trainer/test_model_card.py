"""The model card says what a person must know before trusting the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.model_bundle import open_bundle
from trainer.exporting.model_card import model_card
from trainer.fitting.run_folder import read_record

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet


@pytest.fixture
def card(shared_bundle: Path, shared_run: Path, dataset: DataSet) -> str:
    notes = "## Limits\n\nToys only.\n\n"
    return model_card(open_bundle(shared_bundle).manifest, [read_record(shared_run)], dataset, notes)


@pytest.mark.parametrize(
    "text",
    [
        "# toy 1\n",
        "Labels: disc, stripes. Licence: GPL-3.0-or-later.",
        "Not validated for anything else.",
        "## Limits\n\nToys only.\n",
        "| class | train | validation | test |\n|---|---|---|---|\n| disc | 8 | 4 | 4 |\n| stripes | 8 | 4 | 4 |",
        "32 crops in 32 groups; no group is in two parts.",
        "parameters), started from random initialisation; the head alone for 1 epoch, then with all layers after "
        "lower for 2 epochs at most (kept: lowest validation loss), 2 augmented views of each "
        "crop, seed 3. ONNX opset 17.",
        "the area of 64 x 64 px; views averaged: identity.",
        "ONNX Runtime against Keras on 32 real crops:",
        "on micrographs it has not seen stands in `evaluation.json`.",
    ],
)
def test_it_says(card: str, text: str) -> None:
    assert text in card


def test_it_names_the_data_set(card: str, dataset: DataSet) -> None:
    assert f"`{dataset.fingerprint}`" in card


def test_without_notes_there_is_no_gap(shared_bundle: Path, shared_run: Path, dataset: DataSet) -> None:
    text = model_card(open_bundle(shared_bundle).manifest, [read_record(shared_run)], dataset, " \n")
    assert "\n\n\n" not in text
    assert text.endswith(
        "How each epoch went stands in `training.json`; how well it does on micrographs it has not "
        "seen stands in `evaluation.json`.\n"
    )
