"""Models on their way into the store, and into use: nothing gets there that was not verified on this very PC.

A bundle's bytes are read once; what was verified is what is written into the store. Runs in the process of a
command: it loads ONNX Runtime, which the live agent leaves to its worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from edge_agent.bundle_files import BundleFolder, BundleRefused
from edge_agent.keeping.model_archive import BundleArchive
from edge_agent.keeping.store_record import (
    Accepted,
    Choice,
    Refusal,
    ReplayFigures,
    StoreRecord,
    StoreRefused,
    choice_of,
)
from edge_agent.model_names import MANIFEST, name_and_version, shipped_models, shipped_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from edge_agent.classifier import Replay
    from edge_agent.keeping.model_store import Chosen, ModelStore
    from edge_agent.model_bundle import Bundle, Contents

LARGEST_BUNDLE_BYTES: Final = 1 << 30
MOST_FILES: Final = 64
# What every file system takes: no device names, no final dot or blank, nothing that differs by case alone.
_PORTABLE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,99}(?<![. ])")
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Added:
    """A model that is in the store now. `left_out` lies beside it and is named by no manifest."""

    entry: Accepted
    left_out: tuple[str, ...]
    was_there: bool


def add(store: ModelStore, source: Path, trusted_keys: Sequence[str] = ()) -> Added:
    """Verify a bundle (a folder, or a ZIP of one) and take it into the store; it does not answer yet.

    Raises:
        BundleRefused: it is not sound, not signed by a trusted key, or out of tolerance on this PC.
        StoreRefused: it is older than what was used, or another bundle of that name and version is known.
        OSError: it cannot be written.
    """
    with _opened(source) as (reader, listed):
        contents = _contents(reader, trusted_keys)
    manifest_sha256 = hashlib.sha256(contents.files[MANIFEST]).hexdigest()
    manifest, shipped = contents.manifest, shipped_models()

    def check(record: StoreRecord) -> None:
        record.require_no_downgrade(manifest.name, manifest.version, shipped)
        _require_same(record, f"{manifest.name}-{manifest.version}", manifest_sha256)

    before = store.record_to_change()
    check(before)
    _require_not_shipped(f"{manifest.name}-{manifest.version}", contents, shipped)
    bundle, replay = _proved(contents)
    entry = Accepted(
        name=manifest.name,
        version=manifest.version,
        manifest_sha256=manifest_sha256,
        model_sha256=bundle.sha256,
        labels=manifest.labels,
        accepted=datetime.now(UTC),
        signed_by=contents.signed_by,
        replay=_figures(replay),
    )
    store.accept(entry, contents.files, check)
    left_out = tuple(sorted(name for name in listed if name not in contents.files))
    return Added(entry, left_out, before.entry(entry.folder) is not None)


def use(store: ModelStore, name: str, trusted_keys: Sequence[str] = ()) -> Chosen:
    """Verify a model of the store or a shipped one anew, and let it answer from now on.

    Raises BundleRefused, StoreRefused, OSError. A model of the store that is refused is marked so.
    """
    record, shipped = store.record_to_change(), shipped_models()
    entry, folder = record.named(name), shipped_named(name, shipped)
    if entry is None and folder is None:
        known = sorted({one.folder for one in record.accepted} | {one.name for one in shipped})
        raise StoreRefused(f"{name}: there is no such model (there are: {', '.join(known) or 'none'})")
    if entry is not None:
        record.require_no_downgrade(entry.name, entry.version, shipped)
        _verify_again(store, entry, trusted_keys)
        choice, parts = choice_of(entry), (entry.name, entry.version)
    else:
        assert folder is not None  # noqa: S101 - one of the two is there
        choice, parts = _shipped_choice(folder, shipped), name_and_version(folder.name)
        record.require_no_downgrade(*parts, shipped)
        _prove_folder(folder, None, ())
    store.change(lambda known: _cleared(known, entry).with_used(choice, *parts))
    return store.chosen(None)


def roll_back(store: ModelStore, trusted_keys: Sequence[str] = ()) -> Chosen:
    """Let the model answer that did before, the last one that is still sound; may be repeated.

    Raises StoreRefused where there is none, OSError.
    """
    while True:
        record = store.record_to_change()
        good = record.last_good()
        if good == record.current:
            raise StoreRefused("there is no earlier model to go back to")
        entry = record.entry(good.name or "") if good.origin == "store" else None
        try:
            if entry is not None:
                _verify_again(store, entry, trusted_keys)
        except BundleRefused:
            continue  # marked: the one before it is next
        store.change(lambda known: known.rolled_back())
        return store.chosen(None)


def open_chosen(
    store: ModelStore, asked: str | None, trusted_keys: Sequence[str], tell: Callable[[str], None]
) -> Bundle:
    """Open what the store chooses; a model of the store that is refused is marked, and the last good one opened.

    `tell` hears why another model answers, of what is refused now the log. Raises BundleRefused where nothing is
    left.
    """
    from edge_agent.model_bundle import open_bundle

    chosen: Chosen | None = store.chosen(asked)
    note = None if chosen is None else chosen.note
    while chosen is not None:
        try:
            bundle = open_bundle(
                chosen.model, manifest_sha256=chosen.manifest_sha256, trusted_keys=trusted_keys
            )
        except BundleRefused as error:
            chosen, note = store.failed(chosen, str(error)), None
            if chosen is None:
                raise
            continue
        if note is not None:
            tell(f"{note}; {bundle.manifest.name} {bundle.manifest.version} answers")
        return bundle
    raise AssertionError("unreachable: the last refusal was raised")


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[BundleFolder | BundleArchive, tuple[str, ...]]]:
    """What reads the bundle's files, and the names of all that lies there."""
    if source.is_dir():
        yield BundleFolder(source), tuple(item.name for item in source.iterdir())
        return
    if not source.exists():
        raise BundleRefused(f"{source}: there is no such bundle; give its folder, or a ZIP of it")
    archive = BundleArchive(source)
    try:
        yield archive, archive.names
    finally:
        archive.close()


