"""What gets into the store and into use, and what does not: verified here, older never, whole or not at all."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from vouched_bundles import KEY, STRANGER, TRUSTED, edit, plain_bundle, put, signed_bundle

from edge_agent import model_names
from edge_agent.keeping import model_archive, model_intake
from edge_agent.keeping.model_intake import add, open_chosen, roll_back, use
from edge_agent.keeping.model_store import ModelStore, StoreRefused
from edge_agent.model_bundle import GOLDEN, MANIFEST, BundleRefused
from edge_agent.signatures import key_id, public_line_of

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Signed bundles tiny-1, tiny-2, tiny-3; tiny-1.5 is shipped, unsigned."""
    folder = tmp_path_factory.mktemp("made")
    for version in ("1", "2", "3"):
        signed_bundle(folder / f"tiny-{version}", version, seed=int(version))
    plain_bundle(folder / "shipped" / "tiny-1.5", "1.5", seed=5)
    return folder


@pytest.fixture(autouse=True)
def shipped(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([made / "shipped"]))
    return made / "shipped" / "tiny-1.5"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "state")


def current(store: ModelStore) -> str | None:
    model = store.chosen(None).model
    return None if model is None else Path(model).name


def stored(store: ModelStore) -> list[str]:
    return sorted(path.name for path in (store.folder / "bundles").glob("*"))


# --- add ---


def test_what_was_verified_is_kept_with_who_signed_it_and_how_it_replayed(store: ModelStore, made: Path):
    added = add(store, made / "tiny-2", TRUSTED)

    entry = store.record().entry("tiny-2")
    assert entry == added.entry
    assert entry.signed_by == key_id(TRUSTED[0])
    assert entry.labels == ("faceted", "rod", "round")
    assert (entry.replay.cases, entry.replay.tolerance) == (3, 1e-3)
    assert entry.replay.probabilities < 1e-4
    assert current(store) is None


def test_what_no_manifest_names_stays_outside(store: ModelStore, made: Path, tmp_path: Path):
    bundle = signed_bundle(tmp_path / "b", "2")
    (bundle / "Thumbs.db").write_bytes(b"x")
    (bundle / "evil").mkdir()

    added = add(store, bundle, TRUSTED)

    assert added.left_out == ("Thumbs.db", "evil")
    assert sorted(path.name for path in store.bundle(added.entry).iterdir()) == [
        "golden.npz", "manifest.json", "model.onnx",
    ]  # fmt: skip


def test_adding_again_repairs_and_takes_the_mark_off(store: ModelStore, made: Path):
    entry = add(store, made / "tiny-2", TRUSTED).entry
    use(store, "tiny-2", TRUSTED)
    store.failed(store.chosen(None), "changed")
    (store.bundle(entry) / GOLDEN).write_bytes(b"x")

    assert add(store, made / "tiny-2", TRUSTED).was_there
    use(store, "tiny-2", TRUSTED)
    assert current(store) == "tiny-2"
    assert store.record().entry("tiny-2").refused is None


REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "older than what is shipped": (
        lambda folder: signed_bundle(folder, "1.4"),
        StoreRefused,
        "tiny 1.4: older than 1.5, which was in use here or came with the installation",
    ),
    "the shipped one under the same version": (
        lambda folder: signed_bundle(folder, "1.5"),
        StoreRefused,
        "tiny-1.5: another bundle of this name and version comes with this installation",
    ),
    "another bundle of a version that is known": (
        lambda folder: signed_bundle(folder, "3", seed=7),
        StoreRefused,
        "tiny-3: another bundle of this name and version is in the store",
    ),
    "the same bundle, signed anew": (
        lambda folder: edit(signed_bundle(folder, "3", seed=7), lambda manifest: manifest.update(seed=1)),
        BundleRefused,
        "the signature of 56475aa75463474c does not fit",
    ),
    "no signature": (lambda folder: plain_bundle(folder, "4"), BundleRefused, "it is not signed"),
    "another's signature": (
        lambda folder: signed_bundle(folder, "4", key=STRANGER),
        BundleRefused,
        f"it is signed by the key {key_id(public_line_of(STRANGER))}, which is not trusted here",
    ),
    "nothing there": (
        lambda folder: None,
        BundleRefused,
        "there is no such bundle; give its folder, or a ZIP",
    ),
    "an empty folder": (lambda folder: folder.mkdir(), BundleRefused, "no manifest.json here"),
    "no archive": (
        lambda folder: folder.write_bytes(b"PK\3\4 torch"),
        BundleRefused,
        "is neither a bundle folder nor a ZIP of one",
    ),
}


