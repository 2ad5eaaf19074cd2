"""One file of the raw folder -> its crops as cached 8-bit pixels, or the reason why there are none.

Only this module knows the cache: what was found in each file is kept under a name made of the file's stamp,
the preprocessing and the code that did the work, pixels under the hash of their content. So an interrupted
run goes on where it stopped, a changed file or rule is done again, and equal pixels are known by their name.
What is measured of a file is kept with it, thresholds are not: another threshold reads no file again.

Files are examined in separate processes: one that kills a native decoder is named, and Ctrl-C loses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

import edge_agent
from edge_agent.files import FileStamp, stamp_of
from edge_agent.grey_scale import ContrastLimits
from edge_agent.micrograph import Micrograph, NotAnImage, UnusableFile, read_micrograph
from edge_agent.preprocessing import (
    Box,
    FieldStatistics,
    Preprocessing,
    describe_field,
    grey_field,
    input_shape,
    plan_boxes,
)
from trainer.preparing.burnt_in import find_burnt_in
from trainer.preparing.quality import Measures, measured, standard_field
from trainer.preparing.split import PrepareError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

CACHE_FOLDER: Final = "cache"
OVERVIEW_PX: Final = 160
"""Side of the square whose area the overview of a whole field has."""
_AGENT_FOLDER: Final = Path(edge_agent.__file__).parent
_OWN_CODE: Final = ("cutting", "quality", "burnt_in")
_AGENT_IMPORT: Final = re.compile(r"^\s*(?:from|import) edge_agent\.(\w+)", re.MULTILINE)
# Starting processes takes about a second, which few or small files do not repay.
_FILES_WORTH_PROCESSES: Final = 48
_BYTES_WORTH_PROCESSES: Final = 128 * 2**20
_MOST_PROCESSES: Final = 61  # what Windows can wait for at once


class CachedCrop(BaseModel):
    """One box of a micrograph and where its pixels are, relative to the data set folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_px: Box
    cached: str
    cached_bytes: int


