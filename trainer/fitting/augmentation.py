"""Cached crops -> batches of network input: window, augmentation, balanced sampling.

Pictures stay at the scale at which the agent shows them to the network (`input_px`); a training input is a
square window of that picture, turned, mirrored, zoomed and shifted by one affine map, so that each pixel is
interpolated once. What lies outside the picture is filled by reflection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Augmentation(BaseModel):
    """What may be done to a training picture; grey values are 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_px: int = Field(default=320, ge=32, le=2048)
    """Side of the square training input, at the scale of the agent's input."""
    rotation_degrees: float = Field(default=180.0, ge=0, le=180)
    flips: bool = True
    zoom: tuple[float, float] = (0.7, 1.25)
    """Range of enlargement, drawn log-uniformly; below 1 the window shows more of the field."""
    shift: float = Field(default=1.0, ge=0, le=1)
    """How much of the free way between window and picture border the window may move."""
    brightness: float = Field(default=0.1, ge=0, le=0.5)
    contrast: float = Field(default=0.3, ge=0, le=0.9)
    gamma: float = Field(default=0.25, ge=0, le=1)
    """Largest natural logarithm of the exponent applied to the grey values."""
    noise: float = Field(default=0.06, ge=0, le=0.5)
    """Largest standard deviation of added white noise."""
    polarity: float = Field(default=0.5, ge=0, le=1)
    """Probability of inverting the picture; for labs that have both bright field and dark field."""

    @field_validator("zoom")
    @classmethod
    def _is_a_range(cls, zoom: tuple[float, float]) -> tuple[float, float]:
        if not 0.1 <= zoom[0] <= zoom[1] <= 10:
            raise ValueError("zoom is a range (smallest, largest) between 0.1 and 10")
        return zoom

    def scaled(self, strength: float) -> Augmentation:
        """The same rule at another strength: 1 as it is, 0 only turning, mirroring and moving the window.

        Those three lose nothing and stay as they are; zoom, tones, noise and inversion grow in proportion (beyond
        1 up to what the fields allow).
        """
        if not 0 <= strength <= 4:
            raise ValueError(f"the strength of augmentation lies between 0 and 4, not {strength:g}")
        return Augmentation(
            window_px=self.window_px,
            rotation_degrees=self.rotation_degrees,
            flips=self.flips,
            zoom=(max(0.1, self.zoom[0] ** strength), min(10.0, self.zoom[1] ** strength)),
            shift=self.shift,
            brightness=min(0.5, self.brightness * strength),
            contrast=min(0.9, self.contrast * strength),
            gamma=min(1.0, self.gamma * strength),
            noise=min(0.5, self.noise * strength),
            polarity=min(1.0, self.polarity * strength),
        )


class Augmenter:
    """Draws augmented windows of one picture after another, reproducibly from a seed."""

    def __init__(self, rule: Augmentation, seed: int) -> None:
        self._rule = rule
        self._random = np.random.default_rng(seed)

    def window(self, grey: NDArray[np.float32]) -> NDArray[np.float32]:
        """One augmented square window of a picture (float32 [rows, columns] in 0..1)."""
        import tensorflow as tf

        rule, size = self._rule, self._rule.window_px
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=grey[None, :, :, None],
            transforms=self._affine(grey.shape[0], grey.shape[1])[None],
            output_shape=(size, size),
            interpolation="BILINEAR",
            fill_mode="REFLECT",
            fill_value=0.0,
        )
        return self._toned(np.asarray(moved)[0, :, :, 0], rule)

    def _affine(self, rows: int, columns: int) -> NDArray[np.float32]:
        """The eight numbers that take a window coordinate to a picture coordinate."""
        rule, draw = self._rule, self._random
        angle = math.radians(draw.uniform(-rule.rotation_degrees, rule.rotation_degrees))
        zoom = math.exp(draw.uniform(math.log(rule.zoom[0]), math.log(rule.zoom[1])))
        mirror = -1.0 if rule.flips and draw.random() < 0.5 else 1.0
        cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
        middle = (rule.window_px - 1) / 2
        # Shifting by at most the free way keeps the middle of the window where the picture has neighbours.
        free = [max(0.0, length - rule.window_px / zoom) / 2 * rule.shift for length in (columns, rows)]
        x = (columns - 1) / 2 + draw.uniform(-1, 1) * free[0]
        y = (rows - 1) / 2 + draw.uniform(-1, 1) * free[1]
        a, b, c, d = mirror * cosine, -sine, mirror * sine, cosine
        return np.array([a, b, x - (a + b) * middle, c, d, y - (c + d) * middle, 0, 0], dtype=np.float32)

    def _toned(self, grey: NDArray[np.float32], rule: Augmentation) -> NDArray[np.float32]:
        draw = self._random
        values = np.clip(grey, 0, 1) ** np.float32(math.exp(draw.uniform(-rule.gamma, rule.gamma)))
        gain = 1 + draw.uniform(-rule.contrast, rule.contrast)
        # About the mean, and written so that a gain of 1 leaves every value as it is, to the last bit.
        values = values * gain + values.mean() * (1 - gain) + draw.uniform(-rule.brightness, rule.brightness)
        values = values + draw.normal(0, draw.uniform(0, rule.noise), values.shape)
        if draw.random() < rule.polarity:
            values = 1 - values
        return np.asarray(np.clip(values, 0, 1), dtype=np.float32)