@pytest.mark.parametrize(("make", "error", "told"), REFUSED.values(), ids=REFUSED)
def test_what_may_not_come_in(store: ModelStore, made: Path, tmp_path: Path, make, error, told: str):
    add(store, made / "tiny-3", TRUSTED)
    make(tmp_path / "offered")

    with pytest.raises(error) as refused:
        add(store, tmp_path / "offered", TRUSTED)

    assert told in str(refused.value)
    assert stored(store) == ["tiny-3"]
    assert current(store) is None


def test_what_comes_with_the_installation_needs_no_adding(store: ModelStore, shipped: Path):
    with pytest.raises(StoreRefused, match=r"comes with this installation; `models use tiny-1.5` is enough"):
        add(store, shipped)


def resigned(folder: Path) -> Path:
    """Signed by one who is trusted, after it was spoilt."""
    from edge_agent.signatures import signed

    edit(folder, lambda manifest: manifest.update(signature=""))
    (folder / MANIFEST).write_bytes(signed((folder / MANIFEST).read_bytes(), KEY))
    return folder


def with_golden(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """A bundle whose golden cases were changed before it was signed: a PC that computes otherwise."""
    with np.load(io.BytesIO((folder / GOLDEN).read_bytes())) as golden:
        values = dict(golden)
    change(values)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **values)
    put(folder, GOLDEN, buffer.getvalue())
    return resigned(folder)


def test_a_bundle_that_this_pc_computes_otherwise_is_refused(store: ModelStore, tmp_path: Path):
    def spoilt(case: dict[str, np.ndarray]) -> None:
        case["probabilities_1"] = case["probabilities_1"] + 0.01

    bundle = with_golden(signed_bundle(tmp_path / "b", "4"), spoilt)

    with pytest.raises(
        BundleRefused, match=r"the golden replay is off by 1\.0e-02, 1e-03 allowed; this PC does"
    ):
        add(store, bundle, TRUSTED)
    assert stored(store) == []


def test_a_bundle_without_golden_cases_proves_nothing(store: ModelStore, tmp_path: Path):
    bundle = signed_bundle(tmp_path / "b", "4")
    edit(bundle, lambda manifest: manifest["golden"].update(cases=0))
    with pytest.raises(BundleRefused, match="the golden replay has no cases"):
        add(store, resigned(bundle), TRUSTED)


@pytest.mark.parametrize(
    "name",
    ["CON", "con.txt", "lpt1", "a.", "a ", "MODEL.onnx", "ä.txt", "a" * 120, "-x", ".hidden"],
)
def test_only_names_that_every_system_takes(store: ModelStore, tmp_path: Path, name: str):
    bundle = signed_bundle(tmp_path / "b", "4")
    put(bundle, name, b"x")
    with pytest.raises(BundleRefused, match=r"its manifest names .*; make the bundle again"):
        add(store, resigned(bundle), TRUSTED)


def test_a_bundle_of_too_many_files_or_bytes_is_not_taken(
    store: ModelStore, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model_intake, "MOST_FILES", 2)
    with pytest.raises(BundleRefused, match="its manifest names 3 files"):
        add(store, made / "tiny-2", TRUSTED)
    monkeypatch.setattr(model_intake, "LARGEST_BUNDLE_BYTES", 5000)
    with pytest.raises(BundleRefused, match="more than 5000 bytes in all, too large for a bundle"):
        add(store, made / "tiny-2", TRUSTED)


def test_a_link_in_a_bundle_is_not_followed(store: ModelStore, tmp_path: Path, made: Path):
    bundle = signed_bundle(tmp_path / "b", "2")
    (bundle / GOLDEN).unlink()
    (bundle / GOLDEN).symlink_to(made / "tiny-2" / GOLDEN)
    with pytest.raises(BundleRefused, match=r"golden\.npz: is a link, not a file; copy what it leads to"):
        add(store, bundle, TRUSTED)


