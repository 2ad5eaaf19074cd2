"""Where the outputs of a micrograph go, and what they are called.

Only this module knows the names of output files: beside each micrograph, or in a mirrored tree.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIDECAR_SUFFIX: Final = ".json"
HEATMAP_SUFFIX: Final = ".heatmap.png"
LABEL_SUFFIX: Final = ".label.json"
NAME_LIMIT: Final = 255
"""Bytes of a name on Linux and macOS, UTF-16 units on Windows."""


class NameTooLong(Exception):
    """The outputs' names would not fit into the file system; the text names the file and the limit."""


class NameTaken(NameTooLong):
    """The sidecar would have the name of another file's labels; whoever cannot name outputs stops the same way."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the outputs of one micrograph go."""

    sidecar: Path
    heatmap: Path

    @property
    def labels(self) -> Path:
        """What people say of the micrograph; unlike the other two never removed or replaced by the agent."""
        return self.sidecar.with_name(self.sidecar.name.removesuffix(SIDECAR_SUFFIX) + LABEL_SUFFIX)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Beside each micrograph, or mirrored below `output`.

    Mirrored paths count from the folder that all `roots` have in common, so that two roots can never clash
    and a single root is mirrored directly.
    """

    output: Path | None = None
    roots: tuple[Path, ...] = ()

    def place(self, source: Path) -> Place:
        """Return where `source`'s outputs go. Raises NameTooLong (a name is never shortened), NameTaken."""
        _require_room(source)
        _require_free_name(source)
        folder = source.parent if self.output is None else self.output / self._below_roots(source.parent)
        return Place(folder / (source.name + SIDECAR_SUFFIX), folder / (source.name + HEATMAP_SUFFIX))

    def _below_roots(self, folder: Path) -> Path:
        try:
            return folder.relative_to(os.path.commonpath(self.roots))
        except ValueError:
            # Roots on several drives of Windows have nothing in common, and a path may lie outside all roots.
            drive = folder.drive.replace(":", "").strip("\\/").replace("\\", "/")
            return Path(drive) / folder.relative_to(folder.anchor)


def _require_room(source: Path) -> None:
    name = source.name + HEATMAP_SUFFIX
    length = (
        len(name.encode("utf-16-le", "surrogatepass")) // 2 if os.name == "nt" else len(os.fsencode(name))
    )
    if length > NAME_LIMIT:
        unit = "characters" if os.name == "nt" else "bytes"
        raise NameTooLong(
            f"the name has no room for {HEATMAP_SUFFIX!r}: {length} {unit} where {NAME_LIMIT} are possible; "
            "rename the file"
        )


def _require_free_name(source: Path) -> None:
    other = source.name[: -len(LABEL_SUFFIX) + len(SIDECAR_SUFFIX)]
    if (source.name + SIDECAR_SUFFIX).casefold().endswith(LABEL_SUFFIX):
        raise NameTaken(f"its sidecar would have the name of the labels of {other!r}; rename the file")


def is_own_output(name: str) -> bool:
    """Whether a file name is one that this module gives out, and so never a micrograph."""
    lowered = name.casefold()
    return lowered.endswith((SIDECAR_SUFFIX, HEATMAP_SUFFIX))


def readable_path(path: Path) -> str:
    r"""Return the path as text that any JSON reader takes: bytes that are no UTF-8 become \xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
