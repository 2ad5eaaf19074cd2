"""What became of each file, in the log: as text and as fields, and of what fails on and on one line a minute."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from edge_agent.logs import HELD_BACK, OnceAMinute
from edge_agent.output_places import readable_path
from edge_agent.terminal import finding_line

if TYPE_CHECKING:
    from edge_agent.sidecar import Finding

NO_NEWS = ("incomplete", "vanished")
"""Outcomes that nobody needs to hear of one by one."""
STANDING = ("failed", "interrupted", "crashed")
"""Outcomes that many files share for one reason, and that come back."""
_log = logging.getLogger(__name__)


class FindingLog:
    """Belongs to the thread that hears the findings."""

    def __init__(self) -> None:
        self._standing = OnceAMinute()

    def note(self, finding: Finding) -> None:
        """Log one finding, if that is news."""
        held_back = self.admit(finding)
        if held_back is not None:
            more = {HELD_BACK: held_back} if held_back else {}
            _log.info(finding_line(finding, finding.path), extra=_fields(finding) | more)

    def admit(self, finding: Finding) -> int | None:
        """Return how many like this were held back before it, or None to say nothing of it."""
        if finding.outcome in NO_NEWS:
            return None
        return self._standing.admit((finding.outcome, finding.reason)) if finding.outcome in STANDING else 0


def _fields(finding: Finding) -> dict[str, object]:
    fields: dict[str, object] = {
        "event": "finding",
        "file": readable_path(finding.path),
        "outcome": finding.outcome,
        "reason": finding.reason,
    }
    if finding.outcome == "classified":
        fields |= {
            "label": finding.label,
            "probability": finding.probability,
            "decision": finding.decision,
            "reasons": finding.reasons or None,
            "milliseconds": round(finding.milliseconds, 1),
        }
    return fields