def test_what_changes_after_the_look_does_not_come_in(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = signed_bundle(tmp_path / "b", "2")
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    proved = model_intake._proved

    def swap(contents):
        for file in bundle.iterdir():
            file.write_bytes(b"swapped")
        return proved(contents)

    monkeypatch.setattr(model_intake, "_proved", swap)
    entry = add(store, bundle, TRUSTED).entry

    assert {file.name: file.read_bytes() for file in store.bundle(entry).iterdir()} == before


# --- archives ---


def zipped(folder: Path, file: Path, top: str = "") -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in sorted(folder.iterdir()):
            archive.write(item, top + item.name)
    return file


@pytest.mark.parametrize("top", ["", "tiny-2/"], ids=["files at the top", "in one folder"])
def test_a_zip_of_a_bundle_is_as_good(store: ModelStore, made: Path, tmp_path: Path, top: str):
    entry = add(store, zipped(made / "tiny-2", tmp_path / "tiny.zip", top), TRUSTED).entry
    assert {file.name: file.read_bytes() for file in store.bundle(entry).iterdir()} == {
        file.name: file.read_bytes() for file in (made / "tiny-2").iterdir()
    }


def entry_of(name: str, **changes: object) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("planted", "told"),
    [
        pytest.param("../evil", "'../evil' is no plain file of a bundle", id="out of the folder"),
        pytest.param("/etc/evil", "'/etc/evil' is no plain file of a bundle", id="absolute"),
        pytest.param("C:evil", "'C:evil' is no plain file of a bundle", id="a drive"),
        pytest.param("a/b", "'a/b' is no plain file of a bundle", id="a folder in it"),
        pytest.param("golden.npz", "'golden.npz' stands in it twice", id="one name twice"),
        pytest.param(
            entry_of("link", external_attr=(stat.S_IFLNK | 0o777) << 16),
            "'link' is no plain file of a bundle",
            id="a link",
        ),
    ],
)
def test_an_archive_may_only_hold_a_bundles_files(
    store: ModelStore, made: Path, tmp_path: Path, planted: str | zipfile.ZipInfo, told: str
):
    file = zipped(made / "tiny-2", tmp_path / "tiny.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(planted, b"evil")

    with pytest.raises(BundleRefused) as refused:
        add(store, file, TRUSTED)
    assert told in str(refused.value)
    assert [path.name for path in tmp_path.rglob("evil")] == []
    assert stored(store) == []


def test_an_archive_that_unpacks_to_more_than_it_says_is_stopped(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bundle = signed_bundle(tmp_path / "b", "2")
    (bundle / "model.onnx").write_bytes(bytes(10 << 20))
    file = zipped(bundle, tmp_path / "bomb.zip")
    assert file.stat().st_size < 200_000
    archive = model_archive.BundleArchive(file)
    with pytest.raises(BundleRefused, match=r"model\.onnx is larger than any bundle file may be"):
        archive.read("model.onnx", 1 << 20)
    archive.close()


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9, 0.999])
def test_a_damaged_archive_is_refused(store: ModelStore, made: Path, tmp_path: Path, at: float):
    file = zipped(made / "tiny-2", tmp_path / "tiny.zip")
    data = bytearray(file.read_bytes())
    for place in range(int(at * len(data)), min(len(data), int(at * len(data)) + 30)):
        data[place] ^= 0x55
    file.write_bytes(data)
    with pytest.raises(BundleRefused):
        add(store, file, TRUSTED)


# --- use and roll back ---


@pytest.fixture
def filled(store: ModelStore, made: Path) -> ModelStore:
    for version in ("2", "3"):
        add(store, made / f"tiny-{version}", TRUSTED)
        use(store, f"tiny-{version}", TRUSTED)
    return store


def test_use_and_roll_back_as_often_as_one_likes(filled: ModelStore):
    assert current(filled) == "tiny-3"
    assert roll_back(filled, TRUSTED).title == "tiny 2 (signed by 56475aa75463474c)"
    assert roll_back(filled, TRUSTED).title == "tiny 1.5 (shipped)"
    with pytest.raises(StoreRefused, match="there is no earlier model to go back to"):
        roll_back(filled, TRUSTED)
    assert use(filled, "tiny-3", TRUSTED).title == "tiny 3 (signed by 56475aa75463474c)"


