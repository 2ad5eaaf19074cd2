"""The model card says what a person must know before trusting the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from bundles import tiny_manifest

from edge_agent.model_bundle import open_bundle
from trainer.exporting.front_matter import with_front_matter, without_front_matter
from trainer.exporting.model_card import model_card
from trainer.fitting.run_folder import read_record
from trainer.scoring.figures import Scored, figures

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


# --- the block on top -------------------------------------------------------------------------------


def block(card: str) -> dict[str, Any]:
    before, yaml_text, rest = card.split("---\n", 2)
    assert before == ""
    assert rest.startswith("\n#")
    return dict(yaml.safe_load(yaml_text))


def test_the_card_begins_with_what_the_hub_reads(card: str, dataset: DataSet) -> None:
    facts = block(card)
    assert facts["license"] == "gpl-3.0"
    assert facts["library_name"] == "onnx"
    assert facts["pipeline_tag"] == "image-classification"
    assert {"onnx", "electron-microscopy", "class-activation-map"} <= set(facts["tags"])
    assert facts["datasets"] == [f"scopewatch-{dataset.fingerprint[:12]}"]
    assert facts["metrics"] == ["accuracy", "balanced_accuracy", "f1"]
    assert "model-index" not in facts, "nothing was measured yet"


@pytest.mark.parametrize(
    ("licence", "stated"),
    [
        ("MIT", {"license": "mit"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-only", {"license": "gpl-3.0"}),
        ("not stated", {"license": "other", "license_name": "not stated"}),
        ("Hausrecht: 'nur' \"wir\" #1", {"license": "other", "license_name": "Hausrecht: 'nur' \"wir\" #1"}),
    ],
)
def test_the_hub_is_told_a_licence_it_knows_or_other(licence: str, stated: dict[str, str]) -> None:
    facts = block(with_front_matter("# tiny\n", tiny_manifest().model_copy(update={"licence": licence})))
    assert {key: value for key, value in facts.items() if key.startswith("license")} == stated


@pytest.mark.parametrize(
    "labels", [("yes", "no", "null"), ("a: b", "- c", "#d"), ("Ångström 🔬", "it's", '"q"')]
)
def test_figures_become_a_model_index_whatever_the_classes_are_called(labels: tuple[str, ...]) -> None:
    scored = tuple(
        Scored(file=f"{index}.png", group=str(index), label=label, predicted=labels[0], probability=0.9,
               decision="ungated", probabilities=dict.fromkeys(labels, 0.3))
        for index, label in enumerate(labels * 2)
    )  # fmt: skip
    found = figures(scored, labels, 0)
    facts = block(with_front_matter("# tiny\n", tiny_manifest(labels), found, "validation"))
    (model,) = facts["model-index"]
    (result,) = model["results"]
    assert model["name"] == "tiny 1"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {
        "type": "unknown",
        "name": "6 micrographs in 6 groups",
        "split": "validation",
    }
    values = {one["type"]: one["value"] for one in result["metrics"]}
    assert values == pytest.approx({"accuracy": 1 / 3, "balanced_accuracy": 1 / 3, "f1": 1 / 6}, abs=1e-4)


def test_a_second_block_takes_the_place_of_the_first() -> None:
    text = "# tiny\n\n---\n\nafter a line\n"
    once = with_front_matter(text, tiny_manifest())
    assert with_front_matter(once, tiny_manifest()) == once
    assert without_front_matter(once) == text
    assert without_front_matter(text) == text
