"""The demo: the real agent watches a folder into which the simulated microscope saves.

Nothing is shortened: files reach the agent through the file system alone, and it runs as `edge-agent watch`
does, with its watcher, supervisor and worker process.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_agent.config import AgentConfig, EventsConfig, PageConfig
from edge_agent.journal import JOURNALED
from edge_agent.live_page.monitor import Monitor
from edge_agent.page.opening import address_with_key, is_up, open_page, plain_address
from edge_agent.service import Service
from edge_agent.simulation import SHAPES, SavedFile, run_microscope
from edge_agent.status import Surroundings
from edge_agent.terminal import finding_text, reasons_text, say, wait_for_enter

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol import Ready
    from edge_agent.sidecar import Finding

PATIENCE_SECONDS: Final = 120.0
"""How long the demo waits for the last findings after the last file was saved."""
NOVEL_TO_IT: Final = (
    "novel: these pictures are drawn by a program, and a model that was trained on real micrographs "
    "has never seen such"
)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What the demo does. `folder` is kept; None stands for a new temporary one, kept as well."""

    files: int = 20
    rate_hz: float = 2.0
    size_px: int = 2048
    seed: int = 0
    folder: Path | None = None
    model: str | None = None
    page: bool = True
    """Whether the page can be looked at meanwhile; where there are windows and a terminal, it is opened."""


@dataclass(slots=True)
class _Session:
    """What the microscope saved and what the agent found, joined by path."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    saved: dict[Path, SavedFile] = field(default_factory=dict)
    found: dict[Path, Finding] = field(default_factory=dict)
    told: set[Path] = field(default_factory=set)
    all_saved: bool = False
    complete: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None
    is_opened: bool = False
    verdict: bool | None = None

    def add_saved(self, saved: SavedFile) -> None:
        with self.lock:
            self.saved[saved.path] = saved
            self._tell(saved.path)

    def add_found(self, finding: Finding) -> None:
        with self.lock:
            if finding.outcome in JOURNALED:
                self.found[finding.path] = finding
                self._tell(finding.path)

    def end_of_saving(self) -> None:
        with self.lock:
            self.all_saved = True
            self._tell(None)

    def _tell(self, path: Path | None) -> None:
        """Print a file's line once both sides have spoken: the agent may be the quicker one."""
        if path in self.saved and path in self.found and path not in self.told:
            self.told.add(path)
            say(f"{path.name:<29} drawn {self.saved[path].drawn:<12} -> {finding_text(self.found[path])}")
        if self.all_saved and self.saved.keys() <= self.found.keys():
            self.complete.set()


def run_demo(plan: DemoPlan) -> bool:
    """Run the demo, printing as it goes; True when each file has a sidecar and each classified one a heatmap.

    Raises what `Service.run` raises, ValueError for a plan that makes no sense, OSError of the microscope, and
    KeyboardInterrupt where a signal ended it.
    """
    folder = (plan.folder or Path(tempfile.mkdtemp(prefix="scopewatch-demo-"))).absolute()
    session = _Session()
    stop = threading.Event()
    microscope = run_microscope(
        folder, files=plan.files, rate_hz=plan.rate_hz, size_px=plan.size_px, seed=plan.seed, stop=stop
    )
    # What cannot be removed must not be told instead of what went wrong.
    with tempfile.TemporaryDirectory(prefix="scopewatch-state-", ignore_cleanup_errors=True) as state:
        config = AgentConfig(
            folders=(folder,),
            model=plan.model,
            state=Path(state),
            quiet_seconds=0.5,
            scan_seconds=2.0,
            # Its microscope reserves nothing.
            gap_seconds=0.0,
            # Asked for by the person in front of it, for a few files, on whatever disk there is.
            free_space_floor_mib=0,
        )
        monitor = Monitor(PageConfig(enabled=plan.page), EventsConfig())

        def hear(finding: Finding) -> None:
            monitor.note_finding(finding)
            session.add_found(finding)

        service = Service(
            config,
            on_finding=hear,
            on_ready=lambda model: _greet(model, folder, session, monitor.word, config.state),
            on_status=monitor.note_status,
            on_archive=monitor.meet,
            surroundings=lambda: Surroundings(page=monitor.word),
        )

        def save_all() -> None:
            try:
                for saved in microscope:
                    session.add_saved(saved)
                session.end_of_saving()
                _wait(session.complete, stop)
                if not stop.is_set() and not service.interrupted:
                    session.verdict = _summarise(session, folder, plan.files)
                    _let_look(session, lambda: stop.is_set() or service.interrupted)
            except Exception as error:
                session.failure = error
            finally:
                service.stop()

        thread = threading.Thread(target=save_all, name="microscope", daemon=True)
        thread.start()
        monitor.start()
        try:
            service.run()
        finally:
            stop.set()
            thread.join()
            monitor.close()
    if session.failure is not None:
        raise session.failure
    if session.verdict is not None:
        return session.verdict
    if service.interrupted:
        raise KeyboardInterrupt
    return _summarise(session, folder, plan.files)


