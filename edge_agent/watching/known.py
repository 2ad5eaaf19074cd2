"""What the watcher asks of the journal: in which state a file was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from edge_agent.files import FileStamp


class KnownState(Protocol):
    """The state in which a file was done, and whether a sidecar belongs to it."""

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""

    @property
    def modified_ns(self) -> int:
        """Modification time in ns since 1970."""

    @property
    def recorded(self) -> bool:
        """Whether a sidecar was written."""


class Known(Protocol):
    """What is already done: the journal, or a test's dictionary."""

    def of(self, path: Path) -> KnownState | None:
        """Return the state in which one file was done."""

    def in_folder(self, folder: Path) -> Mapping[str, KnownState]:
        """Return the files of one folder that are done, by name."""

    def folders_below(self, root: Path) -> Iterable[Path]:
        """Return the folders at and below `root` that hold files which are done."""


def is_state(stamp: FileStamp, known: KnownState) -> bool:
    """Whether a file is in the state in which it was done."""
    return (stamp.size_bytes, stamp.modified_ns) == (known.size_bytes, known.modified_ns)
