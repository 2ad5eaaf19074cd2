"""Heatmaps of files that were finished long ago are removed, where the configuration says so; nothing else is.

A heatmap is ours when the sidecar beside it is whole, names it and holds its hash: everything else stays, and so
does every micrograph and every sidecar. The folders are gone through once an hour, a few files at a time, so
that neither the disk nor the clerk, whose thread this is, is held up.
"""

from __future__ import annotations

import contextlib
import logging
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.files import SYSTEM_FILES, FileLayer, read_whole
from edge_agent.output_places import HEATMAP_SUFFIX, SIDECAR_SUFFIX, OutputPlan
from edge_agent.sidecar import as_text, heatmaps_kept_since, is_past, read_record
from edge_agent.watching.folder_listing import ListingRules, regular_stamp, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

_EVERY_SECONDS: Final = 3600.0
_AT_A_TIME: Final = 50
"""So many heatmaps are looked at in one step; an old one costs reading its sidecar and itself."""
_HEATMAP_LIMIT_BYTES: Final = 64 * 2**20
_log = logging.getLogger(__name__)


class HeatmapAgeing:
    """Remove the heatmaps below one watched folder's outputs that are older than `days`, step by step."""

    def __init__(
        self,
        root: Path,
        plan: OutputPlan,
        days: int,
        clock: Callable[[], float],
        layer: FileLayer = SYSTEM_FILES,
    ) -> None:
        self._outputs = plan.place(root / "x").sidecar.parent
        self._days = days
        self._clock = clock
        self._layer = layer
        self._round: Iterator[int] | None = None
        self._due = float("-inf")
        self._foreign: dict[Path, int] = {}

    def step(self) -> int:
        """Do a little of the round that is under way, or begin one when it is time; return how many went."""
        if self._round is None:
            if self._clock() < self._due:
                return 0
            self._round = self._go_round()
        removed = next(self._round, None)
        if removed is None:
            self._round, self._due = None, self._clock() + _EVERY_SECONDS
        return removed or 0

    def _go_round(self) -> Iterator[int]:
        """Yield after every few heatmaps, and after each folder, how many were removed."""
        since = heatmaps_kept_since(self._days)
        total, foreign = 0, {}
        folders = [str(self._outputs)]
        while folders:
            heatmaps, below = _listed(folders.pop())
            folders.extend(below)
            for start in range(0, max(1, len(heatmaps)), _AT_A_TIME):
                removed = 0
                for heatmap in heatmaps[start : start + _AT_A_TIME]:
                    modified_ns = _modified_ns(heatmap, since)
                    if modified_ns is None:
                        continue
                    verdict = (
                        "foreign" if self._foreign.get(heatmap) == modified_ns else _judge(heatmap, since)
                    )
                    if verdict == "foreign":
                        foreign[heatmap] = modified_ns
                    elif verdict == "past" and _modified_ns(heatmap, since) == modified_ns:
                        removed += self._remove(heatmap)
                total += removed
                yield removed
        # Not read again before it changes.
        self._foreign = foreign
        if total:
            _log.info(
                "%d heatmaps older than %d days were removed below %s", total, self._days, self._outputs
            )

    def _remove(self, heatmap: Path) -> int:
        try:
            self._layer.unlink(heatmap)
        except OSError as error:
            _log.warning("heatmaps in %s cannot be removed: %s", heatmap.parent, error.strerror or error)
            return 0
        return 1


def _listed(folder: str) -> tuple[list[Path], list[str]]:
    """Return the heatmaps and the folders in a folder; nothing where it cannot be listed."""
    try:
        listing = survey(folder, ListingRules(lambda name: name.endswith(HEATMAP_SUFFIX)))
    except OSError:
        return [], []
    return [Path(folder, name) for name in listing.names], listing.folders


def _modified_ns(heatmap: Path, since: datetime | None) -> int | None:
    """Return a heatmap's time where it was written before `since`, else None.

    It is written before the sidecar says that the file is finished: one that is due is at least as old.
    """
    with contextlib.suppress(OSError):
        stamp = regular_stamp(str(heatmap))
        if stamp is not None and since is not None and stamp.modified_ns < since.timestamp() * 1e9:
            return stamp.modified_ns
    return None


def _judge(heatmap: Path, since: datetime | None) -> Literal["past", "young", "foreign"]:
    """Say whether a heatmap is ours, and past its time."""
    source = heatmap.name.removesuffix(HEATMAP_SUFFIX)
    record = read_record(heatmap.with_name(source + SIDECAR_SUFFIX))
    if record is None or record.cam is None or record.cam.heatmap != as_text(heatmap.name):
        return "foreign"
    if not is_past(record, since):
        return "young"
    picture = read_whole(heatmap, _HEATMAP_LIMIT_BYTES)
    is_ours = picture is not None and sha256(picture).hexdigest() == record.cam.heatmap_sha256
    return "past" if is_ours else "foreign"