def _wait(complete: threading.Event, stop: threading.Event) -> None:
    """Wait for the last finding, but not after the agent has ended for another reason."""
    for _ in range(int(PATIENCE_SECONDS / 0.1)):
        if complete.wait(0.1) or stop.is_set():
            return


def _greet(model: Ready, folder: Path, session: _Session, page: str | None, state: Path) -> None:
    say(f"The pictures are simulated. Model {model.name} {model.version} watches {folder}")
    if not is_up(page):
        return
    try:
        session.is_opened = sys.stdout.isatty() and open_page(page, state)
        address = plain_address(page) if session.is_opened else address_with_key(page, state)
    except OSError as error:
        say(f"The page cannot be opened: {error}")
        return
    opened = ", opened in the browser" if session.is_opened else ""
    say(f"The page until it ends: {address}{opened}")


def _let_look(session: _Session, is_over: Callable[[], bool]) -> None:
    """Leave the page to whoever has it open in the browser, and a terminal to say that it is enough."""
    if session.is_opened and sys.stdin.isatty():
        say("The page stays until Enter or Ctrl-C.")
        wait_for_enter(is_over)


def _summarise(session: _Session, folder: Path, files: int) -> bool:
    found = [finding for path, finding in session.found.items() if path in session.saved]
    classified = [finding for finding in found if finding.outcome == "classified"]
    sidecars = [
        finding.sidecar for finding in found if finding.sidecar is not None and finding.sidecar.is_file()
    ]
    heatmaps = [
        finding.heatmap for finding in classified if finding.heatmap is not None and finding.heatmap.is_file()
    ]
    pairs = [(session.saved[finding.path], finding) for finding in classified]
    say("")
    say(
        f"{len(session.saved)} simulated files: {len(sidecars)} sidecars, {len(classified)} classified, "
        f"{len(heatmaps)} heatmaps"
    )
    for line in (*_clear_lines(pairs), *_other_lines(pairs)):
        say(line)
    for path in sorted(session.saved.keys() - session.found.keys()):
        say(f"no sidecar: {path}")
    say(f"sidecars: {folder}/*.dm3.json")
    say(f"heatmaps: {folder}/*.dm3.heatmap.png")
    return len(sidecars) == len(session.saved) == files and len(heatmaps) == len(classified)


def _clear_lines(pairs: list[tuple[SavedFile, Finding]]) -> list[str]:
    """What became of the fields about whose shape a person has no doubt."""
    clear = [(saved, found) for saved, found in pairs if _is_clear_shape(saved)]
    if not clear:
        return []
    answered = [(saved, found) for saved, found in clear if found.decision != "abstain"]
    silent = [(saved, found) for saved, found in clear if found.decision == "abstain"]
    right, leaning = _agreeing(answered), _agreeing(silent)
    word = "accepted" if any(found.decision == "accept" for _, found in clear) else "answered"
    lines = [
        f"{len(clear)} clear fields of particles: {right} {word} and right, "
        f"{len(answered) - right} {word} and wrong, {len(silent)} without an answer{_because(silent)}",
        f"label agrees with what was drawn in {right} of {len(answered)} answers"
        + (f"; without an answer, {leaning} of {len(silent)} lean to it" if silent else ""),
    ]
    if any("novel" in found.reasons for _, found in silent):
        lines.append(NOVEL_TO_IT)
    return lines


def _other_lines(pairs: list[tuple[SavedFile, Finding]]) -> list[str]:
    """Of everything else, by kind: how many got no answer, and why."""
    kinds: dict[str, list[tuple[SavedFile, Finding]]] = {}
    for saved, found in pairs:
        if not _is_clear_shape(saved):
            kind = f"crowded or noisy {saved.drawn}" if saved.drawn in SHAPES else saved.drawn
            kinds.setdefault(kind, []).append((saved, found))
    lines = []
    for kind, members in sorted(kinds.items()):
        silent = [(saved, found) for saved, found in members if found.decision == "abstain"]
        lines.append(
            f"other fields, {kind}: {len(silent)} of {len(members)} without an answer{_because(silent)}"
        )
    return lines


def _because(silent: list[tuple[SavedFile, Finding]]) -> str:
    """In how many of these abstentions each reason stands, in brackets."""
    reasons = Counter(reason for _, found in silent for reason in found.reasons)
    return f" ({reasons_text(reasons)})" if reasons else ""


def _agreeing(pairs: list[tuple[SavedFile, Finding]]) -> int:
    return sum(found.label == saved.drawn for saved, found in pairs)


def _is_clear_shape(saved: SavedFile) -> bool:
    return saved.clear and saved.drawn in SHAPES
