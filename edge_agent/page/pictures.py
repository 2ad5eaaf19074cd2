"""The pictures of an archive's entries: those that are kept, and those that somebody has to draw first.

Only this module knows which entries have a picture. Nothing is shown as an entry whose bytes are not that entry's:
pictures are found by content, and drawn from files whose content was compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_agent.page.picture_budget import PictureBudget
from edge_agent.page.picture_process import PICTURE_COMMAND, NoPicture, PictureProcess
from edge_agent.picture_orders import MEMORY_LIMIT_MIB, MakerSettings, Order
from edge_agent.preview_files import PICTURES_FOLDER, read_preview

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from edge_agent.archive import Archive
    from edge_agent.finding import Finding
    from edge_agent.page.entry_row import EntryRow
    from edge_agent.preview_files import Kind, Previews

_WORDS: Final = {
    "not_an_image": "the file is no micrograph",
    "unreadable": "the file could not be read",
    "quarantined": "the file is quarantined: nothing opens it",
    "refused": "the file was refused",
}


class Pictures:
    """May be asked from any thread, until `close`."""

    def __init__(self, archive: Archive, *, command: Sequence[str] = PICTURE_COMMAND) -> None:
        self._folder = archive.state / PICTURES_FOLDER if archive.pictures_mib else None
        self._budget = None if self._folder is None else PictureBudget(self._folder, archive.pictures_mib)
        limit_mib = archive.settings.memory_limit_mib if archive.settings else None
        settings = MakerSettings(
            archive.folders,
            self._folder,
            archive.snapshot_limit_mib,
            archive.free_space_floor_mib,
            limit_mib or MEMORY_LIMIT_MIB,
        )
        self._process = PictureProcess(settings, command=command)

    def kept(self, row: EntryRow, kind: Kind) -> bytes | None:
        """Return the JPEG that is there already, or None. Raises NoPicture where there can be none."""
        if row.outcome != "classified" or row.content is None:
            raise NoPicture(_WORDS.get(row.outcome, "there is no picture of this file"))
        return None if self._folder is None else read_preview(self._folder, row.content, kind)

    def drawn(self, row: EntryRow) -> Future[Previews]:
        """Return the pictures to come, of a row that `kept` has none of; the future raises NoPicture."""
        future = self._process.ask(Order(row.path, row.content or ""))
        future.add_done_callback(self._note_drawn)
        return future

    def note_finding(self, finding: Finding) -> None:
        """Hear what became of a file: of a classified one the worker has kept a picture."""
        if self._budget is not None and finding.outcome == "classified" and finding.inferred:
            self._budget.note()

    def close(self) -> None:
        """Draw and remove nothing more; returns at once."""
        self._process.close()
        if self._budget is not None:
            self._budget.close()

    def _note_drawn(self, future: Future[Previews]) -> None:
        if self._budget is not None and not future.cancelled() and future.exception() is None:
            self._budget.note()
