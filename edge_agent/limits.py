"""What a bundle knows about when not to answer: parts of its manifest, all measured when it was made.

`decision` says what follows from them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Thresholds(_Part):
    """The operating point; a bundle without one answers `ungated`."""

    confidence: float = Field(ge=0, le=1)
    """An answer with a smaller probability abstains as `low_confidence`."""
    novelty: float | None = Field(default=None, gt=0)
    """A micrograph that is more novel abstains as `novel`; None where the graph gives no novelty."""
    tile_disagreement: float | None = Field(default=None, ge=0)
    """Tiles that disagree more make the answer abstain as `tiles_disagree`; None: not judged."""
    confidence_usual: float | None = Field(default=None, ge=0, le=1)
    novelty_usual: float | None = Field(default=None, gt=0)
    """Medians of held-out micrographs. Where both are known, an answer may not use up more than one limit in all:
    half way from the usual novelty to its limit and half way from the usual confidence to its limit is the most
    (`decision.doubts`). Where they are not, each limit holds by itself."""
    acceptance: float | None = Field(default=None, ge=0, le=1)
    """Share of held-out micrographs of its classes that was accepted when this was measured."""


class TrainingRanges(_Part):
    """What the training micrographs covered; None where it is not known, and then nothing is judged by it."""

    pixel_size_nm: tuple[float, float] | None = None
    field_of_view_nm: tuple[float, float] | None = None
    polarity: tuple[str, ...] | None = None
    """Of `bright on dark` and `dark on bright`, as `field_look.polarity_of` sees them."""
    voltage_kv: tuple[float, float] | None = None
    detector: tuple[str, ...] | None = None
    """As `Instrument.detector` names them."""
    all_calibrated: bool = False
    """Every training micrograph had a pixel size: one without abstains as `uncalibrated`."""


class Guards(_Part):
    """How a field must look to be judged at all, measured on the training micrographs; None: not judged.

    `field_look.Look` says what each figure is.
    """

    least_sharpness: float | None = None
    most_streaks: float | None = None
    most_diffraction: float | None = None
    scale_margin: float = Field(default=1.5, ge=1)
    """Pixel size and field of view may leave the training range by this factor: augmentation trains with that."""


class Usual(_Part):
    """Between which values nine in ten micrographs of the training's kind lie; a day beyond them has drifted."""

    confidence: tuple[float, float] | None = None
    novelty: tuple[float, float] | None = None
    contrast: tuple[float, float] | None = None
    pixel_size_nm: tuple[float, float] | None = None


class NoveltyFacts(_Part):
    """How the output `novelty` is computed, and from what its unit was measured."""

    tensor: str
    """The feature map whose mean and spread over the field it reads."""
    components: int
    """Principal components that are kept."""
    micrographs: int
    """Training micrographs behind the statistics."""
    true_acceptance: float = Field(gt=0, le=1)
    """Share of held-out micrographs of its classes whose novelty is at most 1."""
    description: str = ""
