"""Pictures that are none of the classes, and how many of them a bundle refuses.

Simulated ones of several kinds (`edge_agent.simulated_strangers`) for every bundle, and a folder of the lab's own,
a sub-folder a kind. Nothing is fitted to them: limits come from good micrographs alone, and what becomes of
strangers is measured afterwards, kind by kind, because a mean over kinds hides the one that is not found.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edge_agent.decision import decide
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph, UnusableFile, read_micrograph
from edge_agent.output_places import is_own_output
from edge_agent.simulated_strangers import STRANGERS, draw_stranger
from trainer.preparing.raw_folder import PICTURE_SUFFIXES
from trainer.scoring.evaluation import Source
from trainer.trusting.trust_record import StrangerKind, TrustError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from edge_agent.classifier import Answer
    from edge_agent.model_bundle import Manifest
    from trainer.trusting.fitted import Fitted
    from trainer.trusting.observing import Observation, Observer

_SIDE_PX: Final = 1024
_FILES: Final = frozenset({".dm3", ".dm4", *PICTURE_SUFFIXES})


@dataclass(frozen=True, slots=True)
class Strangers:
    """Which pictures are to be refused."""

    folder: Path | None = None
    """Files of a sub-folder are of one kind, called like it; all that is readable counts."""
    drawn: int = 20
    """Simulated pictures of each kind."""


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """One stranger: what the network makes of it, and why it is refused."""

    answer: Answer
    energy: float
    doubt: float
    reasons: tuple[str, ...]
    guards: tuple[str, ...]


def measured_strangers(
    observer: Observer,
    fitted: Fitted,
    strangers: Strangers,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> tuple[tuple[StrangerKind, ...], tuple[str, ...]]:
    """What becomes of strangers, kind by kind, and which files were no pictures to begin with.

    Areas under the ROC curve are against the held-out micrographs behind the limits.
    """
    files, unread = stranger_files(strangers.folder), []
    total = strangers.drawn * len(STRANGERS) + len(files)
    met: dict[tuple[str, Literal["simulated", "given"]], list[_Met]] = {}
    for index, (kind, micrograph) in enumerate(_drawn(strangers.drawn, seed, fitted.manifest)):
        progress("strangers", index, total)
        met.setdefault((kind, "simulated"), []).append(_met(observer, fitted, micrograph))
    for index, (kind, file) in enumerate(files, start=total - len(files)):
        progress("strangers", index, total)
        try:
            micrograph = read_micrograph(file)
        except (UnusableFile, OSError) as error:
            unread.append(f"stranger not read, so never classified: {error}")
            continue
        met.setdefault((kind, "given"), []).append(_met(observer, fitted, micrograph))
    progress("strangers", total, total)
    good = [
        _Met(answer, _energy(one.seen, fitted), fitted.doubt(answer, guards), (), guards)
        for one, answer, guards in zip(fitted.held, fitted.answers, fitted.guards, strict=True)
    ]
    found = (_kind(kind, source, those, good) for (kind, source), those in met.items())
    return tuple(found), tuple(unread)


def stranger_files(folder: Path | None) -> list[tuple[str, Path]]:
    """The kind of each picture file in a folder, and the file; TrustError where there is none."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise TrustError(f"{folder}: no folder of strangers here; give one with a sub-folder for each kind")
    files = sorted(file for file in folder.rglob("*") if _is_picture(file))
    if not files:
        raise TrustError(f"{folder}: holds no pictures ({', '.join(sorted(_FILES))})")
    return [(_kind_of(file, folder), file) for file in files]


def _is_picture(file: Path) -> bool:
    """By its name, and none that the agent drew; what the system hides is nobody's picture."""
    name = file.name
    return (
        file.suffix.lower() in _FILES
        and not name.startswith(".")
        and not is_own_output(name)
        and file.is_file()
    )


def _kind_of(file: Path, folder: Path) -> str:
    parts = file.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else folder.name


def _drawn(count: int, seed: int, manifest: Manifest) -> Iterator[tuple[str, Micrograph]]:
    """Without tags, at a pixel size of the training's, so that their look alone can tell."""
    known = manifest.training_ranges.pixel_size_nm
    size_nm = None if known is None else float(np.sqrt(known[0] * known[1]))
    for number, kind in enumerate(STRANGERS):
        for index in range(count):
            pixels = draw_stranger(kind, np.random.default_rng([seed, number, index]), _SIDE_PX)
            yield kind, bare_micrograph(pixels, size_nm)


def bare_micrograph(pixels: NDArray[np.generic], pixel_size_nm: float | None = None) -> Micrograph:
    """A micrograph of which nothing is known but its pixels and their size."""
    return Micrograph(
        source=SourceFile(Path("drawn"), FileStamp(pixels.nbytes, 0, 0, 0), None, ""),
        pixels=pixels,
        pixel_size_nm=None if pixel_size_nm is None else (pixel_size_nm, pixel_size_nm),
        dataset_index=0,
        frame_index=None,
        datasets=("image",),
        acquired=None,
        acquired_text=None,
        instrument=Instrument(None, None, None, None, None, None),
    )


def _met(observer: Observer, fitted: Fitted, micrograph: Micrograph) -> _Met:
    source = Source(str(micrograph.source.path), "", "", None)
    seen = observer.observe(source, micrograph)
    answer = seen.answered(fitted.manifest.temperature, fitted.statistics)
    decided = decide(answer, micrograph, fitted.manifest)
    unlimited = fitted.manifest.model_copy(update={"thresholds": None})
    guards = decide(answer, micrograph, unlimited).reasons
    return _Met(answer, _energy(seen, fitted), fitted.doubt(answer, guards), decided.reasons, guards)


def _energy(seen: Observation, fitted: Fitted) -> float:
    """Free energy of the logits, higher for strangers (W. Liu et al., NeurIPS 2020), a mean over the inputs."""
    logits = seen.logits.astype(np.float64) / fitted.manifest.temperature
    highest = logits.max(axis=1)
    return -float((highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1))).mean())


def _kind(
    kind: str, source: Literal["simulated", "given"], those: Sequence[_Met], good: Sequence[_Met]
) -> StrangerKind:
    def area(of: Callable[[_Met], float | None]) -> float | None:
        return auroc([of(one) for one in good], [of(one) for one in those])

    apart = [round(one.answer.tile_disagreement, 6) for one in those]
    return StrangerKind(
        kind=kind,
        source=source,
        pictures=len(those),
        abstained=sum(bool(one.reasons) for one in those),
        reasons=dict(sorted(Counter(reason for one in those for reason in one.reasons).items())),
        novelty_auroc=area(lambda one: one.answer.novelty),
        confidence_auroc=area(lambda one: -one.answer.probability),
        energy_auroc=area(lambda one: one.energy),
        combined_auroc=area(lambda one: one.doubt),
        novelty=tuple(float(f"{one.answer.novelty:.5g}") for one in those if one.answer.novelty is not None),
        confidence=tuple(float(f"{one.answer.probability:.6g}") for one in those),
        guards=tuple(one.guards for one in those),
        tile_disagreement=tuple(apart) if any(apart) else (),
    )


def auroc(good: Sequence[float | None], strange: Sequence[float | None]) -> float | None:
    """Probability that a stranger's value is above a good picture's, ties counted half; None if one is unknown."""
    if None in good or None in strange or not good or not strange:
        return None
    ordered = np.sort(np.array(good, float))
    values = np.array(strange, float)
    below = np.searchsorted(ordered, values, side="left")
    equal = np.searchsorted(ordered, values, side="right") - below
    return round(float((below + equal / 2).mean() / len(ordered)), 4)
