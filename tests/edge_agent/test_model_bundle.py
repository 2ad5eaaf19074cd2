"""Which bundles may be used: every byte as the manifest says, every name plain, every refusal with its reason."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import tiny_bundle, tiny_manifest, tiny_model
from onnx import numpy_helper
from pydantic import ValidationError

from edge_agent import model_names
from edge_agent.model_bundle import (
    GOLDEN,
    MANIFEST,
    MODEL,
    BundleRefused,
    Candidate,
    Manifest,
    Optimisation,
    manifest_json,
    open_bundle,
    read_manifest,
    shipped_models,
    tensor_names,
)


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "tiny-1"))


@pytest.fixture
def ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Path) -> Any:
    """Makes the installation ship bundles with these folder names."""
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([root]))

    def ship(*names: str) -> Path:
        for name in names:
            shutil.copytree(tiny, root / name)
        return root

    return ship


def refusal(name_or_path: str | Path | None) -> str:
    with pytest.raises(BundleRefused) as refused:
        open_bundle(name_or_path)
    return str(refused.value)


def edit(folder: Path, change: Any) -> None:
    """Change the manifest's JSON."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and state its hash, as somebody who forges a bundle would."""
    (folder / name).write_bytes(data)
    edit(folder, lambda manifest: manifest["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def test_a_sound_bundle_opens(tiny: Path):
    bundle = open_bundle(tiny)

    assert bundle.path == tiny
    assert bundle.manifest.name == "tiny"
    assert bundle.model_bytes == (tiny / MODEL).read_bytes()
    assert bundle.sha256 == hashlib.sha256(bundle.model_bytes).hexdigest()
    assert open_bundle(str(tiny)) == bundle


# --- files ---


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_a_flipped_bit_anywhere_is_refused(folder: Path, name: str):
    data = (folder / name).read_bytes()
    for at in {0, 1, len(data) // 3, len(data) // 2, len(data) - 1}:
        (folder / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])

        seen = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        expected = hashlib.sha256(data).hexdigest()
        assert refusal(folder) == (
            f"{folder / name}: SHA-256 is {seen[:12]}..., the manifest says {expected[:12]}...; "
            "the file was changed or damaged: copy the bundle again"
        )


def test_every_byte_of_a_further_file_counts(folder: Path):
    put(folder, "MODEL_CARD.md", b"trained on")
    open_bundle(folder)
    for at in range(len(b"trained on")):
        data = bytearray(b"trained on")
        data[at] ^= 0x20
        (folder / "MODEL_CARD.md").write_bytes(data)
        assert "MODEL_CARD.md: SHA-256 is" in refusal(folder)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
@pytest.mark.parametrize("length", [0, 1, -1])
def test_a_file_cut_off_is_refused(folder: Path, name: str, length: int):
    (folder / name).write_bytes((folder / name).read_bytes()[:length])

    assert f"{name}: SHA-256 is" in refusal(folder)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_a_missing_file_is_named(folder: Path, name: str):
    (folder / name).unlink()

    assert refusal(folder) == (
        f"{folder / name}: named in the manifest, cannot be read (No such file or directory); "
        "copy the bundle again"
    )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path, make: Any):
    (folder / GOLDEN).unlink()
    make(folder / GOLDEN)

    assert refusal(folder) == f"{folder / GOLDEN}: named in the manifest, is not a file"


def test_a_file_too_large_to_be_one_of_a_bundle_is_not_read(folder: Path):
    with (folder / MODEL).open("r+b") as file:
        file.truncate((1 << 30) + 1)

    assert refusal(folder) == f"{folder / MODEL}: 1073741825 bytes, more than any bundle file may have"


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_a_file_without_a_hash_is_refused(folder: Path, name: str):
    edit(folder, lambda manifest: manifest["sha256"].pop(name))

    assert refusal(folder) == f"{folder / MANIFEST}: no SHA-256 of {name}; make the bundle again"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/hostname",
        "sub/file",
        "..",
        ".",
        "",
        "..\\secret",
        "C:secret",
        "model.onnx:stream",
        "a\0b",
    ],
)
def test_only_plain_names_lead_to_files(folder: Path, tmp_path: Path, name: str):
    (tmp_path / "secret").write_bytes(b"x")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_bytes(b"x")
    edit(folder, lambda manifest: manifest["sha256"].update({name: hashlib.sha256(b"x").hexdigest()}))

    assert refusal(folder) == f"{folder / MANIFEST}: {name!r} is not a plain file name"


