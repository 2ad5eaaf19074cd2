"""The part of a report that says when the agent abstains: limits, what they cost and buy, and what strangers got.

It is built of the manifest, the evaluation and, where the bundle carries it, `trust.json`. Only this module knows
which of their figures are shown; the words between them stand in `templates/trust.html`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_agent.decision import REASONS, SMALLEST_SIDE_PX, VOLTAGE_MARGIN
from trainer.showing.chart_style import percent
from trainer.showing.trust_charts import (
    Curve,
    novelty_chart,
    risk_coverage_chart,
    strangers_chart,
    temperature_chart,
)
from trainer.trusting.trust_record import TrustError, read_trust

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edge_agent.model_bundle import Bundle, Manifest
    from trainer.scoring.calibration import Calibration
    from trainer.scoring.figures import Figures
    from trainer.trusting.trust_record import StrangerKind, TrustRecord

WANTED: Final = 0.9
"""Share of strangers that should be refused, whatever their kind."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One reason to abstain: what it means, from where on, and how many scored micrographs it stopped."""

    reason: str
    meaning: str
    limit: str
    stopped: int


@dataclass(frozen=True, slots=True)
class TrustSection:
    """What the template shows; `absence` says why there is no `record`."""

    record: TrustRecord | None
    absence: str
    sentences: Sequence[str]
    limits: Sequence[Limit]
    not_judged: Sequence[str]
    """Reasons for which the bundle carries no limit."""
    charts: Mapping[str, str] = field(default_factory=dict)
    """SVG by name; one that has nothing to show is not there."""

    strangers: Sequence[StrangerKind] = ()
    """The kinds, those refused least first."""


def trust_section(bundle: Bundle, known: Figures, part: str) -> TrustSection:
    """What is known of a bundle's abstaining; `known` are the figures of its evaluation on a part."""
    record, absence = None, ""
    try:
        record = read_trust(bundle)
    except TrustError as error:
        absence = str(error)
    if record is None and not absence:
        absence = "the bundle carries no trust.json, which says on what temperature and limits rest"
    limits = _limits(bundle.manifest)
    kinds = () if record is None else record.strangers
    strangers = sorted(kinds, key=lambda one: (_refused(one), one.kind))
    return TrustSection(
        record,
        absence,
        [*_evaluated(bundle.manifest, known, part), *(_recorded(record) if record is not None else ())],
        [
            Limit(reason, REASONS[reason], limit, known.reasons.get(reason, 0))
            for reason, limit in limits.items()
            if limit
        ],
        [reason for reason, limit in limits.items() if not limit],
        _charts(record, strangers, known, part),
        strangers,
    )


def _limits(manifest: Manifest) -> dict[str, str]:
    """The limit of every reason, in words; "" where the bundle carries none."""
    known, guards, thresholds = manifest.training_ranges, manifest.guards, manifest.thresholds
    sized = manifest.preprocessing.tiles.field_of_view_nm is not None
    found = {
        "too_small": f"fewer than {SMALLEST_SIDE_PX} px on the shorter side",
        "blank": "always",
        "saturated": f"more than {percent(manifest.saturated_fraction)} of the pixels",
        "pixel_size_unknown": "always" if sized else "",
        "uncalibrated": "always" if known.all_calibrated and not sized else "",
        "pixel_size_out_of_range": _outside(known.pixel_size_nm, "nm", guards.scale_margin),
        "field_of_view_out_of_range": _outside(known.field_of_view_nm, "nm", guards.scale_margin),
        "voltage_out_of_range": _outside(known.voltage_kv, "kV", VOLTAGE_MARGIN),
        "detector_unlike_training": _none_of(known.detector),
        "polarity_unlike_training": _none_of(known.polarity),
        "blurred": _beyond("sharpness below", guards.least_sharpness),
        "drifted": _beyond("streaks above", guards.most_streaks),
        "looks_like_diffraction": _beyond("likeness above", guards.most_diffraction),
    }
    if thresholds is not None:
        found["tiles_disagree"] = _beyond("disagreement above", thresholds.tile_disagreement)
        found["novel"] = _beyond("novelty above", thresholds.novelty)
        found["low_confidence"] = _beyond("probability below", thresholds.confidence)
        if thresholds.novelty_usual is not None and thresholds.confidence_usual is not None:
            found["unusual_and_unsure"] = (
                f"shares of the way from novelty {thresholds.novelty_usual:.3g} and probability "
                f"{thresholds.confidence_usual:.3g}, the usual, to both limits: above 1 together"
            )
    return {reason: found.get(reason, "") for reason in REASONS}


