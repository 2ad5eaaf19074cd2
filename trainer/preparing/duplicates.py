"""One picture, one crop: files that hold the same picture as another are dropped, with the reason.

Only this module knows which of several copies stays and what becomes of copies in different classes. Two files
are the same picture by equal bytes, by equal pixels after cutting (one micrograph saved twice, say as dm3 and as
tif), or because they are nearly the same (`preparing.near_duplicates`). A copy on the other side of a split would
be a leak; so would be a neighbouring view, which stays and gets a name together with its neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from trainer.preparing.near_duplicates import Limits, find
from trainer.preparing.split import PrepareError, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.preparing.cutting import CutFile
    from trainer.preparing.near_duplicates import Embed, Progress


def without_copies(cuts: Sequence[CutFile], label_of: Callable[[str], str]) -> list[CutFile]:
    """Drop all but the first of files with equal bytes or equal pixels; all where their classes differ."""
    by_bytes = _drop_copies(cuts, label_of, lambda cut: cut.content, "duplicate content: same sha256 as")
    return _drop_copies(by_bytes, label_of, _pixel_names, "duplicate pixels: same picture as")


def without_near_copies(
    cuts: Sequence[CutFile],
    label_of: Callable[[str], str],
    out: Path,
    *,
    limits: Limits | None = None,
    embed: Embed | None = None,
    progress: Progress | None = None,
) -> list[CutFile]:
    """Drop pictures that were saved again (other format, size, contrast, crop); name neighbouring views.

    Of copies the calibrated one with the most pixels stays, all are dropped where their classes differ. Pictures
    that stay and show about the same area get the same `near`, the first one's source; of another class among them
    a note tells. `out` is the data set folder, where the overviews lie. PrepareError where one cannot be read.
    """
    looked_at = [cut for cut in cuts if not cut.reason and cut.overview]
    pairs = find(_Overviews(looked_at, out), embed=embed, limits=limits, progress=progress)
    reasons: dict[str, str] = {}
    for members in _joined((pair.first, pair.second) for pair in pairs if pair.kind == "same"):
        reasons |= _reasons([looked_at[index] for index in members], label_of)
    marks: dict[str, dict[str, str]] = {}
    for members in _joined((pair.first, pair.second) for pair in pairs):
        kept = [looked_at[index] for index in members if looked_at[index].source not in reasons]
        if len(kept) > 1:
            marks |= {cut.source: _mark(cut, kept, label_of) for cut in kept}
    return [
        cut.model_copy(
            update={"reason": reasons[cut.source]} if cut.source in reasons else marks.get(cut.source)
        )
        for cut in cuts
    ]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Later pictures beside those of a data set."""

    cuts: tuple[CutFile, ...]
    """The later ones, with the reason of those that are copies."""
    copy_of: Mapping[str, str]
    """Of which picture, by source: one of the data set, or the later one that stays."""
    near: tuple[tuple[str, str], ...]
    """Pairs of sources, one of them at least a later one, that show about the same area."""