def test_files_that_the_manifest_does_not_name_are_left_alone(folder: Path):
    (folder / "notes.txt").write_text("mine")

    assert open_bundle(folder).path == folder
    assert (folder / "notes.txt").read_text() == "mine"


# --- the model ---


def test_a_model_with_external_data_is_refused_however_well_hashed(folder: Path):
    model = onnx.load_from_string(tiny_model())
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(np.zeros(4, np.float32), weight.name))
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="golden.npz")
    put(folder, MODEL, model.SerializeToString())

    assert refusal(folder) == (
        f"{folder / MODEL}: a tensor keeps its values in another file (external data); "
        "use a bundle made by edge-trainer export"
    )


def test_a_model_without_the_manifests_tensors_is_refused(folder: Path):
    edit(folder, lambda manifest: manifest["tensors"]["cam"].update(name="heat"))

    assert refusal(folder) == (
        f"{folder / MODEL}: it has no output named heat (it has cam, probabilities); "
        "use a bundle made by edge-trainer export"
    )


def test_a_named_novelty_must_be_in_the_graph(folder: Path):
    facts = {"tensor": "map", "components": 4, "micrographs": 9, "true_acceptance": 0.95}

    def named(manifest: dict[str, Any]) -> None:
        manifest["tensors"].update(novelty={"name": "novelty", "shape": [None]})
        manifest.update(novelty=facts)

    edit(folder, named)

    assert "it has no output named novelty" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(
            lambda manifest: manifest["tensors"].update(novelty={"name": "novelty", "shape": [None]}),
            "tensors.novelty and novelty belong together",
            id="the output without its facts",
        ),
        pytest.param(
            lambda manifest: manifest.update(thresholds={"confidence": 0.5, "novelty": 1.0}),
            "thresholds.novelty needs tensors.novelty",
            id="a threshold for nothing",
        ),
    ],
)
def test_novelty_is_there_as_a_whole_or_not_at_all(folder: Path, change: Any, fault: str):
    edit(folder, change)

    assert fault in refusal(folder)


# --- the manifest ---


def set_to(*path: str, value: Any) -> Any:
    def change(manifest: dict[str, Any]) -> None:
        for part in path[:-1]:
            manifest = manifest[part]
        manifest[path[-1]] = value

    return change


UNFIT = {
    "newer schema": (
        set_to("schema", value="scopewatch.bundle/2"),
        "schema is 'scopewatch.bundle/2', this version reads 'scopewatch.bundle/1'; "
        "update scopewatch or export again",
    ),
    "unknown part": (
        set_to("colour", value=1),
        "colour: Extra inputs are not permitted; make the bundle again",
    ),
    "unknown part inside": (
        set_to("preprocessing", "padding", value=1),
        "preprocessing.padding: Extra inputs are not permitted; make the bundle again",
    ),
    "one label": (set_to("labels", value=["round"]), "labels: Tuple should have at least 2 items"),
    "label twice": (
        set_to("labels", value=["rod", "round", "rod"]),
        "labels: Value error, a label occurs twice",
    ),
    "empty label": (set_to("labels", value=["", "rod"]), "labels.0: String should have at least 1 character"),
    "label with an escape": (set_to("labels", value=["\x1b[2J", "rod"]), "labels.0: String should match"),
    "name that is a path": (set_to("name", value="../tiny"), "name: String should match pattern"),
    "name with a line break": (set_to("name", value="tiny\n"), "name: String should match pattern"),
    "version of words": (set_to("version", value="latest 1"), "version: String should match pattern"),
    "temperature 0": (set_to("temperature", value=0), "temperature: Input should be greater than 0"),
    "threshold above 1": (
        set_to("thresholds", value={"confidence": 1.5}),
        "thresholds.confidence: Input should be less than or equal to 1",
    ),
    "no tolerance that holds": (
        set_to("golden", "tolerance", value=float("inf")),
        "golden.tolerance: Input should be a finite number",
    ),
    "not a number": (
        set_to("preprocessing", "value_range", value=[float("nan"), 1]),
        "preprocessing.value_range.0: Input should be a finite number",
    ),
    "no member": (
        set_to("network", "members", value=0),
        "network.members: Input should be greater than or equal to 1",
    ),
    "a part that there is not": (
        set_to("network", "trained_parts", value=["holdout"]),
        "network.trained_parts.0: Input should be 'train', 'validation' or 'test'",
    ),
    "no views": (
        set_to("preprocessing", "views", value=[]),
        "preprocessing.views: Tuple should have at least 1",
    ),
}


