"""Tampering and downgrade: whatever is changed in a signed bundle, it does not answer, and the last good one does.

On a tiny bundle every byte of its manifest and each fifth of its model; with SCOPEWATCH_LONG=1 every bit of the
one and every byte of the other. On the shipped one by classes.
"""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
from bundles import tiny_model
from onnx import TensorProto, helper, numpy_helper
from vouched_bundles import KEY, STRANGER, TRUSTED, edit, manifest_sha256, put, signed_bundle

from edge_agent import model_names
from edge_agent.bundle_files import BundleFolder
from edge_agent.classifier import Classifier
from edge_agent.keeping.model_intake import add, use
from edge_agent.keeping.model_store import ModelStore, StoreRefused
from edge_agent.model_bundle import GOLDEN, MANIFEST, MODEL, BundleRefused, open_bundle, shipped_models
from edge_agent.protocol import WorkerSettings
from edge_agent.sidecar import OutputPlan
from edge_agent.signatures import signed
from edge_agent.supervisor import ModelRefused, Supervisor
from trainer.exporting.signing import sign_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


LONG = "SCOPEWATCH_LONG" in os.environ


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed bundle, tiny-2."""
    return signed_bundle(tmp_path_factory.mktemp("sound") / "tiny-2", "2")


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    """A copy of it to be spoilt."""
    return Path(shutil.copytree(sound, tmp_path / "tiny-2"))


def is_refused(folder: Path, sha256: str | None = None) -> bool:
    try:
        open_bundle(folder, trusted_keys=TRUSTED, manifest_sha256=sha256)
    except BundleRefused:
        return True
    return False


def flips(data: bytes, step: int = 1) -> Iterator[tuple[int, bytes]]:
    for at in range(0, len(data), step):
        for bit in range(8) if LONG else (at % 8,):
            yield at, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


# --- every bit ---


def test_nothing_of_the_manifest_can_be_changed(bundle: Path):
    data = (bundle / MANIFEST).read_bytes()
    taken = []
    for at, changed in flips(data):
        (bundle / MANIFEST).write_bytes(changed)
        if not is_refused(bundle):
            taken.append(at)
    assert taken == []
    (bundle / MANIFEST).write_bytes(data)
    assert not is_refused(bundle)


def test_nor_where_nobody_signed_and_the_hash_alone_was_accepted(bundle: Path):
    sha256, data = manifest_sha256(bundle), (bundle / MANIFEST).read_bytes()
    for _, changed in flips(data, 7):
        (bundle / MANIFEST).write_bytes(changed)
        with pytest.raises(
            BundleRefused, match="was changed after the model was accepted; add the model again"
        ):
            open_bundle(bundle, manifest_sha256=sha256)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_nothing_of_another_file_can_be_changed(bundle: Path, name: str):
    data = (bundle / name).read_bytes()
    # Of the golden cases' head and tail; a hash treats all between alike.
    places = range(0, len(data), 1 if LONG else 5)
    places = places if name == MODEL else [*range(0, 600, 5), *range(len(data) - 600, len(data), 5)]
    for at in places:
        (bundle / name).write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        assert is_refused(bundle), at


def test_no_class_of_bytes_of_the_shipped_bundle_either(tmp_path: Path):
    folder = Path(shutil.copytree(shipped_models()[-1], tmp_path / "copy"))
    sign_bundle(folder, KEY)
    assert not is_refused(folder)
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for at in (0, len(data) // 3, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert is_refused(folder), (file.name, at)
        file.write_bytes(data)
    assert not is_refused(folder)


# --- what an attacker would do ---


def external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="golden.npz")


def foreign(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("PyOp", ["probabilities"], ["x"], domain="ai.onnx.contrib"))


def other_weights(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * -1, weight.name))


def remade(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Another model, with its right hash in the manifest."""
    model = onnx.load_from_string((folder / MODEL).read_bytes())
    change(model)
    put(folder, MODEL, model.SerializeToString())


