"""One picture, one crop: files that hold the same picture as another are dropped, with the reason.

Only this module knows when two files are the same picture: equal bytes, or equal pixels after cutting (one
micrograph saved twice, say as dm3 and as tif). A copy on the other side of a split would be a leak.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trainer.split import listed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.cutting import CutFile


def without_copies(cuts: Sequence[CutFile]) -> list[CutFile]:
    """Drop all but the first of files with equal bytes or equal pixels; all where their classes differ."""
    by_bytes = _drop_copies(cuts, lambda cut: cut.content, "duplicate content: same sha256 as")
    return _drop_copies(by_bytes, _pixel_names, "duplicate pixels: same picture as")


def _pixel_names(cut: CutFile) -> str:
    """Equal for files of one picture saved twice, say as dm3 and as tif."""
    return f"{cut.shape_px} {[crop.cached for crop in cut.crops]}"


def _drop_copies(cuts: Sequence[CutFile], key: Callable[[CutFile], str], reason: str) -> list[CutFile]:
    alike: defaultdict[str, list[CutFile]] = defaultdict(list)
    for cut in cuts:
        if not cut.reason:
            alike[key(cut)].append(cut)
    reasons: dict[str, str] = {}
    for members in alike.values():
        first, *copies = members
        if len({PurePosixPath(cut.source).parts[0] for cut in members}) > 1:
            sources = [cut.source for cut in members]
            for cut in members:
                others = listed([source for source in sources if source != cut.source])
                reasons[cut.source] = f"contradictory label: the same picture is {others}"
        else:
            reasons |= {cut.source: f"{reason} {first.source}" for cut in copies}
    return [cut.model_copy(update={"reason": reasons.get(cut.source, cut.reason)}) for cut in cuts]
