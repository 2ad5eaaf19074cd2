"""The models that a person added to this PC, and which of all models answers.

`STATE/models/` holds `store.json` and `bundles/NAME-VERSION/`; deleting the folder returns to the shipped model.
Nothing here is verified: that is the intake's business before a bundle comes in, and the worker's each time one
is loaded, which is why a choice carries the hash of the manifest that was accepted. Agent and command line change
the store at the same time: each change is one locked, durable write. Only this module knows the store's files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout
from pydantic import ValidationError

from edge_agent.files import FileLayer, make_folders, remove_leftovers, replace_patiently, write_durably
from edge_agent.keeping.store_record import (
    SCHEMA,
    SHIPPED_DEFAULT,
    Choice,
    Refusal,
    StoreRecord,
    StoreRefused,
    choice_of,
)
from edge_agent.model_names import name_and_version, shipped_models, shipped_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from edge_agent.keeping.store_record import Accepted

STORE_NAME: Final = "store.json"
_BUNDLES: Final = "bundles"
_LOCK_NAME: Final = "store.lock"
_ASIDE: Final = ".broken-"
_DRAFT: Final = ".draft-"
_LOCK_PATIENCE_SECONDS: Final = 10.0
_FILES: Final = FileLayer("store")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model that is to answer: `model` and `manifest_sha256` are for the worker, `title` for a person.

    `asked` is what the configuration named. `note` says why another model answers than one would expect.
    """

    model: str | None
    manifest_sha256: str | None
    title: str
    asked: str | None = None
    note: str | None = None

    @property
    def in_store(self) -> bool:
        """Whether it is one of the store: then another one can answer in its place."""
        return self.manifest_sha256 is not None


class StoreUnreadable(StoreRefused):
    """`store.json` cannot be used; `damaged` says whether it may be moved aside."""

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.damaged = damaged