@pytest.mark.parametrize(("change", "message"), UNFIT.values(), ids=UNFIT)
def test_an_unfit_manifest_is_refused_with_the_place(folder: Path, change: Any, message: str):
    edit(folder, change)

    told = refusal(folder)

    assert told.startswith(f"{folder / MANIFEST}: {message}")
    assert "\n" not in told


def test_a_newer_schema_is_told_even_among_other_changes(folder: Path):
    edit(folder, set_to("a new part", value={}))
    edit(folder, set_to("schema", value="scopewatch.bundle/9"))

    assert "schema is 'scopewatch.bundle/9'" in refusal(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the whole file: Invalid JSON: EOF while parsing"),
        (b"[]", "the whole file: Input should be an object"),
        (b'{"schema": "scopewatch.bundle/1"', "the whole file: Invalid JSON: EOF while parsing"),
        (b"\xff\xfe{}", "the whole file: Invalid JSON"),
        (b"[" * 100_000, "the whole file: Invalid JSON: recursion limit exceeded"),
    ],
    ids=["empty", "list", "cut off", "not utf-8", "deep"],
)
def test_a_damaged_manifest_is_refused(folder: Path, data: bytes, message: str):
    (folder / MANIFEST).write_bytes(data)

    assert refusal(folder).startswith(f"{folder / MANIFEST}: {message}")


@pytest.mark.parametrize("part", [name for name, of in Manifest.model_fields.items() if of.is_required()])
def test_no_required_part_may_be_missing(folder: Path, part: str):
    edit(folder, lambda manifest: manifest.pop(part))

    assert refusal(folder) == f"{folder / MANIFEST}: {part}: Field required; make the bundle again"


def test_a_manifest_survives_being_written(tmp_path: Path):
    manifest = tiny_manifest()
    (tmp_path / MANIFEST).write_bytes(manifest_json(manifest))

    assert read_manifest(tmp_path) == manifest
    assert json.loads(manifest_json(manifest))["schema"] == "scopewatch.bundle/1"
    assert manifest_json(manifest).endswith(b"}\n")


def test_a_manifest_from_before_ensembles_is_of_one_network(folder: Path):
    def older(manifest: dict[str, Any]) -> None:
        del manifest["network"]["members"], manifest["network"]["trained_parts"]

    edit(folder, older)

    network = open_bundle(folder).manifest.network
    assert (network.members, network.trained_parts) == (1, ("train",))


WINNER = {"name": "cam", "shape": [None, 1, None, None]}
EVERY = {"name": "cam_every_class", "shape": [None, 3, None, None]}
ONE_SIZE = {"name": "micrograph", "shape": [1, 1, 64, 64]}
SQUARE = {"input_px": 64, "proportions": "square"}


