"""The paragraph of a model card on when the model does not answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trainer.trusting.trust_record import StrangerKind, TrustRecord

_HEADING: Final = "## When it does not answer"


def with_trust(card: str, record: TrustRecord) -> str:
    """A model card with this paragraph at its end, in place of an earlier one."""
    kept = re.sub(rf"\n*{re.escape(_HEADING)}\n.*?(?=\n## |\Z)", "", card, flags=re.DOTALL)
    return f"{kept.rstrip()}\n\n{_HEADING}\n\n{_paragraph(record)}\n"


def _paragraph(record: TrustRecord) -> str:
    lines = [
        f"Limits were measured on {record.source}. Of these {record.accepted:.1%} are accepted, and "
        f"{record.accepted_accuracy:.1%} of the accepted answers are right ({_accuracy(record):.1%} of all). "
        f"Logits are divided by a temperature of {record.temperature:g}."
    ]
    if record.strangers:
        lines += ["", "| pictures that are none of the classes | abstained |", "|---|---|"]
        lines += [_row(kind) for kind in record.strangers]
    lines += ["", *record.notes] if record.notes else []
    return "\n".join(lines)


def _accuracy(record: TrustRecord) -> float:
    return sum(one.label == one.predicted for one in record.held) / len(record.held)


def _row(kind: StrangerKind) -> str:
    name = kind.kind.replace("|", "&#124;").replace("_", " ")
    return f"| {name} ({kind.source}) | {kind.abstained} of {kind.pictures} |"
