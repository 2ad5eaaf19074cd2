"""The package passes bioimage.io's own validation, and its test tensors are what its description makes of them."""

from __future__ import annotations

import gc
import io
import warnings
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from bundles import LABELS, Form, tiny_bundle
from limits_by_hand import with_limits
from PIL import Image

from edge_agent.model_bundle import Bundle, open_bundle
from edge_agent.preprocessing import Preprocessing
from trainer.exporting.bioimageio import Credits, citations, write_package
from trainer.exporting.bioimageio_tensors import PackageError
from trainer.exporting.bundle_writer import add_file, onnx_session
from trainer.exporting.publish import PublishError, publish_package
from trainer.scoring.evaluation import evaluate
from trainer.scoring.figures import Figures, Scored, figures

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet

CREDITS = Credits(("A. Person", "B/C Person"), (("The data", "10.1021/acs.jcim.0c01455"),))


def some_figures() -> Figures:
    scored = tuple(
        Scored(file=f"{index}.png", group=str(index), label=label, predicted=label, probability=0.9,
               decision="ungated", probabilities=dict.fromkeys(LABELS, 0.3))
        for index, label in enumerate(LABELS)
    )  # fmt: skip
    return figures(scored, LABELS, 0)


def packed(bundle: Bundle, file: Path) -> Path:
    return write_package(bundle, some_figures(), "validation", file, CREDITS)


