"""What a second look found: which labelled micrographs the present model gets right that an earlier one did not.

Only this module knows what counts as fixed and as broken, the form in which it is kept, and the statements that
find the labels. Entries get other ids when the journal is made anew, so contents are kept and not ids.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from edge_agent.files import read_whole, write_durably

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

SCHEMA: Final = "scopewatch.second-look/1"
LOOKS_NAME: Final = "second-look.json"
LOOKS_FOLDER: Final = "second-look"
"""In the state folder, for as long as a look runs."""
MOST_PAIRS: Final = 5
"""Looks that are kept, one for each two models."""
_FILE_LIMIT_BYTES: Final = 2**20
_MOST_PATHS: Final = 5
# The last word that counts on each content; in SQLite, bare columns come from the row of the maximum.
_LABELLED: Final = """
SELECT content, label, record, folder, name, MAX(at_us) AS last_us FROM labels
WHERE content IS NOT NULL AND void = 0 AND action <> 'undo'
GROUP BY content HAVING label IS NOT NULL ORDER BY last_us DESC
"""
_PATHS: Final = (
    "SELECT path, name FROM entries JOIN folders ON folders.id = entries.folder WHERE content = ? "
    "ORDER BY entries.id DESC LIMIT ?"
)
_ID: Final = "SELECT MAX(id) FROM entries WHERE content = ?"


class Labelled(NamedTuple):
    """What a person said of some bytes, what had been shown to them, and where the bytes may lie."""

    content: str
    label: str
    shown: str | None
    model_sha256: str
    paths: tuple[Path, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelName(_Part):
    """A model; of an earlier one perhaps nothing but the hash is known."""

    sha256: str
    name: str | None = None
    version: str | None = None


class Flips(_Part):
    """One look, finished or not. `missing` were not found, or not answered."""

    total: int = Field(default=0, ge=0)
    before: ModelName | None = None
    after: ModelName | None = None
    fixed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    same: int = Field(default=0, ge=0)
    missing: int = Field(default=0, ge=0)
    at: AwareDatetime | None = None

    @property
    def done(self) -> int:
        """How many were looked at."""
        return len(self.fixed) + len(self.broken) + self.same + self.missing

    def with_answer(self, labelled: Labelled, label: str | None) -> Flips:
        """Return this look with one more answer of the present model; None: there was none."""
        if label is None:
            return self.model_copy(update={"missing": self.missing + 1})
        was_right, is_right = labelled.shown == labelled.label, label == labelled.label
        if was_right == is_right:
            return self.model_copy(update={"same": self.same + 1})
        kind = "fixed" if is_right else "broken"
        return self.model_copy(update={kind: (*getattr(self, kind), labelled.content)})


class _File(_Part):
    schema_name: Literal["scopewatch.second-look/1"] = Field(SCHEMA, alias="schema")
    looks: tuple[Flips, ...] = ()


def read_flips(path: Path) -> tuple[Flips, ...]:
    """Return the looks that are kept, the newest first; none where the file is none."""
    data = read_whole(path, _FILE_LIMIT_BYTES)
    try:
        return () if data is None else _File.model_validate_json(data).looks
    except ValidationError:
        return ()


def write_flips(path: Path, flips: Flips) -> None:
    """Keep a look, in place of an earlier one at the same two models. Raises OSError."""
    others = (one for one in read_flips(path) if _pair(one) != _pair(flips))
    file = _File(looks=(flips, *others)[:MOST_PAIRS])
    write_durably(path, file.model_dump_json(by_alias=True).encode())


def read_labelled(connection: sqlite3.Connection, model_sha256: str, most: int) -> tuple[Labelled, ...]:
    """Return the newest labels that were given under another model than this. Raises what SQLite does."""
    found: list[Labelled] = []
    for content, label, record, folder, name, _ in connection.execute(_LABELLED):
        shown, model = _shown(record)
        if model in (None, model_sha256):
            continue
        rows = [*connection.execute(_PATHS, (content, _MOST_PATHS)), (folder, name)]
        paths = tuple(dict.fromkeys(Path(os.fsdecode(place)) / os.fsdecode(leaf) for place, leaf in rows))
        found.append(Labelled(content, label, shown, str(model), paths))
        if len(found) >= most:
            break
    return tuple(found)


def read_ids(connection: sqlite3.Connection, contents: Sequence[str]) -> list[int]:
    """Return the newest entry of each content that still has one. Raises what SQLite does."""
    found = (connection.execute(_ID, (content,)).fetchone()[0] for content in contents)
    return [number for number in found if number is not None]


def _shown(record: str) -> tuple[str | None, str | None]:
    """Return the label and the model that stood there when the label was given."""
    try:
        shown = json.loads(record)["shown"]
        return shown["label"], shown["model_sha256"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, None


def _pair(flips: Flips) -> tuple[str | None, str | None]:
    before, after = flips.before, flips.after
    return before.sha256 if before else None, after.sha256 if after else None