class CutFile(BaseModel):
    """What one source file gave. `crops` is empty exactly where there is a `reason`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    content: str = ""
    """Names the bytes: the sha256, or the fingerprint above the snapshot limit, "" where unreadable."""
    sha256: str | None = None
    shape_px: tuple[int, int] = (0, 0)
    pixel_size_nm: tuple[float, float] | None = None
    reason: str = ""
    crops: tuple[CachedCrop, ...] = ()
    acquired: str = ""
    """ISO 8601, UTC; "" where the file does not say it unambiguously."""
    microscope: str = ""
    """As written in the file."""
    measures: Measures | None = None
    """None where the file gave no pixels, too few of them, or nothing but noise."""
    overview: CachedCrop | None = None
    """The whole field, small, without an info bar: what near-duplicates are known by."""
    near: str = ""
    """Names the pictures of about the same area, of which this is one; given after cutting."""
    note: str = ""
    """What a person should know of a picture that is kept; given after cutting."""


@dataclass(frozen=True, slots=True)
class CutPlan:
    """How files become crops, and where these go: `out` is the data set folder, paths are below `raw`."""

    raw: Path
    out: Path
    preprocessing: Preprocessing
    cache_px: int
    info_bars: Literal["keep", "crop"] = "keep"
    """"crop": boxes and contrast limits are of the field above a burnt-in info bar."""
    elsewhere: Mapping[str, Path] = field(default_factory=dict)
    """Sources that do not lie below `raw`, and where they do."""

    def path_of(self, source: str) -> Path:
        """Where a source lies."""
        return self.elsewhere.get(source) or self.raw / source

    def only(self, source: str) -> CutPlan:
        """What the process that cuts this source needs to know of the plan."""
        here = {source: self.elsewhere[source]} if source in self.elsewhere else {}
        return replace(self, elsewhere=here)


def cut_files(
    sources: Sequence[str],
    plan: CutPlan,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> tuple[CutFile, ...]:
    """Cut every source (relative to the raw folder), over all cores; the answers are in the sources' order.

    `progress(done, total)` is called in this thread. At most `workers` micrographs are in memory at once
    (by default one a core). Raises PrepareError when the cache cannot be written or a process dies.
    """
    found = {source: known for source in sources if (known := _already_cut(source, plan)) is not None}
    missing = [source for source in sources if source not in found]
    if progress:
        progress(len(found), len(sources))
    count = min(workers or _cores(), len(missing), _MOST_PROCESSES)
    alone = count <= 1 or (workers is None and not _worth_processes(missing, plan))
    answers = _cut_here(missing, plan) if alone else _cut_in_processes(missing, plan, count)
    with contextlib.closing(answers):  # after Ctrl-C in `progress` too, no process is left
        for cut in answers:
            found[cut.source] = cut
            if progress:
                progress(len(found), len(sources))
    return tuple(found[source] for source in sources)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _worth_processes(sources: Sequence[str], plan: CutPlan) -> bool:
    if len(sources) >= _FILES_WORTH_PROCESSES:
        return True
    return sum(_size_bytes(plan.path_of(source)) for source in sources) >= _BYTES_WORTH_PROCESSES


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _cut_here(sources: Sequence[str], plan: CutPlan) -> Generator[CutFile, None, None]:
    for source in sources:
        yield _cut(source, plan)


def _cut_in_processes(sources: Sequence[str], plan: CutPlan, workers: int) -> Generator[CutFile, None, None]:
    """Yield answers as they come. A fresh interpreter each (spawn): no forked threads or locks."""
    queue = iter(sources)
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_live_and_die_with_parent) as pool:
        running: dict[Future[CutFile], str] = {}
        try:
            while True:
                for source in islice(queue, 2 * workers - len(running)):
                    running[pool.submit(_cut, source, plan.only(source))] = source
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    yield done.result()
                    del running[done]
        except BrokenProcessPool as error:
            names = ", ".join(sorted(running.values()))
            raise PrepareError(
                f"{plan.raw}: a process died while it examined one of: {names}. Either memory ran out (use "
                "fewer workers) or a file kills its decoder (move it away); run the command again, it goes on"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _live_and_die_with_parent() -> None:
    """Interrupts are the parent's business; a parent that was killed leaves nobody behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cut(source: str, plan: CutPlan) -> CutFile:
    """Read, judge and cut one file, and remember the answer unless reading it failed (which may pass)."""
    try:
        taken = read_micrograph(plan.path_of(source))
    except NotAnImage as error:
        stamp = error.source.stamp if error.source else None
        return _remember(_refused(source, f"not_an_image: {error.reason}", error), stamp, plan)
    except UnusableFile as error:
        return _refused(source, f"unreadable: {error.reason}", error)
    except OSError as error:
        return CutFile(source=source, reason=f"unreadable: {error.strerror or error}")
    return _remember(_cut_micrograph(source, taken, plan), taken.source.stamp, plan)


def _refused(source: str, reason: str, error: UnusableFile) -> CutFile:
    seen = error.source
    if seen is None:
        return CutFile(source=source, reason=reason)
    return CutFile(source=source, content=seen.sha256 or seen.fingerprint, sha256=seen.sha256, reason=reason)


def _cut_micrograph(source: str, taken: Micrograph, plan: CutPlan) -> CutFile:
    rule, pixels = plan.preprocessing, taken.pixels
    field, burnt_in = describe_field(pixels, rule), find_burnt_in(pixels)
    above = pixels[: pixels.shape[0] - burnt_in.info_bar_rows]
    field_above = describe_field(above, rule) if burnt_in.info_bar_rows else field
    blank = field.blank or field_above.blank
    standard = None if blank else standard_field(above, field_above)
    if plan.info_bars == "crop":
        pixels, field = above, field_above
    return CutFile(
        source=source,
        content=taken.source.sha256 or taken.source.fingerprint,
        sha256=taken.source.sha256,
        shape_px=(int(taken.pixels.shape[0]), int(taken.pixels.shape[1])),
        pixel_size_nm=taken.pixel_size_nm,
        reason="blank field" if blank else "",
        crops=() if blank else _crops(pixels, field, taken.pixel_size_nm, plan),
        acquired=taken.acquired.isoformat() if taken.acquired else "",
        microscope=taken.instrument.device or "",
        measures=None if standard is None else measured(above, field_above, standard, burnt_in),
        overview=None if standard is None else _overview(standard, above, plan),
    )