def contents(file: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    with zipfile.ZipFile(file) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    return yaml.safe_load(files.pop("bioimageio.yaml")), files


def faults(file: Path) -> list[str]:
    """What bioimage.io's validation says against a package; nothing is fetched from the network."""
    from bioimageio.spec import InvalidDescr, ValidationContext, load_description

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # theirs: the ZIP is closed when it is collected
        with ValidationContext(perform_io_checks=True):
            found = load_description(file)
        summary, is_invalid = found.validation_summary, isinstance(found, InvalidDescr)
        del found
        gc.collect()
    assert is_invalid == (summary.status == "failed")
    return [f"{error.loc}: {error.msg}" for part in summary.details for error in part.errors]


FORMS: dict[Form, dict[str, list[int | None]]] = {
    "every class": {"probabilities": [3], "cam": [3, None, None]},
    "winner": {"probabilities": [3], "cam": [1, None, None], "cam_every_class": [3, None, None]},
    "winner, one size": {"probabilities": [3], "cam": [1, 8, 8], "cam_every_class": [3, 8, 8]},
    "no map": {"probabilities": [3]},
    "no map, one size": {"probabilities": [3]},
}


@pytest.mark.parametrize(("form", "outputs"), FORMS.items(), ids=FORMS)
def test_it_is_valid_in_each_form(tmp_path: Path, form: Form, outputs: dict[str, list[int | None]]) -> None:
    rule = Preprocessing(input_px=64, value_range=(-0.5, 1.0), clipped_fraction=0.01)
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1", form=form, preprocessing=rule))
    file = packed(bundle, tmp_path / "out" / "tiny.zip")
    assert faults(file) == []

    described, files = contents(file)
    (put,) = described["inputs"]
    sizes = [axis["size"] for axis in put["axes"] if axis["type"] == "space"]
    fixed = form.endswith("one size")
    least = 1 if form == "no map" else 8
    assert sizes == ([64, 64] if fixed else [{"min": 45 // least * least, "step": least}] * 2)
    assert put["axes"][0] == ({"type": "batch", "size": 1} if fixed else {"type": "batch"})
    assert [one["id"] for one in described["outputs"]] == list(outputs)
    session = onnx_session(files["model.onnx"])
    counts = np.load(io.BytesIO(files["test_input.npy"]))
    black, white = np.percentile(counts, (1.0, 99.0))
    grey = ((counts - black) / (white - black + 1e-6)).clip(0, 1) * 1.5 - 0.5
    answers = session.run(None, {"micrograph": grey.astype(np.float32)})
    for one, answer in zip(described["outputs"], answers, strict=True):
        np.testing.assert_allclose(
            np.load(io.BytesIO(files[one["test_tensor"]["source"]])), answer, rtol=1e-3, atol=1e-4
        )
        names = one["axes"][1]["channel_names"]
        assert len(names) == outputs[one["id"]][0] == answer.shape[1]
        cells = [axis["size"] for axis in one["axes"] if axis["type"] == "space"]
        assert cells == [
            size if fixed else {"tensor_id": "micrograph", "axis_id": axis, "offset": 0}
            for axis, size in zip("yx", outputs[one["id"]][1:], strict=False)
        ]


@pytest.mark.parametrize("form", ["winner", "no map, one size"])
def test_a_novelty_is_an_output_of_one_number(tmp_path: Path, form: Form) -> None:
    bundle = open_bundle(with_limits(tiny_bundle(tmp_path / "tiny-1", form=form), tmp_path / "limited-1"))
    file = packed(bundle, tmp_path / "tiny.zip")
    assert faults(file) == []

    described, files = contents(file)
    (novelty,) = (one for one in described["outputs"] if one["id"] == "novelty")
    assert [axis["type"] for axis in novelty["axes"]] == ["batch"]
    assert novelty["data"] == {"type": "float32", "range": [0.0, None]}
    assert [one["id"] for one in described["outputs"]] == [*FORMS[form], "novelty"]
    (value,) = np.load(io.BytesIO(files["test_novelty.npy"]))
    assert value > 0
    assert "`novelty` says how unlike the training micrographs" in files["README.md"].decode()


def test_validation_would_notice_another_model(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1"))
    file = packed(bundle, tmp_path / "tiny.zip")
    described, files = contents(file)
    files["test_cam.npy"] = files["test_probabilities.npy"]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, data in {**files, "bioimageio.yaml": yaml.safe_dump(described).encode()}.items():
            archive.writestr(name, data)
    assert any(
        "test_cam.npy" in fault or "sha256" in fault.lower() for fault in faults(tmp_path / "other.zip")
    )


def test_it_says_whose_it_is_and_what_it_does(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "tiny-1")
    add_file(folder, "MODEL_CARD.md", b"---\nlicense: mit\n---\n\n# tiny 1\n\nCares about toys.\n")
    add_file(folder, "THIRD_PARTY.md", b"ImageNet weights\n")
    described, files = contents(packed(open_bundle(folder), tmp_path / "tiny.zip"))
    assert described["name"] == "tiny (scopewatch)"
    assert described["license"] == "GPL-3.0-or-later"
    assert described["version"] == "1"
    assert [author["name"] for author in described["authors"]] == ["A. Person", "B-C Person"]
    assert [entry["doi"] for entry in described["cite"]] == [
        "10.1109/CVPR.2016.319",
        "10.1021/acs.jcim.0c01455",
    ]
    assert {"2d", "electron-microscopy", "image-classification"} <= set(described["tags"])
    assert described["weights"]["onnx"]["opset_version"] == 17
    assert described["description"] == "Classes: faceted, rod, round. tests"
    assert [one["source"] for one in described["attachments"]] == ["manifest.json", "THIRD_PARTY.md"]
    text = files["README.md"].decode()
    assert text.startswith("# tiny 1\n\nCares about toys.\n\n## Feeding it\n\n")
    assert "\n## Validation\n\nOn 3 micrographs in 3 groups (part `validation`" in text


def test_the_cover_shows_a_micrograph_beside_its_map(tmp_path: Path) -> None:
    _, files = contents(packed(open_bundle(tiny_bundle(tmp_path / "tiny-1")), tmp_path / "tiny.zip"))
    assert len(files["cover.jpg"]) < 500_000
    with Image.open(io.BytesIO(files["cover.jpg"])) as cover:
        pixels = np.asarray(cover).astype(int)
    assert pixels.shape == (480, 960, 3)
    spread = np.ptp(pixels, axis=2).mean(axis=0)
    assert spread[480:].mean() > 2 * spread[:480].mean(), "the map is in colour, on the right"


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        pytest.param({"licence": "not stated"}, "license", id="a licence that SPDX does not know"),
        pytest.param({"version": "1-optimised"}, "version", id="a version that packaging does not know"),
    ],
)
def test_what_the_format_has_no_word_for_is_left_out(
    tmp_path: Path, changes: dict[str, str], absent: str
) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1"))
    other = replace(bundle, manifest=bundle.manifest.model_copy(update=changes))
    file = packed(other, tmp_path / "tiny.zip")
    assert absent not in contents(file)[0]
    assert faults(file) == []


def test_two_packages_of_one_bundle_are_the_same(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1"))
    one, two = (packed(bundle, tmp_path / name) for name in ("one.zip", "two.zip"))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("A | 10.1109/CVPR.2016.319", (("A", "10.1109/CVPR.2016.319"),)),
        (" A | B | 10.1000/x ; C | 10.1000/y;", (("A | B", "10.1000/x"), ("C", "10.1000/y"))),
    ],
)
def test_citations_are_taken_apart(text: str, found: tuple[tuple[str, str], ...]) -> None:
    assert citations(text) == found


@pytest.mark.parametrize("text", ["A paper", "A | doi.org", "| 10.1000/x", "A | https://doi.org/10.1000/x"])
def test_a_citation_without_a_doi_is_refused(text: str) -> None:
    with pytest.raises(PackageError, match=r"wants TEXT \| DOI, with a DOI such as 10\.1109/CVPR\.2016\.319"):
        citations(text)


# --- refusals ---------------------------------------------------------------------------------------


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").write_text("mine")
    with pytest.raises(FileExistsError, match=r"tiny\.zip exists; choose another file or remove it first"):
        packed(open_bundle(tiny_bundle(tmp_path / "tiny-1")), tmp_path / "tiny.zip")
    assert (tmp_path / "tiny.zip").read_text() == "mine"


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"a package is one ZIP file; end its name in \.zip"):
        packed(open_bundle(tiny_bundle(tmp_path / "tiny-1")), tmp_path / "tiny.tar")


def test_answers_that_other_processors_round_otherwise_are_refused(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1"))
    golden = bundle.manifest.golden.model_copy(update={"tolerance": 0.8})
    rounded = replace(bundle, manifest=bundle.manifest.model_copy(update={"golden": golden}))
    with pytest.raises(PackageError, match=r"by up to 8\.0e-01; bioimage\.io allows no such tolerance"):
        packed(rounded, tmp_path / "tiny.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-1"]


def test_an_output_that_nobody_describes_is_refused(tmp_path: Path) -> None:
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1", form="winner"))
    tensors = bundle.manifest.tensors.model_copy(update={"cam_every_class": None})
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"tensors": tensors}))
    with pytest.raises(PackageError, match="outputs that the manifest does not describe: cam_every_class"):
        packed(other, tmp_path / "tiny.zip")


# --- the command's function -------------------------------------------------------------------------


def test_only_an_evaluated_bundle_is_packed(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="not evaluated; run edge-trainer evaluate"):
        publish_package(bundle, tmp_path / "toy.zip", CREDITS)


def test_a_trained_bundle_becomes_a_valid_package(bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    evaluate(bundle, dataset, "test")
    file = publish_package(bundle, tmp_path / "toy.zip", Credits())
    assert faults(file) == []
    described, files = contents(file)
    assert described["authors"] == [{"name": "not stated"}]
    assert files["README.md"].startswith(b"# toy 1\n")
    assert b"novelty" not in files["README.md"]
    assert files["model.onnx"] == open_bundle(bundle).model_bytes