def resigned(folder: Path) -> None:
    """By somebody who is trusted: the gate holds by itself."""
    edit(folder, lambda manifest: manifest.update(signature=""))
    (folder / MANIFEST).write_bytes(signed((folder / MANIFEST).read_bytes(), KEY))


def text(folder: Path, old: bytes, new: bytes) -> None:
    data = (folder / MANIFEST).read_bytes()
    assert old in data
    (folder / MANIFEST).write_bytes(data.replace(old, new, 1))


def linked(folder: Path, name: str) -> None:
    target = folder.with_name(f"real-{name}")
    (folder / name).rename(target)
    (folder / name).symlink_to(target)


def swapped(folder: Path, *names: str) -> None:
    """Files of another bundle that is signed by the same key, so sound in itself."""
    other = signed_bundle(folder.with_name("other"), "3", seed=3)
    for name in names:
        shutil.copyfile(other / name, folder / name)


def truncated(folder: Path, name: str, to: int) -> None:
    os.truncate(folder / name, to % ((folder / name).stat().st_size + 1))


def appended(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b"\n")


TAMPERINGS: dict[str, Callable[[Path], object]] = {
    "schema": lambda folder: text(folder, b"bundle/1", b"bundle/2"),
    "name": lambda folder: text(folder, b'"name": "tiny"', b'"name": "tyny"'),
    "version raised": lambda folder: text(folder, b'"version": "2"', b'"version": "9"'),
    "labels exchanged": lambda folder: edit(folder, lambda manifest: manifest["labels"].reverse()),
    "temperature": lambda folder: edit(folder, lambda manifest: manifest.update(temperature=0.1)),
    "thresholds": lambda folder: edit(
        folder, lambda manifest: manifest.update(thresholds={"confidence": 0.0})
    ),
    "golden tolerance": lambda folder: edit(
        folder, lambda manifest: manifest["golden"].update(tolerance=9.0)
    ),
    "a hash": lambda folder: edit(folder, lambda manifest: manifest["sha256"].update({MODEL: "0" * 64})),
    "licence": lambda folder: edit(folder, lambda manifest: manifest.update(licence="mine")),
    "white space": lambda folder: text(folder, b": ", b":  "),
    "line breaks": lambda folder: text(folder, b",\n", b",\r\n"),
    "order of keys": lambda folder: edit(folder, lambda manifest: manifest.update(seed=manifest.pop("seed"))),
    "a key twice": lambda folder: text(folder, b"{\n", b'{\n  "version": "9",\n'),
    "signature taken off": lambda folder: edit(folder, lambda manifest: manifest.update(signature=None)),
    "signature emptied": lambda folder: edit(folder, lambda manifest: manifest.update(signature="")),
    "signature left out": lambda folder: edit(folder, lambda manifest: manifest.pop("signature")),
    "signature of another bundle": lambda folder: swapped(folder, MANIFEST),
    "signed by a stranger": lambda folder: sign_bundle(folder, STRANGER),
    "padding bits": lambda folder: text(folder, b'=="', b'=" '),
    "model of another bundle": lambda folder: swapped(folder, MODEL),
    "golden cases of another bundle": lambda folder: swapped(folder, GOLDEN),
    "model and golden cases of another bundle": lambda folder: swapped(folder, MODEL, GOLDEN),
    "other weights, right hash": lambda folder: remade(folder, other_weights),
    "external data, right hash": lambda folder: remade(folder, external),
    "external data, signed": lambda folder: (remade(folder, external), resigned(folder)),
    "unknown operator, signed": lambda folder: (remade(folder, foreign), resigned(folder)),
    "no model in the manifest, signed": lambda folder: (
        edit(folder, lambda manifest: manifest["sha256"].pop(MODEL)),
        resigned(folder),
    ),
    "a path in the manifest, signed": lambda folder: (
        edit(folder, lambda manifest: manifest["sha256"].update({"../x": "0" * 64})),
        resigned(folder),
    ),
    "pickle for a model, signed": lambda folder: (put(folder, MODEL, b"\x80\x04K\x01."), resigned(folder)),
    **{
        f"{name} {what}": change
        for name in (MANIFEST, MODEL, GOLDEN)
        for what, change in {
            "empty": lambda folder, name=name: truncated(folder, name, 0),
            "cut in the middle": lambda folder, name=name: truncated(folder, name, 1000),
            "a byte less": lambda folder, name=name: truncated(folder, name, -2),
            "a byte more": lambda folder, name=name: appended(folder, name),
            "missing": lambda folder, name=name: (folder / name).unlink(),
            "a link": lambda folder, name=name: linked(folder, name),
            "a folder": lambda folder, name=name: ((folder / name).unlink(), (folder / name).mkdir()),
        }.items()
    },
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
def test_a_bundle_that_was_tampered_with_does_not_come_in(
    bundle: Path, tmp_path: Path, tamper: Callable[[Path], object]
):
    store = ModelStore(tmp_path / "state")
    tamper(bundle)

    with pytest.raises((BundleRefused, StoreRefused)):
        add(store, bundle, TRUSTED)

    assert list((store.folder / "bundles").glob("*")) == []
    assert not store.chosen(None).in_store


@pytest.fixture(scope="module")
def used(sound: Path) -> Path:
    """The state folder of a PC on which tiny-1 was used, then tiny-2."""
    store = ModelStore(sound.with_name("state"))
    for folder in (signed_bundle(sound.with_name("tiny-1"), "1", seed=1), sound):
        add(store, folder, TRUSTED)
        use(store, folder.name, TRUSTED)
    return store.folder.parent


@pytest.fixture
def in_use(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A copy of it; nothing is shipped."""
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([]))
    return ModelStore(Path(shutil.copytree(used, tmp_path / "state")))


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
@pytest.mark.parametrize("keys", [TRUSTED, ()], ids=["keys", "no keys"])
def test_one_that_is_tampered_with_in_the_store_gives_way_to_the_last_good_one(
    in_use: ModelStore, tmp_path: Path, tamper: Callable[[Path], object], keys: tuple[str, ...]
):
    chosen = in_use.chosen(None)
    tamper(Path(chosen.model))

    with pytest.raises(BundleRefused) as refused:
        open_bundle(chosen.model, manifest_sha256=chosen.manifest_sha256, trusted_keys=keys)
    other = in_use.failed(chosen, str(refused.value))

    assert Path(other.model).name == "tiny-1"
    assert open_bundle(other.model, manifest_sha256=other.manifest_sha256, trusted_keys=keys)
    assert ModelStore(tmp_path / "state").record().entry("tiny-2").refused.reason == str(refused.value)


# --- between the check and the load ---


@pytest.mark.parametrize("last", [MANIFEST, MODEL, GOLDEN])
def test_what_was_verified_is_what_runs_though_the_disk_changes(
    bundle: Path, last: str, monkeypatch: pytest.MonkeyPatch
):
    """Who swaps every file as soon as `last` was read gains nothing: no file is read twice."""
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    evil = signed_bundle(bundle.with_name("evil"), "2", seed=8, key=STRANGER)
    read, seen = BundleFolder.read, []

    def swap_after(self: BundleFolder, name: str, *limit: int) -> bytes:
        data = read(self, name, *limit)
        seen.append(name)
        if name == last:
            for file in evil.iterdir():
                shutil.copyfile(file, bundle / file.name)
        return data

    monkeypatch.setattr(BundleFolder, "read", swap_after)
    if last != MODEL:  # the last one that is read
        with pytest.raises(BundleRefused):
            open_bundle(bundle, trusted_keys=TRUSTED)
        return
    opened = open_bundle(bundle, trusted_keys=TRUSTED)
    assert (opened.model_bytes, opened.golden_bytes) == (before[MODEL], before[GOLDEN])
    assert seen == [MANIFEST, GOLDEN, MODEL]


def test_the_golden_cases_that_are_replayed_are_those_that_were_verified(bundle: Path):
    network = Classifier(open_bundle(bundle, trusted_keys=TRUSTED))
    for file in bundle.iterdir():
        file.unlink()
    assert network.replay_golden().passed


# --- replay of an older one ---


def test_an_older_version_however_well_signed_does_not_come_back(in_use: ModelStore, tmp_path: Path):
    for version in ("1.9", "2rc1", "0.1"):
        old = signed_bundle(tmp_path / version, version)
        with pytest.raises(StoreRefused, match=f"tiny {version}: older than 2, which was in use here"):
            add(in_use, old, TRUSTED)
    with pytest.raises(StoreRefused, match="tiny 1: older than 2"):
        use(in_use, "tiny-1", TRUSTED)
    in_use.failed(in_use.chosen(None), "gone")
    with pytest.raises(StoreRefused, match=r"tiny 1\.9: older than 2"):
        add(in_use, tmp_path / "1.9", TRUSTED)


# --- by the worker itself ---

WORKER_CASES = (
    "labels exchanged", "signed by a stranger", "external data, signed", "golden.npz missing",
)  # fmt: skip


def greeting(chosen, keys: tuple[str, ...] = TRUSTED) -> str:
    """The worker's reason, or the version that it is ready with."""
    settings = WorkerSettings(
        chosen.model, OutputPlan(), manifest_sha256=chosen.manifest_sha256, trusted_keys=keys, prove=True
    )
    supervisor = Supervisor(settings)
    try:
        return supervisor.start(threading.Event()).version
    except ModelRefused as error:
        return str(error)
    finally:
        supervisor.close()


@pytest.mark.parametrize("case", WORKER_CASES)
def test_the_worker_refuses_it_and_takes_the_last_good_one(in_use: ModelStore, case: str):
    chosen = in_use.chosen(None)
    TAMPERINGS[case](Path(chosen.model))

    reason = greeting(chosen)
    other = in_use.failed(chosen, reason)

    assert "tiny-2" in reason
    assert len(reason.splitlines()) == 1
    assert greeting(other) == "1"


def test_the_worker_takes_what_was_accepted(in_use: ModelStore):
    assert greeting(in_use.chosen(None)) == "2"


def test_a_bundle_by_its_path_must_be_signed_too_once_keys_are_listed(bundle: Path, in_use: ModelStore):
    assert greeting(in_use.chosen(str(bundle))) == "2"
    edit(bundle, lambda manifest: manifest.update(signature=None))
    assert greeting(in_use.chosen(str(bundle))) == (
        f"{bundle / MANIFEST}: it is not signed; use a model signed by one of the 1 trusted_keys, or list its key"
    )
    assert greeting(in_use.chosen(str(bundle)), ()) == "2"


def test_the_shipped_model_needs_no_signature():
    assert open_bundle(trusted_keys=TRUSTED).signed_by is None


def test_a_copy_of_the_shipped_model_does(tmp_path: Path):
    copy = Path(shutil.copytree(shipped_models()[-1], tmp_path / shipped_models()[-1].name))
    assert is_refused(copy)


def test_a_key_that_is_none_is_told_as_such(bundle: Path):
    with pytest.raises(BundleRefused, match=r"^trusted_keys: 'lab' is no public key"):
        open_bundle(bundle, trusted_keys=("lab",))


def test_the_tiny_model_has_no_part_that_is_not_looked_at(sound: Path):
    """The exhaustive test above means something: the files are the bundle's only ones."""
    assert sorted(file.name for file in sound.iterdir()) == [GOLDEN, MANIFEST, MODEL]
    assert len(tiny_model()) > 1000