class ModelStore:
    """The store below one state folder; any number of processes may have one open. One thread at a time."""

    def __init__(self, state: Path) -> None:
        self.folder = state / "models"
        self._file = self.folder / STORE_NAME
        self._unwritten: dict[tuple[str, datetime], Refusal] = {}
        """Failures that could not be written down: they hold for this process."""
        self._seen: tuple[object, object] = (None, None)

    def chosen(self, asked: str | None) -> Chosen:
        """Return what is to answer when the configuration asks for `asked`; never raises OSError.

        None: the store's current model, else the shipped default. A name: of the store, else shipped. A path: that
        bundle.
        """
        record, note = self._believed()
        found = self._resolved(record, asked)
        return (
            found
            if note is None
            else replace(found, note=note if found.note is None else f"{note}; {found.note}")
        )

    def revision(self) -> object:
        """Return something that differs once another model is to answer; costs one look at the file."""
        try:
            found = self._file.stat()
            looks: object = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            looks = None
        if looks != self._seen[0] or looks is None:
            self._seen = (looks, self._choice_token(looks))
        return self._seen[1], len(self._unwritten)

    def worked(self, chosen: Chosen) -> None:
        """Note that the worker has loaded and proved a model."""
        sha256 = chosen.manifest_sha256
        if sha256 is None:
            return
        entry = self._believed()[0].entry_with(sha256)
        if entry is not None and entry.worked is None:
            with contextlib.suppress(OSError, StoreRefused):
                self.change(lambda record: record.with_worked(sha256))

    def failed(self, chosen: Chosen, reason: str) -> Chosen | None:
        """Mark a model that the worker refused, and return the last good one; None where there is no other.

        Only models of the store have another one to go back to. Says so in the log, as an error. Never raises
        OSError: what cannot be written holds for this process.
        """
        if chosen.manifest_sha256 is None:
            return None
        entry = self._believed()[0].entry_with(chosen.manifest_sha256)
        if entry is not None:
            self._mark(entry, Refusal(reason=reason, at=datetime.now(UTC)))
        other = self.chosen(chosen.asked)
        if other.model == chosen.model:
            return None
        _log.error("%s is refused, %s answers instead: %s", chosen.title, other.title, reason)
        return other

    def record(self) -> StoreRecord:
        """Return what the store remembers. Raises StoreUnreadable."""
        return self._with_unwritten(self._read())

    def record_to_change(self) -> StoreRecord:
        """Return the same for a command that is to change it: damage is moved aside. Raises StoreRefused."""
        return self.change(lambda record: record)

    def bundle(self, entry: Accepted) -> Path:
        """Return the folder of an accepted bundle."""
        return self.folder / _BUNDLES / entry.folder

    def change(self, make: Callable[[StoreRecord], StoreRecord]) -> StoreRecord:
        """Replace the record by what `make` gives, alone and durably. Raises StoreRefused, OSError."""
        with self._alone():
            before = self._read_to_write()
            after = make(before)
            if after != before:
                self._write(after)
            return after

    def accept(
        self,
        entry: Accepted,
        files: Mapping[str, bytes],
        check: Callable[[StoreRecord], None] = lambda record: None,
    ) -> StoreRecord:
        """Take a verified bundle in, whole or not at all. Raises StoreRefused (`check` may, too), OSError."""
        with self._alone():
            before = self._read_to_write()
            check(before)
            make_folders(self.folder / _BUNDLES, _FILES)
            self._write_bundle(self.bundle(entry), files)
            after = before.with_accepted(entry)
            self._write(after)
            return after

    def remove(self, folder: str) -> StoreRecord:
        """Forget a model and delete its files. Raises StoreRefused, OSError."""
        after = self.change(lambda record: record.without(folder))
        _discard(self.folder / _BUNDLES / folder)
        return after

    def _mark(self, entry: Accepted, refusal: Refusal) -> None:
        try:
            self.change(lambda record: record.with_refused(entry.folder, refusal))
        except (OSError, StoreRefused) as error:
            _log.warning("that %s was refused cannot be written down: %s", entry.folder, error)
            self._unwritten[entry.manifest_sha256, entry.accepted] = refusal

    def _believed(self) -> tuple[StoreRecord, str | None]:
        """What the store remembers, or nothing and why; a damaged file is moved aside."""
        try:
            return self.record(), self._damage_before()
        except StoreUnreadable as error:
            reason = str(error)
            if error.damaged:
                with contextlib.suppress(OSError, StoreRefused), self._alone():
                    self._move_aside()
            _log.error("%s; the shipped model answers", reason)
            return StoreRecord(), f"{reason}; the shipped model answers"

    def _damage_before(self) -> str | None:
        """What is left to say once a damaged file was moved aside and nothing has taken its place."""
        if self._file.exists():
            return None
        aside = sorted(self.folder.glob(f"{STORE_NAME}{_ASIDE}*"))
        if not aside:
            return None
        return f"{aside[-1]}: was the model store and is damaged; add the models again"

    def _resolved(self, record: StoreRecord, asked: str | None) -> Chosen:
        if asked is None:
            return self._of_choice(record, record.current)
        entry = record.named(asked)
        if entry is not None and entry.refused is None:
            return self.accepted_as(entry, asked)
        if entry is not None and entry.refused is not None:
            return self._instead(record, entry, asked)
        folder = shipped_named(asked, shipped_models())
        if folder is not None and not _is_folder(asked):
            return Chosen(str(folder), None, _title(folder), asked)
        return Chosen(asked, None, asked, asked)

    def _instead(self, record: StoreRecord, entry: Accepted, asked: str) -> Chosen:
        """What answers for a model of the store that was asked for by name and is refused."""
        note = f"{entry.folder} is refused ({entry.refused.reason if entry.refused else ''})"
        other = record.named(entry.name)
        if other is not None and other.refused is None:
            return replace(self.accepted_as(other, asked), note=note)
        folder = shipped_named(entry.name, shipped_models())
        if folder is not None:
            return Chosen(str(folder), None, _title(folder), asked, note)
        return replace(self._of_choice(record, record.current), asked=asked, note=note)

    def _of_choice(self, record: StoreRecord, choice: Choice) -> Chosen:
        good = choice if record.is_good(choice) else record.last_good()
        if good.origin == "store":
            entry = record.entry(good.name or "")
            assert entry is not None  # noqa: S101 - is_good has seen it
            return replace(self.accepted_as(entry), note=_returned(record))
        shipped = shipped_models()
        named = None if good == SHIPPED_DEFAULT else shipped_named(good.name or "", shipped)
        if named is not None:
            return Chosen(str(named), None, _title(named), note=_returned(record))
        missing = f"{good.name} came with an earlier installation" if good.name else None
        title = _title(shipped[-1]) if shipped else "no model"
        return Chosen(None, None, title, note=missing or _returned(record))

    def accepted_as(self, entry: Accepted, asked: str | None = None) -> Chosen:
        """The very bundle that was accepted, whether or not it may answer."""
        title = f"{entry.name} {entry.version} ({entry.vouched})"
        return Chosen(str(self.bundle(entry)), entry.manifest_sha256, title, asked)

    def _choice_token(self, looks: object) -> object:
        try:
            return self._read().choice
        except StoreUnreadable:
            return looks

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        make_folders(self.folder, _FILES)
        try:
            with FileLock(self.folder / _LOCK_NAME, timeout=_LOCK_PATIENCE_SECONDS, poll_interval=0.05):
                remove_leftovers(self.folder, _FILES.owner)
                yield
        except Timeout:
            raise StoreRefused(f"{self.folder}: another command is changing the store; try again") from None

    def _read(self) -> StoreRecord:
        try:
            return StoreRecord.model_validate_json(self._file.read_bytes())
        except FileNotFoundError:
            return StoreRecord()
        except OSError as error:
            raise StoreUnreadable(f"{self._file}: cannot be read ({error.strerror})", damaged=False) from None
        except ValidationError:
            schema = _schema_of(self._file)
            if schema is not None and schema != SCHEMA:
                raise StoreUnreadable(
                    f"{self._file}: is of the form {schema!r}, this version reads {SCHEMA!r}; update scopewatch, "
                    f"or move {self.folder} away",
                    damaged=False,
                ) from None
            raise StoreUnreadable(f"{self._file}: is damaged; add the models again", damaged=True) from None

    def _read_to_write(self) -> StoreRecord:
        try:
            return self._with_unwritten(self._read())
        except StoreUnreadable as error:
            if not error.damaged:
                raise
            self._move_aside()
            return StoreRecord()

    def _with_unwritten(self, record: StoreRecord) -> StoreRecord:
        for entry in record.accepted:
            refusal = self._unwritten.get((entry.manifest_sha256, entry.accepted))
            if refusal is not None and entry.refused is None:
                record = record.with_refused(entry.folder, refusal)
        return record

    def _write(self, record: StoreRecord) -> None:
        data = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1) + "\n"
        write_durably(self._file, data.encode(), _FILES)

    def _move_aside(self) -> None:
        """Keep a damaged store.json for whoever wants to know; it is not looked at again."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        with contextlib.suppress(FileNotFoundError):
            _FILES.replace(self._file, self._file.with_name(f"{STORE_NAME}{_ASIDE}{stamp}"))
            _FILES.fsync_folder(self.folder)

    def _write_bundle(self, target: Path, files: Mapping[str, bytes]) -> None:
        for left in target.parent.glob(f"{_DRAFT}*"):  # a kill in the middle of an earlier one
            shutil.rmtree(left, ignore_errors=True)
        draft = target.with_name(f"{_DRAFT}{secrets.token_hex(4)}")
        try:
            make_folders(draft, _FILES)
            for name, data in files.items():
                write_durably(draft / name, data, _FILES)
            _discard(target)
            replace_patiently(draft, target, _FILES)  # a scanner may hold what was just written
            _FILES.fsync_folder(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _returned(record: StoreRecord) -> str | None:
    """Why the current model is not the one that was last put to use."""
    changes = [event for event in record.history if event.what in ("used", "rolled back to", "returned to")]
    return changes[-1].note if changes and changes[-1].what == "returned to" else None


def _discard(folder: Path) -> None:
    """Take a bundle away: out of its place at once, off the disk then."""
    gone = folder.with_name(f"{_DRAFT}{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        replace_patiently(folder, gone, _FILES)
    shutil.rmtree(gone, ignore_errors=True)


def _is_folder(asked: str) -> bool:
    try:
        return os.path.isdir(asked)  # noqa: PTH112 - of any text, without raising
    except ValueError:
        return False


def _title(folder: Path) -> str:
    return f"{' '.join(name_and_version(folder.name))} (shipped)"


def _schema_of(file: Path) -> str | None:
    try:
        found = json.loads(file.read_bytes()).get("schema")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


__all__ = ["Chosen", "ModelStore", "StoreRefused", "StoreUnreadable", "choice_of"]