def _outside(limits: tuple[float, float] | None, unit: str, factor: float) -> str:
    if limits is None:
        return ""
    low, high = limits
    if low == high:
        return f"other than {low:.3g} {unit} by more than a factor of {factor:g}"
    return f"outside {low:.3g} to {high:.3g} {unit} by more than a factor of {factor:g}"


def _none_of(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f"other than {' or '.join(names)}"


def _beyond(words: str, limit: float | None) -> str:
    return "" if limit is None else f"{words} {limit:.3g}"


def _evaluated(manifest: Manifest, known: Figures, part: str) -> Iterator[str]:
    """What abstaining did on the scored micrographs."""
    kept, curve = known.accepted, known.selective
    if manifest.thresholds is None:
        yield (
            "It carries no operating point: it abstains only where a field cannot be judged or is unlike its "
            "training, and answers however unsure it is."
        )
    elif kept is not None and kept.accuracy is not None:
        yield (
            f"On the {part} part it answered {kept.micrographs} of {known.micrographs} ({percent(kept.coverage)}); "
            f"{percent(kept.accuracy)} of these answers were right (95 %: {_span(kept.interval)}), against "
            f"{percent(known.accuracy)} had it answered all."
        )
    elif kept is not None:
        yield f"On the {part} part it answered none of {known.micrographs}: its limits do not fit them."
    if curve is not None:
        yield (
            f"Of all answers on that part the surest 80 % are right in {percent(curve.at_80.accuracy)} (95 %: "
            f"{_span(curve.at_80.interval)}), the surest 90 % in {percent(curve.at_90.accuracy)} "
            f"({_span(curve.at_90.interval)}). The area under the risk-coverage curve is {curve.area:.3f}; an "
            f"order that puts every wrong answer last would have {curve.area - curve.area_beyond_best:.3f}."
        )


def _recorded(record: TrustRecord) -> Iterator[str]:
    """What the limits rest on, and where they fail."""
    yield (
        f"Temperature and limits rest on {len(record.held)} held-out micrographs in "
        f"{len({one.group for one in record.held})} groups ({record.source}). A temperature of "
        f"{record.temperature:.3g} brought the debiased calibration error from {_error(record.before)} to "
        f"{_error(record.after)}."
    )
    yield (
        f"{percent(record.accepted)} of them are answered at these limits ({percent(record.acceptance)} was asked "
        f"for), {percent(record.accepted_accuracy)} of those rightly."
    )
    poor = [one for one in record.strangers if _refused(one) < WANTED]
    if poor:
        worst = min(poor, key=_refused)
        yield (
            f"Not every stranger is refused: of {worst.kind} {worst.abstained} of {worst.pictures}. Where such "
            "pictures are taken, keep them out of the watched folder, or look at every accepted answer."
        )
    elif record.strangers:
        kinds = "both kinds" if len(record.strangers) == 2 else f"all {len(record.strangers)} kinds"
        kinds = "the one kind" if len(record.strangers) == 1 else kinds
        yield f"Of {kinds} of strangers tried, at least {percent(WANTED)} were refused. Others may not be."


def _refused(one: StrangerKind) -> float:
    return one.abstained / one.pictures if one.pictures else 1.0


def _span(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"


def _error(known: Calibration) -> str:
    if known.debiased_error is None:
        return "an unknown one"
    if known.debiased_error_interval is None:
        return f"{known.debiased_error:.3f}"
    low, high = known.debiased_error_interval
    return f"{known.debiased_error:.3f} ({low:.3f} to {high:.3f})"


def _charts(
    record: TrustRecord | None, strangers: Sequence[StrangerKind], known: Figures, part: str
) -> dict[str, str]:
    curves, found = [], {}
    if record is not None:
        at = (record.accepted, record.accepted_accuracy)
        curves.append(Curve("held-out answers that the limits rest on", record.selective, at))
    if known.selective is not None:
        kept = known.accepted
        mark = None if kept is None or kept.accuracy is None else (kept.coverage, kept.accuracy)
        curves.append(Curve(f"the {part} part", known.selective, mark))
    if curves:
        found["risk coverage"] = risk_coverage_chart(curves)
    if record is None:
        return found
    found["temperature"] = temperature_chart(record.before, record.after)
    novelty = [one.novelty for one in record.held if one.novelty is not None]
    if novelty:
        found["novelty"] = novelty_chart(novelty, strangers, record.thresholds.get("novelty"))
    if strangers:
        found["strangers"] = strangers_chart(strangers, WANTED)
    return found