def beside(
    base: Sequence[CutFile],
    later: Sequence[CutFile],
    label_of: Callable[[str], str],
    out: Path,
    *,
    limits: Limits | None,
    embed: Embed | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare later pictures with those of a data set and with each other; nothing becomes of the former.

    What is in the data set already is dropped, whatever its class; of copies among the later ones one stays, or
    none where their classes differ. `limits` of None: only equal pixels are looked for.
    """
    there = {_pixel_names(cut): cut.source for cut in reversed(base) if not cut.reason}
    copy_of = {
        cut.source: there[key] for cut in later if not cut.reason and (key := _pixel_names(cut)) in there
    }
    cuts = [_dropped(cut, "duplicate pixels", copy_of) for cut in later]
    cuts = _drop_copies(cuts, label_of, _pixel_names, "duplicate pixels: same picture as")
    if limits is None:
        return Comparison(tuple(cuts), copy_of, ())
    old = [cut for cut in base if not cut.reason and cut.overview]
    new = [cut for cut in cuts if not cut.reason and cut.overview]
    shown = [*old, *new]
    pairs = find(_Overviews(shown, out), embed=embed, limits=limits, progress=progress, since=len(old))
    same = [(pair.first, pair.second) for pair in pairs if pair.kind == "same"]
    here = {shown[second].source: shown[first].source for first, second in reversed(same) if first < len(old)}
    cuts = [_dropped(cut, "near duplicate", here) for cut in cuts]
    reasons: dict[str, str] = {}
    for members in _joined(same):
        left = [shown[index] for index in members if index >= len(old) and shown[index].source not in here]
        if len(left) > 1:
            reasons |= (gone := _reasons(left, label_of))
            stays = [cut.source for cut in left if cut.source not in gone]
            copy_of |= {source: stays[0] for source in gone if stays}
    cuts = [cut.model_copy(update={"reason": reasons.get(cut.source, cut.reason)}) for cut in cuts]
    near = tuple((shown[pair.first].source, shown[pair.second].source) for pair in pairs)
    return Comparison(tuple(cuts), copy_of | here, near)


def _dropped(cut: CutFile, kind: str, copy_of: Mapping[str, str]) -> CutFile:
    if cut.reason or cut.source not in copy_of:
        return cut
    return cut.model_copy(update={"reason": f"{kind}: same picture as {copy_of[cut.source]}"})


def _reasons(copies: Sequence[CutFile], label_of: Callable[[str], str]) -> dict[str, str]:
    """Why each of several copies goes; the one that stays is left out."""
    if len({label_of(cut.source) for cut in copies}) > 1:
        return _contradictions(copies, "nearly the same picture is")
    best = max(copies, key=lambda cut: (cut.pixel_size_nm is not None, cut.shape_px[0] * cut.shape_px[1]))
    return {cut.source: f"near duplicate: same picture as {best.source}" for cut in copies if cut is not best}


def _mark(cut: CutFile, kept: Sequence[CutFile], label_of: Callable[[str], str]) -> dict[str, str]:
    label = label_of(cut.source)
    strangers = [other.source for other in kept if label_of(other.source) != label]
    note = f"about the same area in another class: {listed(strangers)}" if strangers else ""
    return {"near": kept[0].source, "note": "; ".join(filter(None, (cut.note, note)))}


def _joined(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Sets of indices that pairs connect, each sorted."""
    sets: dict[int, set[int]] = {}
    for first, second in pairs:
        both = sets.get(first, {first}) | sets.get(second, {second})
        for index in both:
            sets[index] = both
    return [sorted(members) for members in {id(members): members for members in sets.values()}.values()]


class _Overviews(SequenceABC["NDArray[np.uint8]"]):
    """The pictures that are compared, read when they are needed: 20,000 of them would fill half a gigabyte."""

    def __init__(self, cuts: Sequence[CutFile], out: Path) -> None:
        self._cuts, self._out = cuts, out

    def __len__(self) -> int:
        return len(self._cuts)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.uint8]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.uint8] | Sequence[NDArray[np.uint8]]:
        if isinstance(index, slice):
            return _Overviews(self._cuts[index], self._out)
        overview = self._cuts[index].overview
        assert overview is not None  # chosen so  # noqa: S101
        path = self._out / overview.cached
        try:
            picture: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise PrepareError(
                f"{path}: the overview of {self._cuts[index].source} cannot be read ({error}); "
                "run `edge-trainer prepare` again"
            ) from error
        return picture


def _pixel_names(cut: CutFile) -> str:
    """Equal for files of one picture saved twice, say as dm3 and as tif."""
    return f"{cut.shape_px} {[crop.cached for crop in cut.crops]}"


def _drop_copies(
    cuts: Sequence[CutFile], label_of: Callable[[str], str], key: Callable[[CutFile], str], reason: str
) -> list[CutFile]:
    alike: defaultdict[str, list[CutFile]] = defaultdict(list)
    for cut in cuts:
        if not cut.reason:
            alike[key(cut)].append(cut)
    reasons: dict[str, str] = {}
    for members in alike.values():
        first, *copies = members
        if len({label_of(cut.source) for cut in members}) > 1:
            reasons |= _contradictions(members, "the same picture is")
        else:
            reasons |= {cut.source: f"{reason} {first.source}" for cut in copies}
    return [cut.model_copy(update={"reason": reasons.get(cut.source, cut.reason)}) for cut in cuts]


def _contradictions(copies: Sequence[CutFile], what: str) -> dict[str, str]:
    sources = [cut.source for cut in copies]
    return {
        source: f"contradictory label: {what} {listed([other for other in sources if other != source])}"
        for source in sources
    }
