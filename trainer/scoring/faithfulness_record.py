"""The file `faithfulness.json` of a bundle: what was measured of its maps, method by method.

Only this module knows its fields; `scoring.faithfulness` fills them, the report and the terminal read them.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.preprocessing import Box
from trainer.scoring.deletion import Curve
from trainer.scoring.pointing import PointingFigures
from trainer.scoring.randomisation import Randomised

if TYPE_CHECKING:
    from edge_agent.model_bundle import Bundle

FAITHFULNESS: Final = "faithfulness.json"


class FaithfulnessError(Exception):
    """Maps cannot be measured on this data; the message says what was seen."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cost(_Part):
    """Median milliseconds for one input on one thread, both measured in turn in one run."""

    bare_ms: float
    """Probabilities only."""
    with_map_ms: float
    ratio: float
    runs: int


class MethodFigures(_Part):
    """What was measured of one map; several names where methods gave the same one."""

    names: tuple[str, ...]
    baseline: bool
    """It knows nothing of the picture, and stands here for comparison."""
    cells: int
    """Median over the micrographs."""
    deletion: Curve
    insertion: Curve
    pointing: PointingFigures | None = None
    randomised: Randomised | None = None
    costs: dict[str, Cost] = Field(default_factory=dict)
    """By method: ways to the same map may cost differently."""


class Example(_Part):
    """One micrograph with the maps that were measured on it, by method, row by row."""

    file: str
    box_px: Box | None
    label: str
    answer: str
    probability: float
    map_box_px: Box
    maps: dict[str, tuple[tuple[float, ...], ...]]


class Faithfulness(_Part):
    """The file `faithfulness.json` of a bundle."""

    schema_: Literal["scopewatch.faithfulness/1"] = Field(default="scopewatch.faithfulness/1", alias="schema")
    bundle: str
    model_sha256: str
    dataset: str
    dataset_fingerprint: str
    part: str
    made: datetime
    seed: int
    own: str
    """The method of the map that the agent draws."""
    micrographs: int
    of: int
    """Micrographs in the part."""
    groups: int
    right: int
    substitute: str
    whole: float
    """Mean probability of the answer with nothing replaced."""
    blank: float
    """The same with everything replaced."""
    methods: tuple[MethodFigures, ...]
    """The bundle's own first, those that know nothing last."""
    absent: dict[str, str]
    """Methods that the graph cannot give, with the reason."""
    examples: tuple[Example, ...]
    unreadable: dict[str, str]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def read_faithfulness(bundle: Bundle) -> Faithfulness | None:
    """Read what was measured of a bundle, None where nothing was.

    Raises:
        FaithfulnessError: it cannot be read, or is another model's.

    """
    if FAITHFULNESS not in bundle.manifest.sha256:
        return None
    file = bundle.path / FAITHFULNESS
    try:
        found = Faithfulness.model_validate_json(file.read_bytes())
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise FaithfulnessError(
            f"{file}: not what this version reads ({error}); run edge-trainer faithfulness again"
        ) from error
    if found.model_sha256 != bundle.sha256:
        raise FaithfulnessError(
            f"{file}: measured on another model ({found.model_sha256[:12]}...); run edge-trainer faithfulness again"
        )
    return found