@pytest.mark.parametrize("name", ["tiny-2", "tiny-1.5"], ids=["of the store", "shipped"])
def test_an_older_one_is_not_used_but_rolled_back_to(filled: ModelStore, name: str):
    with pytest.raises(StoreRefused, match=r"older than 3, which was in use .* `models rollback` goes back"):
        use(filled, name, TRUSTED)
    assert current(filled) == "tiny-3"


def test_an_unknown_name_lists_the_known_ones(filled: ModelStore):
    with pytest.raises(
        StoreRefused, match=r"^big: there is no such model \(there are: tiny-1.5, tiny-2, tiny-3\)"
    ):
        use(filled, "big")


def test_another_shipped_model_may_be_used(filled: ModelStore, made: Path, monkeypatch: pytest.MonkeyPatch):
    both = made / "both"
    if not both.exists():
        plain_bundle(both / "base-1")
        plain_bundle(both / "tiny-1.5", "1.5", seed=5)
    monkeypatch.setattr(model_names, "_model_roots", lambda: iter([both]))
    chosen = use(filled, "base", TRUSTED)
    assert (chosen.model, chosen.title) == (str(both / "base-1"), "base 1 (shipped)")
    assert roll_back(filled, TRUSTED).title == "tiny 3 (signed by 56475aa75463474c)"


def test_a_bundle_that_was_changed_in_the_store_is_not_used(filled: ModelStore, made: Path):
    signed_bundle(made.parent / f"four-{filled.folder.parent.parent.name}", "4")
    entry = add(filled, made.parent / f"four-{filled.folder.parent.parent.name}", TRUSTED).entry
    (filled.bundle(entry) / GOLDEN).write_bytes(b"x")

    with pytest.raises(BundleRefused, match=r"golden\.npz: SHA-256 is"):
        use(filled, "tiny-4", TRUSTED)
    assert current(filled) == "tiny-3"
    assert "SHA-256" in filled.record().entry("tiny-4").refused.reason


def test_roll_back_passes_over_what_was_changed_meanwhile(filled: ModelStore):
    (filled.folder / "bundles" / "tiny-2" / GOLDEN).write_bytes(b"x")
    assert roll_back(filled, TRUSTED).title == "tiny 1.5 (shipped)"
    assert filled.record().entry("tiny-2").refused is not None


def test_a_key_that_is_no_longer_trusted_takes_its_models_along(filled: ModelStore):
    told: list[str] = []
    bundle = open_chosen(filled, None, (public_line_of(STRANGER),), told.append)
    assert bundle.manifest.version == "1.5"
    assert told == []

    open_chosen(filled, None, TRUSTED, told.append)
    (line,) = told
    assert line.startswith("tiny-2 was refused (")
    assert "which is not trusted here" in line
    assert line.endswith("; tiny 1.5 answers")


def test_the_last_good_one_is_opened_where_the_chosen_one_was_changed(
    filled: ModelStore, caplog: pytest.LogCaptureFixture
):
    (filled.folder / "bundles" / "tiny-3" / "model.onnx").write_bytes(b"x")
    told: list[str] = []

    bundle = open_chosen(filled, None, TRUSTED, told.append)

    assert (bundle.manifest.version, bundle.signed_by) == ("2", key_id(TRUSTED[0]))
    assert current(filled) == "tiny-2"
    assert told == []
    (line,) = caplog.messages
    assert line.startswith(
        "tiny 3 (signed by 56475aa75463474c) is refused, tiny 2 (signed by 56475aa75463474c) answers instead: "
        f"{filled.folder}/bundles/tiny-3/model.onnx: SHA-256 is "
    )


def test_a_path_that_is_refused_is_not_replaced_by_another_model(filled: ModelStore, tmp_path: Path):
    bundle = plain_bundle(tmp_path / "b", "9")
    with pytest.raises(BundleRefused, match="it is not signed"):
        open_chosen(filled, str(bundle), TRUSTED, lambda text: None)
