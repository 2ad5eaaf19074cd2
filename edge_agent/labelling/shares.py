"""A share and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_NORMAL_95: Final = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Share:
    """`right` of `number`."""

    right: int
    number: int

    @property
    def rate(self) -> float | None:
        """The share itself; None of nothing."""
        return self.right / self.number if self.number else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval by Wilson (1927), as the trainer's `scoring.intervals` has it; None of nothing."""
        if not self.number:
            return None
        share, z2 = self.right / self.number, _NORMAL_95**2
        centre = (share + z2 / (2 * self.number)) / (1 + z2 / self.number)
        spread = math.sqrt(share * (1 - share) / self.number + z2 / (4 * self.number**2))
        half = _NORMAL_95 * spread / (1 + z2 / self.number)
        return round(max(0.0, centre - half), 4), round(min(1.0, centre + half), 4)
