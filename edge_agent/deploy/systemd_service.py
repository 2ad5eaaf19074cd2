"""The service under systemd: put in place, started, stopped, asked, taken away.

The manager's own words are passed on when something fails. Only this module runs `systemctl`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.deploy.service_plan import SERVICE_NAME, ServiceFailed, ServiceRefused
from edge_agent.deploy.systemd_unit import START_SECONDS, STOP_SECONDS, UNIT_NAME, installed_note
from edge_agent.files import FileLayer, write_durably

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_BOOTED: Final = Path("/run/systemd/system")
_SHOWN: Final = (
    "ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "Result", "StatusText",
    "ActiveEnterTimestamp", "NeedDaemonReload",
)  # fmt: skip
_ASK_SECONDS: Final = 30
_OWN: Final = "service"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command of the system answered."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the manager says of the service; `words` is a line for a person."""

    installed: bool
    active: bool
    has_process: bool
    words: str


def run_command(words: Sequence[str], timeout_seconds: float) -> Answer:
    """Run a command of the system. Raises ServiceFailed when it cannot be run or does not come back."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=timeout_seconds, check=False
        )
    except OSError as error:
        raise ServiceFailed(f"{words[0]}: cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ServiceFailed(f"{' '.join(words)}: no answer within {timeout_seconds:.0f} s") from None
    return Answer(done.returncode, done.stdout, done.stderr)


class SystemdService:
    """The service of the system's manager, or a person's `own`. The other keywords are the system."""

    def __init__(
        self,
        *,
        own: bool,
        run: Callable[[Sequence[str], float], Answer] = run_command,
        units: Path | None = None,
        booted: Path = _BOOTED,
    ) -> None:
        self.own = own
        self._run = run
        self._booted = booted
        self.unit_file = (units or (_own_units() if own else _SYSTEM_UNITS)) / UNIT_NAME

    @property
    def installed(self) -> bool:
        """Whether there is a unit file of ours."""
        return self.unit_file.is_file()

    def note(self) -> dict[str, str | None]:
        """Return what the installation noted; empty when there is none."""
        try:
            return installed_note(self.unit_file.read_text("utf-8"))
        except FileNotFoundError:
            return {}

    def require_manager(self) -> int:
        """Return systemd's version. Raises ServiceRefused where no manager answers."""
        if not self._booted.is_dir():
            raise ServiceRefused(
                f"no systemd runs here (process 1 is {_first_process()}), as in containers and WSL 1: nothing can "
                "start the agent by itself. Run `edge-agent watch --config FILE` by whatever starts programs here"
            )
        answer = self._ask("show", "--property=Version", "--value")
        if answer.code != 0:
            raise ServiceRefused(self._silence(answer))
        number = re.match(r"\d+", answer.out.strip())
        return int(number.group()) if number else 0

    def write_unit(self, text: str) -> bool:
        """Put the unit file in place; return whether it changed. Raises ServiceRefused."""
        with contextlib.suppress(FileNotFoundError):
            if self.unit_file.read_text("utf-8") == text:
                return False
        try:
            self.unit_file.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.unit_file, text.encode(), FileLayer(_OWN))
        except PermissionError:
            raise ServiceRefused(
                f"{self.unit_file}: may not be written; run this as root (sudo), or install for yourself "
                "with --user"
            ) from None
        self._must("daemon-reload")
        return True

    def enable(self) -> None:
        """Have it started at boot, or at log-in for a person's own. Raises ServiceFailed."""
        self._must("enable", UNIT_NAME)

    def start(self) -> float:
        """Start it, or start it anew, and wait until it says that it is ready; return the seconds that took.

        Raises ServiceFailed with the service's last words.
        """
        began = time.monotonic()
        self._ask("reset-failed", UNIT_NAME)
        answer = self._ask("restart", UNIT_NAME, timeout_seconds=START_SECONDS + _ASK_SECONDS)
        if answer.code != 0:
            state = self.state()
            again = ", and is started again by itself" if state.words.startswith("activating") else ""
            first = f"{UNIT_NAME} did not start{again}: {state.words}"
            raise ServiceFailed("\n".join([first, *self._last_words()]))
        return time.monotonic() - began

    def stop(self) -> float:
        """Stop it and wait; return the seconds that took. Raises ServiceFailed."""
        began = time.monotonic()
        self._must("stop", UNIT_NAME, timeout_seconds=STOP_SECONDS + _ASK_SECONDS)
        return time.monotonic() - began

    def remove(self) -> None:
        """Stop it and take the unit file away. Raises ServiceFailed."""
        self._must("disable", "--now", UNIT_NAME, timeout_seconds=STOP_SECONDS + _ASK_SECONDS)
        try:
            self.unit_file.unlink(missing_ok=True)
        except PermissionError:
            raise ServiceRefused(f"{self.unit_file}: may not be removed; run this as root (sudo)") from None
        self._must("daemon-reload")
        self._ask("reset-failed", UNIT_NAME)

    def state(self) -> ServiceState:
        """Return what the manager says."""
        if not self.installed:
            return ServiceState(False, False, False, "not installed")
        answer = self._ask("show", UNIT_NAME, f"--property={','.join(_SHOWN)}")
        shown = dict(line.partition("=")[::2] for line in answer.out.splitlines())
        if not shown.get("ActiveState"):
            return ServiceState(True, False, False, self._silence(answer))
        # "reloading": it takes up an edit of its configuration, and works.
        active = shown["ActiveState"] in ("active", "reloading")
        return ServiceState(True, active, shown.get("MainPID", "0") != "0", _words_of(shown))

    def log_command(self) -> str:
        """Return the command that shows what the service said."""
        return f"journalctl {'--user ' if self.own else ''}-u {SERVICE_NAME}"

    def _last_words(self) -> list[str]:
        """Return what the last run of the service said, without what the manager says of it."""
        run = self._ask("show", UNIT_NAME, "--property=InvocationID", "--value").out.strip()
        words = (
            "journalctl",
            *(["--user"] if self.own else []),
            f"_SYSTEMD_INVOCATION_ID={run}",
            "--lines=5",
        )
        with contextlib.suppress(ServiceFailed):
            said = self._run((*words, "--output=cat", "--no-pager", "--quiet"), _ASK_SECONDS).out
            return [f"  {line}" for line in said.splitlines()]
        return []

    def _ask(self, *words: str, timeout_seconds: float = _ASK_SECONDS) -> Answer:
        manager = ("systemctl", "--user") if self.own else ("systemctl",)
        return self._run((*manager, "--no-pager", "--no-ask-password", *words), timeout_seconds)

    def _must(self, *words: str, timeout_seconds: float = _ASK_SECONDS) -> None:
        answer = self._ask(*words, timeout_seconds=timeout_seconds)
        if answer.code == 0:
            return
        said = _last_line(answer.err) or f"exit code {answer.code}"
        if re.search("interactive authentication|access denied|not permitted", said, re.IGNORECASE):
            raise ServiceRefused(f"systemctl {words[0]}: {said}; run this as root (sudo)")
        raise ServiceFailed(f"systemctl {' '.join(words)}: {said}")

    def _silence(self, answer: Answer) -> str:
        said = _last_line(answer.err) or f"exit code {answer.code}"
        if not self.own:
            return f"systemd does not answer: {said}"
        name = pwd.getpwuid(os.getuid()).pw_name
        return (
            f"your own systemd does not answer: {said}. It runs while you are logged in; log in (not with su or "
            f"sudo), or have it kept running: sudo loginctl enable-linger {name}"
        )