def _contents(reader: BundleFolder | BundleArchive, trusted_keys: Sequence[str]) -> Contents:
    from edge_agent.model_bundle import read_contents

    contents = read_contents(reader, trusted_keys=trusted_keys, most_bytes=LARGEST_BUNDLE_BYTES)
    names = list(contents.files)
    odd = [name for name in names if not _PORTABLE.fullmatch(name) or _DEVICES.fullmatch(name)]
    folder = f"{contents.manifest.name}-{contents.manifest.version}"
    if odd or len(names) > MOST_FILES or len({name.lower() for name in names}) < len(names):
        seen = f"a file called {odd[0]!r}" if odd else f"{len(names)} files, or two that differ by case alone"
        raise BundleRefused(f"{reader.path}: its manifest names {seen}; make the bundle again")
    if folder.endswith("."):
        raise BundleRefused(f"{reader.path}: the version {contents.manifest.version!r} ends with a dot")
    return contents


def _require_same(record: StoreRecord, folder: str, manifest_sha256: str) -> None:
    known = record.entry(folder)
    if known is not None and known.manifest_sha256 != manifest_sha256:
        raise StoreRefused(
            f"{folder}: another bundle of this name and version is in the store; export under another --version"
        )


def _require_not_shipped(folder: str, contents: Contents, shipped: tuple[Path, ...]) -> None:
    same = next((one for one in shipped if one.name == folder), None)
    if same is None:
        return
    with contextlib.suppress(OSError):
        if (same / MANIFEST).read_bytes() == contents.files[MANIFEST]:
            raise StoreRefused(f"{folder}: comes with this installation; `models use {folder}` is enough")
    raise StoreRefused(
        f"{folder}: another bundle of this name and version comes with this installation; "
        "export under another --version"
    )


def _verify_again(store: ModelStore, entry: Accepted, trusted_keys: Sequence[str]) -> None:
    """What is in the store is what was accepted, and works here; else it is marked. Raises BundleRefused."""
    try:
        _prove_folder(store.bundle(entry), entry.manifest_sha256, trusted_keys)
    except BundleRefused as error:
        refusal = Refusal(reason=str(error), at=datetime.now(UTC))
        store.change(lambda record: record.with_refused(entry.folder, refusal))
        raise


def _prove_folder(folder: Path, manifest_sha256: str | None, trusted_keys: Sequence[str]) -> None:
    from edge_agent.classifier import Classifier, prove
    from edge_agent.model_bundle import open_bundle

    prove(Classifier(open_bundle(folder, manifest_sha256=manifest_sha256, trusted_keys=trusted_keys)))


def _proved(contents: Contents) -> tuple[Bundle, Replay]:
    from edge_agent.classifier import Classifier, prove
    from edge_agent.model_bundle import bundle_of

    bundle = bundle_of(contents)
    return bundle, prove(Classifier(bundle))


def _cleared(record: StoreRecord, entry: Accepted | None) -> StoreRecord:
    """Without the mark of an earlier failure: it was verified anew."""
    known = None if entry is None else record.entry(entry.folder)
    if known is None or known.refused is None:
        return record
    clear = known.model_copy(update={"refused": None})
    return record.model_copy(
        update={"accepted": tuple(clear if one is known else one for one in record.accepted)}
    )


def _shipped_choice(folder: Path, shipped: tuple[Path, ...]) -> Choice:
    return Choice() if folder == shipped[-1] else Choice(origin="shipped", name=folder.name)


def _figures(replay: Replay) -> ReplayFigures:
    return ReplayFigures(
        cases=replay.cases,
        probabilities=replay.probabilities,
        cam=replay.cam,
        novelty=replay.novelty,
        tolerance=replay.tolerance,
    )
