"""The label file on the disk: read, and added to durably, each event once.

Nothing that a person said is destroyed: a damaged file is kept beside the new one under a name of its own, and one
of a later version is left alone. Only this module knows that name.
"""

from __future__ import annotations

import errno
import json
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from edge_agent.files import SYSTEM_FILES, FileLayer, read_small, require_room, write_durably
from edge_agent.labelling.label_record import SCHEMA, LabelFile, label_json, read_label_file
from edge_agent.output_places import LABEL_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from edge_agent.labelling.label_record import LabelEvent

LIMIT_BYTES: Final = 64 * 2**20
"""No label file of ours is as long; what is, is not read."""
_FAMILY: Final = "scopewatch.label/"
_KEPT_SUFFIX: Final = ".label.kept-{}.json"
_log = logging.getLogger(__name__)


def read_events(path: Path) -> tuple[LabelEvent, ...]:
    """Return what was said, the oldest first; nothing where there is no label file.

    Raises OSError where it cannot be read, ValueError where it is none.
    """
    try:
        return read_label_file(read_small(path, LIMIT_BYTES)).events
    except FileNotFoundError:
        return ()


def add_events(
    path: Path, events: Iterable[LabelEvent], layer: FileLayer = SYSTEM_FILES, floor_mib: int = 0
) -> int:
    """Add those events whose ids are not there yet, and return how many; they are on the disk when it returns.

    Raises OSError; what was said before then is still there.
    """
    kept = _understood(path, layer)
    known = {event.id for event in kept}
    new = {event.id: event for event in events if event.id not in known}
    if new:
        text = label_json(LabelFile(schema=SCHEMA, events=(*kept, *new.values()))).encode()
        require_room(path.parent, len(text), floor_mib)
        write_durably(path, text, layer)
    return len(new)


def _understood(path: Path, layer: FileLayer) -> tuple[LabelEvent, ...]:
    try:
        return read_events(path)
    except ValueError:
        _require_no_later_version(path)
        aside = _put_aside(path, layer)
        _log.warning("%s is no label file; kept as %s, and begun anew", path, aside.name)
        return ()


def _require_no_later_version(path: Path) -> None:
    """Raise OSError where another agent writes a form that this one does not know: both would take turns."""
    try:
        schema = json.loads(read_small(path, LIMIT_BYTES))["schema"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    if isinstance(schema, str) and schema.startswith(_FAMILY) and schema != SCHEMA:
        raise OSError(errno.EEXIST, f"is of another version ({schema[:40]!r}); update this agent", str(path))


def _put_aside(path: Path, layer: FileLayer) -> Path:
    # By its content: the same file that comes back, from a backup for example, is kept once.
    digest = sha256(read_small(path, LIMIT_BYTES)).hexdigest()[:8]
    aside = path.with_name(path.name.removesuffix(LABEL_SUFFIX) + _KEPT_SUFFIX.format(digest))
    layer.replace(path, aside)
    layer.fsync_folder(path.parent)
    return aside
