"""A `systemctl` that keeps units in a dictionary and writes down what it was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.deploy.systemd_service import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence


class FakeSystemd:
    """`refuses` maps a verb to what systemctl says on stderr when it fails."""

    def __init__(self, version: str = "252 (252.39-1~deb12u2)") -> None:
        self.asked: list[str] = []
        self.refuses: dict[str, str] = {}
        self.shown = {"ActiveState": "inactive", "SubState": "dead", "UnitFileState": "", "MainPID": "0"}
        self.version = version

    def __call__(self, words: Sequence[str], timeout_seconds: float) -> Answer:
        assert timeout_seconds > 0
        self.asked.append(" ".join(words))
        if words[0] != "systemctl":
            return Answer(0, "its last words\n", "")
        verb, *rest = [
            word for word in words[1:] if word not in ("--user", "--no-pager", "--no-ask-password")
        ]
        if verb in self.refuses:
            return Answer(1, "", self.refuses[verb] + "\n")
        if verb == "show":
            if "--property=Version" in rest:
                return Answer(0, self.version + "\n", "")
            return Answer(0, "".join(f"{key}={value}\n" for key, value in self.shown.items()), "")
        self._do(verb)
        return Answer(0, "", "")

    def _do(self, verb: str) -> None:
        changes = {
            "enable": {"UnitFileState": "enabled"},
            "restart": {"ActiveState": "active", "SubState": "running", "MainPID": "77"},
            "stop": {"ActiveState": "inactive", "SubState": "dead", "MainPID": "0"},
            "disable": {"ActiveState": "inactive", "UnitFileState": "disabled", "MainPID": "0"},
        }
        self.shown |= changes.get(verb, {})

    @property
    def verbs(self) -> list[str]:
        """What it was asked to do, questions left out."""
        words = [line.replace("systemctl --no-pager --no-ask-password ", "") for line in self.asked]
        return [word for word in words if not word.startswith("show") and "journalctl" not in word]
