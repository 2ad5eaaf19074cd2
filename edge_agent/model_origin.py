"""How a model came to be, as its manifest tells it: what was trained, which form runs, what was compared."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Candidate(_Part):
    """One form of the same network that was measured when the bundle was made."""

    name: str
    milliseconds: float
    """Median for one input on one thread."""
    model_bytes: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    cam_agreement: float | None = None
    """With the map of the plain graph; 1 is the same map."""
    novelty_apart: float | None = None
    """The largest change against the plain graph's novelty, as a fraction of it; None where there is none."""
    decisions_kept: float | None = None
    """Share decided as by the plain graph; None where there are no limits."""
    passed: bool
    reason: str = ""
    """What it failed at."""


class Optimisation(_Part):
    """Which form of the network runs, and the figures that decided it."""

    chosen: str
    reason: str
    processor: str
    threads: int
    pictures: int
    candidates: tuple[Candidate, ...]


class Network(_Part):
    """What was trained, and from which weights."""

    backbone: str
    weights_origin: str
    fine_tuned_from: str
    weights_kept: Literal["lowest validation loss", "last epoch"] = "lowest validation loss"
    """Of which epoch; only the first kind has looked at the validation part."""
    opset: int
    parameters: int
    """Of all members together."""
    members: int = Field(default=1, ge=1)
    """Networks in the graph, whose logits and maps are averaged."""
    trained_parts: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Parts of the data set that some member was fitted to; an ensemble of folds has seen all of them."""


class Parity(_Part):
    """How far ONNX Runtime is from the training framework on real crops, or from a model as it was imported.

    `probabilities` is the largest absolute difference. Evidence is unbounded, so `cam` is the largest difference as
    a fraction of the largest evidence of that crop (of 1, where that is smaller); `cam_absolute` is the plain one.
    """

    crops: int
    probabilities: float
    cam: float
    cam_absolute: float = 0.0
    tolerance: float
    cam_tolerance: float | None = None
    """For `cam`, where it is not `tolerance`."""
    cam_against: Literal["training framework", "measured derivative of the logits"] = "training framework"
    """The second: means of an imported network's maps, relative to what running its head on slightly changed
    features gives; 0.0 where the graph has no map."""


class Golden(_Part):
    """The replay that proves a PC computes what was exported.

    `tolerance` holds for probabilities, and for the map as a fraction of a case's largest evidence.
    """

    cases: int = Field(ge=0)
    tolerance: float = Field(ge=0)
    pictures: str = "simulated micrographs"