def _crops(
    pixels: NDArray[Any], field: FieldStatistics, pixel_size_nm: tuple[float, float] | None, plan: CutPlan
) -> tuple[CachedCrop, ...]:
    shape_px = (int(pixels.shape[0]), int(pixels.shape[1]))
    found = []
    for box in plan_boxes(shape_px, pixel_size_nm, plan.preprocessing):
        grey = grey_field(pixels, field.contrast, cached_shape(box, pixel_size_nm, plan), box)
        found.append(_keep_pixels(np.rint(grey * 255).astype(np.uint8), box, plan.out))
    return tuple(found)


def _overview(standard: NDArray[np.float32], above: NDArray[Any], plan: CutPlan) -> CachedCrop:
    rows, columns = (int(length) for length in standard.shape)
    shrink = min(1.0, OVERVIEW_PX / (rows * columns) ** 0.5)
    shape = (max(1, round(rows * shrink)), max(1, round(columns * shrink)))
    grey = grey_field(standard, ContrastLimits(0.0, 1.0), shape)
    box = (0, 0, int(above.shape[1]), int(above.shape[0]))
    return _keep_pixels(np.rint(grey * 255).astype(np.uint8), box, plan.out)


def cached_shape(box_px: Box, pixel_size_nm: tuple[float, float] | None, plan: CutPlan) -> tuple[int, int]:
    """(rows, columns) of cached pixels: the agent's proportions, an area of `cache_px` squared or less."""
    rule = plan.preprocessing.model_copy(update={"input_px": plan.cache_px})
    rows, columns = input_shape(box_px, pixel_size_nm, rule)
    shrink = ((box_px[2] - box_px[0]) * (box_px[3] - box_px[1]) / (rows * columns)) ** 0.5
    if shrink >= 1:
        return rows, columns
    return max(1, round(rows * shrink)), max(1, round(columns * shrink))


def _keep_pixels(pixels: NDArray[np.uint8], box_px: Box, out: Path) -> CachedCrop:
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    data = buffer.getvalue()
    name = hashlib.sha256(data).hexdigest()[:32]
    cached = f"{CACHE_FOLDER}/pixels/{name[:2]}/{name}.npy"
    if _size_bytes(out / cached) != len(data):
        _put(out / cached, data)
    return CachedCrop(box_px=box_px, cached=cached, cached_bytes=len(data))


def _put(path: Path, data: bytes) -> None:
    """Whole or absent; not forced to the disk: after a power cut the size tells, and it is made again."""
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise PrepareError(
            f"{path.parent}: cannot be written ({error.strerror or error}); make room there or choose "
            "another folder, then run the command again: it goes on where it stopped"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remember(cut: CutFile, stamp: FileStamp | None, plan: CutPlan) -> CutFile:
    if stamp is not None:
        _put(_record_path(cut.source, stamp, plan), cut.model_dump_json().encode())
    return cut


def _already_cut(source: str, plan: CutPlan) -> CutFile | None:
    """Recall what an earlier run found, if file, rule and code are the same and the pixels still there."""
    try:
        data = _record_path(source, stamp_of(plan.path_of(source)), plan).read_bytes()
        cut = CutFile.model_validate_json(data)
    except (OSError, ValidationError):
        return None
    kept = (*cut.crops, cut.overview) if cut.overview else cut.crops
    whole = all(_size_bytes(plan.out / crop.cached) == crop.cached_bytes for crop in kept)
    return cut if whole and cut.source == source else None


def _record_path(source: str, stamp: FileStamp, plan: CutPlan) -> Path:
    # Neither device nor inode: a share gives other ones after it was mounted again.
    rule = plan.preprocessing.model_dump_json()
    key = f"{source}\0{stamp.size_bytes}\0{stamp.modified_ns}\0{rule}\0{plan.cache_px}\0{plan.info_bars}\0{_code()}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return plan.out / CACHE_FOLDER / "found" / name[:2] / f"{name}.json"


@cache
def _code() -> str:
    """Hash the code that reads and cuts: pixels of another version are never taken for this one's."""
    digest = hashlib.sha256()
    for name in _OWN_CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    for name in agent_modules():
        digest.update((_AGENT_FOLDER / f"{name}.py").read_bytes())
    return digest.hexdigest()


def agent_modules() -> tuple[str, ...]:
    """Name the agent's modules that decide what is read and cut: the two used here, and all they import."""
    found: set[str] = set()
    waiting = ["micrograph", "preprocessing"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _AGENT_IMPORT.findall((_AGENT_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    return tuple(sorted(found))
