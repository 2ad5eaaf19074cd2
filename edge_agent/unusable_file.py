"""Why a file gives no micrograph: the one family of exceptions that reading raises about a file's content.

Only this module knows how the three outcomes are told apart in words. The readers below `read_micrograph`
raise them with a reason alone; `about` adds the file once it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.files import SourceFile


class UnusableFile(Exception):
    """A file without a usable micrograph. `reason` is a sentence without the file's name, `str` has both.

    `source` is None where the bytes could not be read as one state of the file.
    """

    def __init__(self, reason: str, path: Path | None = None, source: SourceFile | None = None) -> None:
        super().__init__(reason if path is None else f"{path}: {reason}")
        self.reason = reason
        self.path = path
        self.source = source

    def about(self, path: Path, source: SourceFile | None) -> Self:
        """Return the same finding with the file that it is about."""
        return type(self)(self.reason, path, source)


class IncompleteFile(UnusableFile):
    """The file ends, or holds zeros, before what its own header promises: it may still be on its way."""


class DamagedFile(UnusableFile):
    """The bytes are no file of a known kind, contradict themselves, or ask for more than the limits allow."""


class NotAnImage(UnusableFile):
    """The file is sound and holds something else than a micrograph."""