def stating(**parts: dict[str, Any] | None) -> Any:
    """Changes tensors; `cam_method` and `rule` stand for those parts of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        if "cam_method" in parts:
            manifest["cam"] = {"method": parts["cam_method"]}
        manifest["preprocessing"] |= parts.get("rule") or {}
        manifest["tensors"] |= {key: of for key, of in parts.items() if key not in ("cam_method", "rule")}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            stating(cam=None), "tensors.cam names no tensor, though the method is cam", id="a map lost"
        ),
        pytest.param(
            stating(cam_method="occlusion"),
            "tensors.cam names a tensor, though the method is occlusion",
            id="a map too many",
        ),
        pytest.param(
            stating(cam=WINNER),
            "tensors.cam is of one class only, and tensors.cam_every_class is missing",
            id="one class only",
        ),
        pytest.param(
            stating(cam_every_class=EVERY),
            "tensors.cam_every_class belongs beside a tensors.cam of shape [n, 1, h, w] only",
            id="every class twice",
        ),
        pytest.param(
            stating(input=ONE_SIZE),
            "tensors.input takes 64 x 64 only, the preprocessing makes specimen inputs of 64 px",
            id="one size, other proportions",
        ),
        pytest.param(
            stating(input=ONE_SIZE, rule=SQUARE | {"input_px": 80}),
            "tensors.input takes 64 x 64 only, the preprocessing makes square inputs of 80 px",
            id="another size",
        ),
        pytest.param(
            stating(input={"name": "micrograph", "shape": [None, 1, 64, None]}, rule=SQUARE),
            "tensors.input takes 64 x None only, the preprocessing makes square inputs of 64 px",
            id="half a size",
        ),
        pytest.param(
            stating(input={"name": "micrograph", "shape": [None, 3, None, None]}),
            "tensors.input has the shape [None, 3, None, None], not [n, 1, rows, columns]",
            id="colour",
        ),
        pytest.param(
            stating(input={"name": "micrograph", "shape": [4, 1, None, None]}),
            "tensors.input has the shape [4, 1, None, None], not [n, 1, rows, columns]",
            id="four at once",
        ),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(folder: Path, change: Any, message: str):
    edit(folder, change)

    assert refusal(folder) == (
        f"{folder / MANIFEST}: the whole file: Value error, {message}; make the bundle again"
    )


def test_the_graph_must_have_the_maps_of_every_class(folder: Path):
    edit(folder, stating(cam=WINNER, cam_every_class=EVERY))

    assert refusal(folder) == (
        f"{folder / MODEL}: it has no output named cam_every_class (it has cam, probabilities); "
        "use a bundle made by edge-trainer export"
    )


def test_a_bundle_without_a_map_opens(tmp_path: Path):
    bundle = open_bundle(tiny_bundle(tmp_path / "tiny-1", form="no map"))

    assert (bundle.manifest.tensors.cam, bundle.manifest.cam.method) == (None, "occlusion")
    assert tensor_names(bundle.manifest.tensors) == (("micrograph",), ("probabilities",))


def test_why_this_form_of_the_network_was_chosen_survives_being_written(tmp_path: Path):
    plain = Candidate(name="plain", milliseconds=81.5, model_bytes=1000, accuracy=0.9, passed=True)
    int8 = Candidate(name="int8", milliseconds=40.0, model_bytes=300, passed=False, reason="map agreement")
    chosen = Optimisation(
        chosen="plain", reason="the only one that passed", processor="x86", threads=1, pictures=20,
        candidates=(plain, int8),
    )  # fmt: skip
    manifest = tiny_manifest().model_copy(update={"optimisation": chosen})
    (tmp_path / MANIFEST).write_bytes(manifest_json(manifest))

    assert read_manifest(tmp_path).optimisation == chosen
    assert tiny_manifest().optimisation is None


def test_a_manifest_from_before_imported_checkpoints_is_of_the_specimens_proportions(folder: Path):
    def older(manifest: dict[str, Any]) -> None:
        del manifest["preprocessing"]["proportions"], manifest["tensors"]["cam_every_class"]
        del manifest["optimisation"]

    edit(folder, older)

    assert open_bundle(folder).manifest.preprocessing.proportions == "specimen"


def test_a_manifest_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        tiny_manifest().temperature = 2.0


# --- which one ---


def test_a_folder_without_a_bundle_is_told(tmp_path: Path):
    assert refusal(tmp_path) == f"{tmp_path}: no manifest.json here; give the folder of a bundle"


def test_the_newest_version_is_the_default(ships: Any):
    root = ships("tiny-2", "tiny-10", "tiny-9.1", "tiny-10rc1")

    assert [path.name for path in shipped_models()] == ["tiny-2", "tiny-9.1", "tiny-10rc1", "tiny-10"]
    assert open_bundle().path == root / "tiny-10"


def test_what_is_no_bundle_is_not_shipped(ships: Any):
    root = ships("tiny-1")
    (root / "README.md").write_text("models")
    (root / "zebra-3").mkdir()

    assert [path.name for path in shipped_models()] == ["tiny-1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tiny", "tiny-10"),
        ("tiny-2", "tiny-2"),
        ("grain-size", "grain-size-1"),
        ("grain-size-1", "grain-size-1"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_shipped_models_go_by_name_with_or_without_version(ships: Any, name: str, expected: str, kind: Any):
    root = ships("tiny-2", "tiny-10", "grain-size-1")

    assert open_bundle(kind(name)).path == root / expected


@pytest.mark.parametrize("name", ["tin", "tiny-", "tiny-3", "grain", "no\0such"])
def test_an_unknown_name_lists_the_known_ones(ships: Any, name: str):
    ships("tiny-2", "grain-size-1")

    assert refusal(name) == f"{name}: neither a folder nor a shipped model (shipped: grain-size-1, tiny-2)"


def test_an_installation_without_models_says_so(ships: Any):
    ships()

    assert refusal(None) == "no model is shipped with this installation; give one with --model"
    assert refusal("tiny") == "tiny: neither a folder nor a shipped model (shipped: none)"


def test_a_folder_goes_before_a_shipped_name(ships: Any, folder: Path, monkeypatch: pytest.MonkeyPatch):
    root = ships("tiny-1")
    monkeypatch.chdir(folder.parent)

    assert open_bundle("tiny-1").path == Path("tiny-1")
    assert open_bundle("tiny").path == root / "tiny-1"
