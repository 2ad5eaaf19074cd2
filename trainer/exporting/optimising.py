"""Which form of a bundle's graph is the fastest here and still gives the same answers and maps: a new bundle of it.

Answers for the choice: every form is measured through the agent's own classifier on held-out micrographs, one
thread, in turn on each input, and has to hold the float graph's accuracy and maps; in a bundle with limits its
novelty and decisions too, because the limits were measured with the float graph. What was measured and why it was
decided stands in the new bundle's manifest. The forms themselves are made by `exporting.quantisation`.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from edge_agent.model_bundle import (
    GOLDEN,
    MODEL,
    Bundle,
    Candidate,
    Optimisation,
    open_bundle,
    tensor_names,
)
from edge_agent.onnx_gate import OnnxRefused
from edge_agent.preprocessing import cut_tiles
from trainer.exporting.bundle_writer import GOLDEN_TOLERANCE, BundleFiles, write_bundle
from trainer.exporting.form_scores import OptimiseError, Tally, measure
from trainer.exporting.front_matter import with_front_matter
from trainer.exporting.quantisation import NO_ROUNDING, FormError, Rounding, quantised, rounding_apart, tidied
from trainer.preparing.split import tears_micrographs
from trainer.scoring.evaluation import EVALUATION, Source, crop_sources, readable, sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from edge_agent.model_bundle import Manifest
    from trainer.preparing.crops import DataSet

__all__ = ["FORMS", "OptimiseError", "OptimiseOrder", "Optimised", "optimisation_text", "optimise"]

FLOAT, TIDIED, INT8, INT8_UPPER = "float", "tidied", "int8", "int8 upper"
FORMS: Final = {
    FLOAT: "the graph as it was exported",
    TIDIED: "after ONNX Runtime's basic optimisations (the further ones are not portable)",
    INT8: "the backbone's convolutions in 8 bits",
    INT8_UPPER: "the same without the lower quarter of them, which stay in floating point",
}
LOWER_SHARE: Final = 0.25
"""Of the convolutions that INT8_UPPER leaves in floating point: counts of a micrograph need more than 8 bits."""
LEAST_GAIN: Final = 0.05
"""A form must be faster than the float one by this share; less is noise of the measurement."""
MOST_ROUNDING: Final = 0.01
"""In probabilities, between two ways to compute one form: more would be another answer on another processor."""
CALIBRATION_INPUTS: Final = 32
_LATER: Final = frozenset({EVALUATION, "faithfulness.json"})
"""Files of a bundle that measure its very model; those of another one are not taken over."""
_CARD: Final = "MODEL_CARD.md"


@dataclass(frozen=True, slots=True)
class OptimiseOrder:
    """What is measured, and what a form must hold to be taken."""

    part: Literal["train", "validation", "test"] = "validation"
    least_agreement: float = 0.98
    """Mean correlation of a form's map with the float graph's, of the same class and micrograph."""
    most_loss: float = 0.01
    """In accuracy and in class-balanced accuracy, against the float graph."""
    most_novelty_apart: float = 0.1
    """The largest change of any micrograph's novelty, as a fraction of what the float graph says."""
    least_decisions_kept: float = 0.98
    """Share of micrographs that are accepted, or abstained from, as with the float graph."""
    pictures: int | None = None
    """Held-out micrographs, drawn by chance; None for all of them."""
    version: str | None = None
    """Of the new bundle; None for the old one's with `-optimised`."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """One form with its figures; `same_peak` is the share of maps whose largest value lies in the same cell."""

    candidate: Candidate
    same_peak: float | None


@dataclass(frozen=True, slots=True)
class Optimised:
    """The bundle that was written, all that was measured, and the forms that there are not, with the reason."""

    bundle: Bundle
    measured: tuple[Measured, ...]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Form:
    bundle: Bundle
    rounding: Rounding = NO_ROUNDING


def optimise(
    bundle_path: Path,
    dataset: DataSet,
    out: Path,
    order: OptimiseOrder,
    *,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Optimised:
    """Measure the forms of a bundle's graph on held-out micrographs and write the best as the new bundle `out`.

    Raises:
        BundleRefused: the bundle is not as its manifest says.
        FileExistsError: `out` is there already.
        OptimiseError: the part holds no micrograph that can be read, or classes that the bundle does not know.

    """
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another folder or remove it first")
    bundle = open_bundle(bundle_path)
    manifest = _renamed(bundle.manifest, order.version)
    sources = _held_out(bundle, dataset, order)
    inputs = _calibration(bundle, dataset, order.seed, progress)
    forms, missing = _forms(bundle, inputs, progress)
    tallies = measure({name: form.bundle for name, form in forms.items()}, dataset, sources, progress)
    measured = tuple(_measured(name, form, tallies, order) for name, form in forms.items())
    chosen, reason = _choice([one.candidate for one in measured], missing)
    facts = Optimisation(
        chosen=chosen,
        reason=reason,
        processor=_processor(),
        threads=1,
        pictures=len(tallies[FLOAT].right),
        candidates=tuple(one.candidate for one in measured),
    )
    progress("golden cases and manifest", 0, 1)
    manifest = manifest.model_copy(update={"optimisation": facts})
    written = _write(bundle, forms[chosen], tallies[chosen], out, manifest, facts)
    progress("golden cases and manifest", 1, 1)
    return Optimised(written, measured, missing)


def optimisation_text(found: Optimised) -> str:
    """The figures as a table, and what was chosen why."""
    facts = found.bundle.manifest.optimisation
    lines = [
        "form         median ms   MiB     accuracy  balanced  map agrees  same peak  novelty off  decisions  passed"
    ]
    for one in found.measured:
        seen = one.candidate
        figures = (
            seen.accuracy, seen.balanced_accuracy, seen.cam_agreement, one.same_peak, seen.novelty_apart,
            seen.decisions_kept,
        )  # fmt: skip
        texts = ["-" if value is None else f"{value:.3f}" for value in figures]
        lines.append(
            f"{seen.name:<13}{seen.milliseconds:<12.1f}{seen.model_bytes / 2**20:<8.1f}{texts[0]:<10}{texts[1]:<10}"
            f"{texts[2]:<12}{texts[3]:<11}{texts[4]:<13}{texts[5]:<11}"
            f"{'yes' if seen.passed else f'no: {seen.reason}'}"
        )
    lines += [f"{name:<13}not made: {why}" for name, why in found.missing.items()]
    if facts is not None:
        lines += [f"{facts.pictures} micrographs, one thread, {facts.processor}", facts.reason]
    return "\n".join(lines)


def _held_out(bundle: Bundle, dataset: DataSet, order: OptimiseOrder) -> list[Source]:
    crops = dataset.part(order.part)
    if not crops:
        raise OptimiseError(
            f"{dataset.root}: no micrograph in the part {order.part}; prepare with another split, or name "
            "another part with --split"
        )
    unknown = sorted({crop.label for crop in crops} - set(bundle.manifest.labels))
    if unknown:
        raise OptimiseError(
            f"{bundle.path}: does not know the classes {', '.join(unknown)} of {dataset.root}"
        )
    sources = crop_sources(crops) if tears_micrographs(dataset.split) else sources_of(crops)
    return _drawn(sources, order.pictures or len(sources), order.seed)


def _drawn(sources: Sequence[Source], count: int, seed: int) -> list[Source]:
    order = np.random.default_rng(seed).permutation(len(sources))[:count]
    return [sources[index] for index in sorted(order)]


def _calibration(
    bundle: Bundle, dataset: DataSet, seed: int, progress: Callable[[str, int, int], None]
) -> list[NDArray[np.float32]]:
    """Inputs from training micrographs, cut as the agent cuts them; one of each micrograph."""
    sources = _drawn(sources_of(dataset.train), CALIBRATION_INPUTS, seed)
    inputs = []
    for index, (_, micrograph) in enumerate(readable(dataset, sources)):
        progress("calibration", index, len(sources))
        if not isinstance(micrograph, str):
            rule = bundle.manifest.preprocessing
            tiles = cut_tiles(micrograph.pixels, micrograph.pixel_size_nm, rule).tiles
            inputs.append(tiles[index % len(tiles)].values[None])
    progress("calibration", len(sources), len(sources))
    if not inputs:
        raise OptimiseError(f"{dataset.raw}: no training micrograph can be read to set the ranges of int8 by")
    return inputs


def _forms(
    bundle: Bundle, inputs: Sequence[NDArray[np.float32]], progress: Callable[[str, int, int], None]
) -> tuple[dict[str, _Form], dict[str, str]]:
    """Every form that can be made, by name, and why the others cannot."""
    manifest = bundle.manifest
    forms, missing = {FLOAT: _Form(bundle)}, {}
    names, labels = tensor_names(manifest.tensors), len(manifest.labels)
    # 8 bits are put into the tidied graph: a normalisation that is not yet part of its convolution has no place.
    makers: dict[str, Callable[[bytes], bytes]] = {
        TIDIED: lambda model: tidied(model, names),
        INT8: lambda model: quantised(model, manifest.tensors, labels, inputs),
        INT8_UPPER: lambda model: quantised(model, manifest.tensors, labels, inputs, LOWER_SHARE),
    }
    for index, (name, make) in enumerate(makers.items()):
        progress("forms of the graph", index, len(makers))
        try:
            model = make(forms.get(TIDIED, forms[FLOAT]).bundle.model_bytes)
        except (FormError, OnnxRefused) as error:
            missing[name] = str(error)
            continue
        form = replace(bundle, model_bytes=model)
        forms[name] = _Form(form, rounding_apart(model, manifest.tensors, inputs[:3]))
    progress("forms of the graph", len(makers), len(makers))
    return forms, missing


def _measured(name: str, form: _Form, tallies: dict[str, Tally], order: OptimiseOrder) -> Measured:
    tally = tallies[name]
    faults = (
        *_answers_otherwise(tally, tallies[FLOAT], order),
        *_decides_otherwise(tally, order),
        *_rounds_otherwise(form.rounding, order),
    )
    return Measured(
        Candidate(
            name=name,
            milliseconds=round(float(np.median(tally.milliseconds)), 2),
            model_bytes=len(form.bundle.model_bytes),
            accuracy=round(tally.accuracy, 4),
            balanced_accuracy=round(tally.balanced_accuracy, 4),
            cam_agreement=_rounded(tally.cam_agreement),
            novelty_apart=_rounded(tally.novelty_apart),
            decisions_kept=_rounded(tally.decisions_kept),
            passed=not faults,
            reason="; ".join(faults),
        ),
        tally.peaks_kept,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _answers_otherwise(tally: Tally, plain: Tally, order: OptimiseOrder) -> Iterator[str]:
    loss = max(plain.accuracy - tally.accuracy, plain.balanced_accuracy - tally.balanced_accuracy)
    if loss > order.most_loss + 1e-9:
        yield f"loses {loss:.3f} of accuracy, more than {order.most_loss:g}"
    agrees = tally.cam_agreement
    if agrees is not None and agrees < order.least_agreement:
        yield f"its maps agree by {agrees:.4f}, less than {order.least_agreement:g}"


def _decides_otherwise(tally: Tally, order: OptimiseOrder) -> Iterator[str]:
    """Limits are those of the float graph: a form of another novelty would need limits of its own."""
    apart, kept = tally.novelty_apart, tally.decisions_kept
    if apart is not None and not apart <= order.most_novelty_apart:
        yield f"its novelty is off by up to {100 * apart:.1f} %, more than {100 * order.most_novelty_apart:g} %"
    if kept is not None and kept < order.least_decisions_kept:
        yield f"it keeps {100 * kept:.1f} % of the decisions, less than {100 * order.least_decisions_kept:g} %"


def _rounds_otherwise(rounding: Rounding, order: OptimiseOrder) -> Iterator[str]:
    if rounding.probabilities > MOST_ROUNDING:
        yield f"another processor may answer otherwise by {rounding.probabilities:.3f}"
    if rounding.novelty > order.most_novelty_apart:
        yield f"another processor may find another novelty, by {100 * rounding.novelty:.1f} %"


def _choice(candidates: Sequence[Candidate], missing: dict[str, str]) -> tuple[str, str]:
    """Name of the form to take, and why, in words."""
    plain = candidates[0]
    best = min((one for one in candidates if one.passed), key=lambda one: one.milliseconds)
    refused = "".join(f"; {one.name} failed: {one.reason}" for one in candidates if not one.passed)
    refused += "".join(f"; {name} was not made: {why}" for name, why in missing.items())
    if best.milliseconds > (1 - LEAST_GAIN) * plain.milliseconds:
        return plain.name, (
            f"no form that passed is faster than the float graph ({plain.milliseconds:.1f} ms) by "
            f"{100 * LEAST_GAIN:.0f} % or more: the fastest is {best.name} with {best.milliseconds:.1f} ms, within "
            f"noise{refused}"
        )
    kept = f", its maps agree by {best.cam_agreement:.3f}" if best.cam_agreement is not None else ""
    if best.decisions_kept is not None:
        kept += f", {100 * best.decisions_kept:.1f} % of the decisions are the same"
    return best.name, (
        f"{best.name} takes {best.milliseconds:.1f} ms, the float graph {plain.milliseconds:.1f} ms "
        f"({plain.milliseconds / best.milliseconds:.2f} times as fast), with an accuracy of {best.accuracy:.3f} "
        f"against {plain.accuracy:.3f}{kept}{refused}"
    )


def _renamed(manifest: Manifest, version: str | None) -> Manifest:
    """The manifest under the new version; pydantic's ValidationError for one that is none."""
    changes = {
        "version": version or f"{manifest.version}-optimised",
        "created": datetime.now(UTC).replace(microsecond=0),
        "signature": None,
    }
    return type(manifest).model_validate({**manifest.model_dump(by_alias=True), **changes})


