"""What there is to see on the operator's page: every state, every kind of entry, and the eyes that see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal
from uuid import uuid4

from agent_numbers import DISK, FOLDER, WORKER

from edge_agent.labelling.label_words import Order

if TYPE_CHECKING:
    from page_rig import QuietPage

DEFICIENCIES: Final = ("deuteranopia", "protanopia", "achromatopsia")
_LOW_DISK: Final = DISK.model_copy(update={"free_mib": 12, "low": True})
_REFUSED: Final = WORKER.model_copy(update={"pid": None, "trouble": "manifest: hash differs"})
STATES: Final[dict[str, dict[str, Any]]] = {
    "model_refused": {"model": None, "worker": _REFUSED},
    "watcher_unhealthy": {"folders": (FOLDER.model_copy(update={"path": "/data/titan", "present": False}),)},
    "disk_low": {"disks": (_LOW_DISK,)},
    "backlog": {"waiting": 60, "oldest_waiting_seconds": 75.0},
    "working": {"waiting": 1, "oldest_waiting_seconds": 0.2},
    "starting": {"model": None},
    "idle": {},
}
"""What the agent's main loop says in each of its states; see `QuietPage.say`."""


def emulate(session: Any, deficiency: str) -> None:
    """Show the tab of this session as those with such a colour vision see it, for as long as the session lasts.

    One of `DEFICIENCIES`, or "none".
    """
    session.send("Emulation.setEmulatedVisionDeficiency", {"type": deficiency})


def of_every_kind(page: QuietPage) -> None:
    """Let come one of all there is: each class, an abstention, no micrograph, a confirmed and a corrected one.

    The last is accepted and has a picture. All within the last hour, so that one session has them all.
    """
    now = datetime.now(UTC)
    for number in range(60):
        page.comes(page.a_finding(finished=now - timedelta(minutes=65 - number)))
    page.comes(page.a_finding("spectrum.dm3", outcome="not_an_image", reason="a spectrum of 2048 channels",
                              label=None, probability=None, decision=None, reasons=(), finished=now))  # fmt: skip
    page.comes(page.with_picture("doubtful.dm3", decision="abstain", reasons=("novel",), finished=now))
    words: tuple[tuple[Literal["confirm", "correct", "not_in_list"], str | None], ...] = (
        ("confirm", None), ("correct", "faceted"), ("not_in_list", None),
    )  # fmt: skip
    for action, label in words:
        page.comes(
            page.with_picture(f"{action}.dm3", label="rod", decision="accept", reasons=(), finished=now)
        )
        give_newest(page, action, label)
    page.comes(page.with_picture("latest.dm3", label="round", probability=0.97, decision="accept", reasons=(),
                                 finished=datetime.now(UTC)))  # fmt: skip


def give_newest(
    page: QuietPage, action: Literal["confirm", "correct", "not_in_list"], label: str | None
) -> None:
    """Let ada say what the newest file shows."""
    newest = page.home.kept_state(1, "ada")["last"]["id"]
    page.home.labels.give(Order(str(uuid4()), action, label, "ada", (newest,)))
