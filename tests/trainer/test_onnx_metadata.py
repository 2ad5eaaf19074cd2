"""An ONNX file says itself what it needs and what it gives; what others wrote into it stays."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from bundles import LABELS, tiny_bundle, tiny_manifest, tiny_model
from pydantic import BaseModel

from edge_agent import __version__
from edge_agent.model_bundle import (
    Guards,
    Manifest,
    Tensor,
    Thresholds,
    TrainingRanges,
    open_bundle,
    tensor_names,
)
from edge_agent.onnx_gate import OnnxRefused, gate_model
from edge_agent.preprocessing import Preprocessing, TilePlan
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.onnx_metadata import read, stamped

if TYPE_CHECKING:
    from pathlib import Path


def metadata(model: bytes) -> dict[str, str]:
    """As ONNX Runtime tells it."""
    return dict(onnx_session(model).get_modelmeta().custom_metadata_map)


def with_metadata(model: bytes, entries: dict[str, str]) -> bytes:
    graph = onnx.load_model_from_string(model)
    onnx.helper.set_model_props(graph, entries)
    return bytes(graph.SerializeToString())


def manifest_of(**changes: Any) -> Manifest:
    return Manifest.model_validate({**tiny_manifest().model_dump(by_alias=True), **changes})


FACTS = [
    pytest.param("labels", lambda facts: facts == list(LABELS), id="labels"),
    pytest.param("scopewatch.name", lambda name: name == "tiny", id="name"),
    pytest.param("scopewatch.version", lambda version: version == "1", id="version"),
    pytest.param("scopewatch.licence", lambda licence: licence == "GPL-3.0-or-later", id="licence"),
    pytest.param("scopewatch.intended_use", lambda use: use == "tests", id="intended use"),
    pytest.param("scopewatch.made_with", lambda made: made == {"scopewatch": __version__}, id="made with"),
    pytest.param("scopewatch.cam", lambda cam: cam["method"] == "cam", id="method of the map"),
    pytest.param(
        "scopewatch.input",
        lambda put: {
            "name": "micrograph", "input_px": 64, "proportions": "specimen", "clipped_fraction": 0.0002,
            "value_range": [-1.0, 1.0], "divisions": 1, "views": ["identity"], "longest_px": 2048,
        }.items() <= put.items(),
        id="input in numbers",
    ),
    pytest.param(
        "scopewatch.input",
        lambda put: set(put["in_words"]) == {"contrast", "size", "values", "boxes"}
        and "[n, 1, rows, columns]" in put["layout"],
        id="input in words",
    ),
    pytest.param(
        "scopewatch.outputs",
        lambda outputs: {role: one["name"] for role, one in outputs.items()}
        == {"probabilities": "probabilities", "cam": "cam"}
        and outputs["cam"]["meaning"].endswith("of every label, in the order of labels"),
        id="outputs",
    ),
    pytest.param(
        "scopewatch.decision",
        lambda told: told["thresholds"] is None
        and told["in_words"] == "no thresholds: every answer stands, however unsure"
        and told["temperature"] == 1.0,
        id="no thresholds",
    ),
]  # fmt: skip


def test_all_that_a_decision_hangs_on_is_told_and_changes_the_file() -> None:
    limits = Thresholds(confidence=0.6, novelty=1.1, confidence_usual=0.9, novelty_usual=0.4)
    plain = manifest_of()
    changes: dict[str, Any] = {
        "thresholds": limits,
        "temperature": 1.7,
        "guards": Guards(most_streaks=2.5),
        "training_ranges": TrainingRanges(voltage_kv=(80, 200), detector=("HAADF",)),
        "saturated_fraction": 0.02,
    }
    told = read(stamped(tiny_model(), plain.model_copy(update=changes)))["scopewatch.decision"]
    assert {name: told[name] for name in changes} == {
        name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        for name, value in changes.items()
    }
    assert told["in_words"].startswith("an answer counts when it uses up no more than one limit in all")
    files = {stamped(tiny_model(), plain.model_copy(update={name: changes[name]})) for name in changes}
    assert len(files | {stamped(tiny_model(), plain)}) == len(changes) + 1


def test_what_novelty_means_is_told_where_the_graph_gives_it() -> None:
    tensors = tiny_manifest().tensors.model_copy(update={"novelty": Tensor(name="novelty", shape=(None,))})
    known = read(stamped(tiny_model(), tiny_manifest().model_copy(update={"tensors": tensors})))
    assert known["scopewatch.outputs"]["novelty"] == {
        "name": "novelty",
        "shape": [None],
        "meaning": "how unlike the training micrographs the input is, from its feature map; 1 is exceeded by about "
        "one in twenty good micrographs",
    }
    assert "novelty" not in read(stamped(tiny_model(), tiny_manifest()))["scopewatch.outputs"]


@pytest.mark.parametrize(("key", "holds"), FACTS)
def test_it_says(key: str, holds: Any) -> None:
    model = stamped(tiny_model(), tiny_manifest())
    assert holds(json.loads(metadata(model)[key]))
    assert holds(read(model)[key])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"preprocessing": Preprocessing(input_px=150, proportions="square", value_range=(0, 1))},
            {"input": {"proportions": "square", "input_px": 150, "value_range": [0.0, 1.0]}},
            id="stretched",
        ),
        pytest.param(
            {"preprocessing": Preprocessing(tiles=TilePlan(divisions=2), views=("identity", "flip_x"))},
            {"input": {"divisions": 2, "views": ["identity", "flip_x"]}},
            id="boxes and views",
        ),
        pytest.param(
            {
                "tensors": tiny_manifest().tensors.model_copy(
                    update={
                        "cam": Tensor(name="cam", shape=(None, 1, None, None)),
                        "cam_every_class": Tensor(name="maps", shape=(None, 3, None, None)),
                    }
                )
            },
            {"outputs": {"cam": {"shape": [None, 1, None, None]}, "cam_every_class": {"name": "maps"}}},
            id="the winner's map apart",
        ),
        pytest.param(
            {"licence": "CC-BY-4.0 für alle 🔬"}, {"licence": "CC-BY-4.0 für alle 🔬"}, id="any letters"
        ),
    ],
)
def test_it_follows_the_manifest(changes: dict[str, Any], said: dict[str, Any]) -> None:
    facts = read(stamped(tiny_model(), manifest_of(**changes)))

    def within(small: Any, large: Any) -> bool:
        if isinstance(small, dict):
            return all(key in large and within(value, large[key]) for key, value in small.items())
        return bool(small == large)

    assert within({f"scopewatch.{key}": value for key, value in said.items()}, facts)


def test_a_bundle_without_a_map_promises_none() -> None:
    tensors = tiny_manifest().tensors.model_copy(update={"cam": None})
    manifest = manifest_of(tensors=tensors, cam={"method": "occlusion"})
    facts = read(stamped(tiny_model(), manifest))
    assert list(facts["scopewatch.outputs"]) == ["probabilities"]
    assert facts["scopewatch.cam"]["method"] == "occlusion"


def test_the_words_of_the_size_are_those_of_the_proportions() -> None:
    words = {
        proportions: read(
            stamped(tiny_model(), manifest_of(preprocessing=Preprocessing(proportions=proportions)))
        )["scopewatch.input"]["in_words"]["size"]
        for proportions in ("specimen", "square")
    }
    assert "with the proportions of the micrograph" in words["specimen"]
    assert "exactly input_px x input_px, stretched" in words["square"]


def test_the_network_is_the_same_and_the_file_is_sound() -> None:
    before = onnx.load_model_from_string(tiny_model())
    after = onnx.load_model_from_string(stamped(tiny_model(), tiny_manifest()))
    onnx.checker.check_model(after, full_check=True)
    assert after.graph == before.graph
    del after.metadata_props[:]
    assert after == before
    gate_model(stamped(tiny_model(), tiny_manifest()), tensor_names(tiny_manifest().tensors))


def test_a_second_stamp_takes_the_place_of_the_first() -> None:
    once = stamped(tiny_model(), tiny_manifest())
    later = manifest_of(version="2.1", labels=("a", "b", "c"))
    twice = stamped(once, later)
    assert twice == stamped(tiny_model(), later)
    assert read(twice)["scopewatch.version"] == "2.1"
    assert read(twice)["labels"] == ["a", "b", "c"]
    keys = [entry.key for entry in onnx.load_model_from_string(twice).metadata_props]
    assert len(keys) == len(set(keys))


def test_what_others_wrote_stays() -> None:
    foreign = {"converter": "tf2onnx", "author": "äöü", "labels": "not ours: one, two", "scopewatch.old": "1"}
    after = metadata(stamped(with_metadata(tiny_model(), foreign), tiny_manifest()))
    assert after["converter"] == "tf2onnx"
    assert after["author"] == "äöü"
    assert json.loads(after["labels"]) == list(LABELS)
    assert "scopewatch.old" not in after


def test_a_file_that_was_never_stamped_says_nothing() -> None:
    assert read(with_metadata(tiny_model(), {"author": "somebody"})) == {}


@pytest.mark.parametrize("model", [b"no model", tiny_model()[:-7]], ids=["text", "cut off"])
def test_what_is_no_model_is_refused(model: bytes) -> None:
    with pytest.raises(OnnxRefused, match="not an ONNX model"):
        stamped(model, tiny_manifest())


def test_every_bundle_has_it_and_answers_as_before(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1"))
    assert read(bundle.model_bytes)["scopewatch.name"] == "tiny"
    inputs = {"micrograph": np.random.default_rng(0).uniform(-1, 1, (1, 1, 48, 80)).astype(np.float32)}
    for before, after in zip(
        onnx_session(tiny_model()).run(None, inputs),
        onnx_session(bundle.model_bytes).run(None, inputs),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