def _write(
    bundle: Bundle, form: _Form, tally: Tally, out: Path, manifest: Manifest, facts: Optimisation
) -> Bundle:
    parity = manifest.parity
    # A value close to a step of 8 bits is rounded to the other side elsewhere: a replay there must allow for it.
    tolerance = max(GOLDEN_TOLERANCE, 2 * max(form.rounding))
    # It is as far from the training framework as the float graph, and at most so much further.
    further = {
        "probabilities": parity.probabilities + tally.probabilities_apart,
        "cam": parity.cam + tally.cam_apart_of_peak,
        "cam_absolute": parity.cam_absolute + tally.cam_apart,
    }
    changed = manifest.model_copy(
        update={
            "golden": manifest.golden.model_copy(update={"tolerance": tolerance}),
            "parity": parity.model_copy(update=further),
        }
    )
    kept = (name for name in manifest.sha256 if name not in {MODEL, GOLDEN, *_LATER})
    others = {name: (bundle.path / name).read_bytes() for name in kept}
    if _CARD in others:
        others[_CARD] = _card(others[_CARD].decode(), manifest, facts).encode()
    return write_bundle(out, BundleFiles(form.bundle.model_bytes, others), changed)


def _card(card: str, manifest: Manifest, facts: Optimisation) -> str:
    """The model card under the new version, with what was measured at its end."""
    title = re.compile(rf"^# {re.escape(manifest.name)} .*$", re.MULTILINE)
    titled = title.sub(lambda _: f"# {manifest.name} {manifest.version}", card, count=1)
    rows = [
        "| form | median ms | accuracy | class-balanced | map agrees | novelty off by at most | same decision |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in facts.candidates:
        figures = (
            one.accuracy, one.balanced_accuracy, one.cam_agreement, one.novelty_apart, one.decisions_kept,
        )  # fmt: skip
        texts = " | ".join("-" if value is None else f"{value:.3f}" for value in figures)
        rows.append(f"| {one.name} | {one.milliseconds:.1f} | {texts} |")
    table = "\n".join(rows)
    told = (
        f"{titled.rstrip()}\n\n## Form of the graph\n\n"
        f"This bundle holds the form `{facts.chosen}`: {facts.reason}. "
        f"Measured on {facts.pictures} held-out micrographs, one thread of {facts.processor}.\n\n{table}\n"
    )
    return with_front_matter(told, manifest)  # without the figures of another model


def _processor() -> str:
    """What the system calls the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return named.group(1).strip() if named else platform.processor() or platform.machine() or "not known"