def lingers(name: str, run: Callable[[Sequence[str], float], Answer] = run_command) -> bool | None:
    """Whether a person's own services run while nobody is logged in; None when it cannot be told."""
    try:
        answer = run(("loginctl", "show-user", name, "--property=Linger", "--value"), _ASK_SECONDS)
    except ServiceFailed:
        return None
    return answer.out.strip() == "yes" if answer.code == 0 else Path("/var/lib/systemd/linger", name).exists()


def _words_of(shown: dict[str, str]) -> str:
    words = [f"{shown['ActiveState']} ({shown.get('SubState', '?')})"]
    if shown.get("ActiveEnterTimestamp") and shown["ActiveState"] == "active":
        words.append(f"since {shown['ActiveEnterTimestamp']}")
    if shown.get("MainPID", "0") != "0":
        words.append(f"process {shown['MainPID']}")
    if shown.get("NRestarts", "0") != "0":
        words.append(f"restarted {shown['NRestarts']} times")
    if shown.get("Result", "success") != "success":
        words.append(f"last ended by {shown['Result']}")
    is_enabled = shown.get("UnitFileState") == "enabled"
    words.append("starts by itself" if is_enabled else "does NOT start by itself")
    if shown.get("StatusText"):
        words.append(shown["StatusText"])
    return ", ".join(words)


def _own_units() -> Path:
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "systemd" / "user"


def _first_process() -> str:
    try:
        return Path("/proc/1/comm").read_text().strip()
    except OSError:
        return "unknown"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
