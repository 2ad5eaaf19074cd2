"""The file `trust.json` of a bundle: the held-out answers behind its temperature and limits, and strangers' fate.

Only this module knows its fields; the report reads them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainer.scoring.calibration import Calibration
from trainer.scoring.selective import RiskCoverage

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle

TRUST: Final = "trust.json"


class TrustError(Exception):
    """What a bundle's limits rest on cannot be read; the message names the file and says what was seen."""


class NothingHeldOut(TrustError):
    """There are not enough micrographs that the network did not see; the message says what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Held(_Part):
    """One held-out micrograph behind temperature and thresholds."""

    file: str
    group: str
    label: str
    predicted: str
    probabilities: dict[str, float]
    """By class, after temperature."""
    probability_before: float
    """Of the answer given, before temperature."""
    novelty: float | None
    tile_disagreement: float = 0.0
    guards: tuple[str, ...] = ()
    """Reasons to abstain that no threshold moves."""
    part: str = ""
    """Fold or part that it comes from."""


class StrangerKind(_Part):
    """Pictures of one kind that are none of the classes, and how many of them were refused.

    Areas under the ROC curve are against the held-out micrographs, 0.5 by chance; None where one side is missing.
    """

    kind: str
    source: Literal["simulated", "given"]
    pictures: int
    abstained: int
    reasons: dict[str, int]
    novelty_auroc: float | None
    confidence_auroc: float | None
    energy_auroc: float | None
    combined_auroc: float | None
    novelty: tuple[float, ...]
    confidence: tuple[float, ...]
    guards: tuple[tuple[str, ...], ...] = ()
    """Of each picture, the reasons that no threshold moves."""
    tile_disagreement: tuple[float, ...] = ()
    """Of each picture; none where all are one tile."""


class TrustRecord(_Part):
    """The file `trust.json` of a bundle."""

    schema_: Literal["scopewatch.trust/1"] = Field(default="scopewatch.trust/1", alias="schema")
    made: datetime
    source: str
    """In words: where the held-out answers come from."""
    temperature: float
    before: Calibration
    after: Calibration
    held: tuple[Held, ...]
    selective: RiskCoverage
    acceptance: float
    """Share of held-out micrographs that was asked to be accepted."""
    thresholds: dict[str, float | None]
    accepted: float
    """Share of the held-out ones at these thresholds."""
    accepted_accuracy: float
    strangers: tuple[StrangerKind, ...] = ()
    notes: tuple[str, ...] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


def read_trust(bundle: Bundle) -> TrustRecord | None:
    """Read what a bundle's limits rest on, None where it carries nothing.

    Raises:
        TrustError: it cannot be read.

    """
    if TRUST not in bundle.manifest.sha256:
        return None
    file = bundle.path / TRUST
    try:
        return TrustRecord.model_validate_json(file.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the whole file"
        raise TrustError(
            f"{file}: not what this version reads ({where}: {fault['msg']}); make the bundle again"
        ) from error
    except OSError as error:
        raise TrustError(f"{file}: cannot be read ({error}); make the bundle again") from error
