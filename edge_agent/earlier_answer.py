"""The answer to a file that was renamed, moved or copied: the same content needs no second look.

Only this module knows when an earlier record answers for another file: its sidecar is whole and in its place,
was made from the same bytes at the same pixel size by the same model, and its heatmap is the one it names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from edge_agent.files import read_whole
from edge_agent.instrument_profile import NO_PROFILE, InstrumentProfile
from edge_agent.output_places import NameTooLong, OutputPlan, Place
from edge_agent.sidecar import MicrographRecord, Sidecar, Twin, is_past, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

_HEATMAP_LIMIT_BYTES: Final = 64 * 2**20
_KEPT: Final = frozenset({"classified", "not_an_image", "quarantined"})
"""Not `unreadable`: that is found out again at once, and an incomplete file may have been completed."""


@dataclass(frozen=True, slots=True)
class EarlierAnswer:
    """A record that holds for other bytes just the same, and its heatmap."""

    record: Sidecar
    picture: bytes | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer must be: by this model, with these pixel sizes, with its heatmap.

    None has to be there without `heatmap`, nor of a file that was finished before `heatmaps_since`.
    """

    model_sha256: str
    heatmap: bool = True
    heatmaps_since: datetime | None = None
    instrument: InstrumentProfile = NO_PROFILE


def is_worth_hashing(twins: Iterable[Twin]) -> bool:
    """Whether the file may be one of `twins` under a new name: one of them is no longer where it was.

    Only then is it read once more for its hash alone. Frames of a series are of one size and time as well,
    and reading each of them twice would burden the share.
    """
    return any(not os.path.lexists(twin.path) for twin in twins)


def earlier_answer(
    content_sha256: str | None, twins: Iterable[Twin], places: tuple[OutputPlan, Place], wanted: Wanted
) -> EarlierAnswer | None:
    """Return what one of `twins` is known to be, when its bytes hash to `content_sha256`; else None.

    Its outputs are looked for where the plan puts them, and in the place of the new file's own: whoever
    renames a file by hand may have renamed its outputs with it.
    """
    plan, own = places
    for twin in twins:
        if content_sha256 is None or twin.sha256 != content_sha256:
            continue
        for place in (*_place_of(twin, plan), own):
            found = _answer_at(place, content_sha256, wanted)
            if found is not None:
                return found
    return None


def _place_of(twin: Twin, plan: OutputPlan) -> Iterator[Place]:
    try:
        yield plan.place(twin.path)
    except NameTooLong:
        return


def _answer_at(place: Place, content_sha256: str, wanted: Wanted) -> EarlierAnswer | None:
    record = read_record(place.sidecar)
    if record is None or record.outcome not in _KEPT:
        return None
    if (record.source.sha256, record.model.sha256) != (content_sha256, wanted.model_sha256):
        return None
    if not _is_at_this_pixel_size(record.micrograph, wanted.instrument):
        return None
    if record.cam is None or not wanted.heatmap:
        return EarlierAnswer(record, None)
    picture = read_whole(place.heatmap, _HEATMAP_LIMIT_BYTES)
    if picture is not None and sha256(picture).hexdigest() == record.cam.heatmap_sha256:
        return EarlierAnswer(record, picture)
    return EarlierAnswer(record, None) if is_past(record, wanted.heatmaps_since) else None


def _is_at_this_pixel_size(micrograph: MicrographRecord | None, instrument: InstrumentProfile) -> bool:
    """Whether the configuration would give the picture the pixel size that it was answered at."""
    if micrograph is None:
        return True
    size_nm = instrument.pixel_size_at(micrograph.instrument.magnification)
    if size_nm is None:
        return micrograph.pixel_size_replaced is None
    return micrograph.pixel_size_replaced is not None and micrograph.pixel_size_nm == (size_nm, size_nm)
