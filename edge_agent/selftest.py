"""The self-test: what this project could only prove elsewhere, tried on this PC and in this folder.

Everything happens in one sub-folder with an unmistakable name, and in one of the state folder; both are
removed whatever happens, and nothing else is touched. Only this module decides the order, and how a verdict
is put into words.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from edge_agent.config import state_folder
from edge_agent.shared_opening import system_path
from edge_agent.status import sole_agent
from edge_agent.trials.agent_trials import AGENT_TRIALS, END_TRIALS
from edge_agent.trials.company_trials import COMPANY_TRIALS
from edge_agent.trials.disk_trials import DISK_TRIALS
from edge_agent.trials.earlier_runs import (
    NAME,
    Run,
    end_agents,
    killed_runs,
    note,
    this_run,
    unclear_places,
)
from edge_agent.trials.event_trials import EVENT_TRIALS
from edge_agent.trials.trial import Bench, Failed, Skipped, Trial, Warned
from edge_agent.trials.writer_trials import WRITER_TRIALS
from edge_agent.watching.change_events import NativeHints

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from edge_agent.watching.change_events import Hints

TRIALS: Final = (*DISK_TRIALS, *WRITER_TRIALS, *EVENT_TRIALS, *AGENT_TRIALS, *COMPANY_TRIALS, *END_TRIALS)
_REMOVING_SECONDS: Final = 10.0

Verdict = Literal["passed", "failed", "skipped", "warning"]


@dataclass(frozen=True, slots=True)
class Check:
    """One verdict: what was tried, what was seen, what it proves, and what to do unless it passed."""

    name: str
    verdict: Verdict
    detail: str
    seconds: float
    meaning: str
    remedy: str | None


def run_selftest(
    folder: Path,
    *,
    state: Path | None = None,
    model: str | None = None,
    trials: Sequence[Trial] = TRIALS,
    hints: Callable[[], Hints] = NativeHints,
    burst_files: int = 2000,
) -> Generator[Check, None, None]:
    """Try everything in `folder`, which must exist, and yield each verdict as it is there.

    Ends about a minute later, without a trace in `folder`; the last verdict says so. Whoever stops early
    closes the iterator. Raises AlreadyRunning when an agent watches the folder, and OSError where nothing
    can be made in it or in the state folder.
    """
    folder = folder.absolute()
    token = f"{NAME}-{secrets.token_hex(4)}"
    own = folder / token, (state or state_folder()).absolute() / token
    try:
        own[1].mkdir(parents=True)
        # Also keeps an agent from starting on the folder meanwhile, which would classify the trials' files.
        with sole_agent(own[1], [folder]), ExitStack() as stack:
            own[0].mkdir()
            note(this_run(*own))
            for run in killed_runs(folder, own[1].parent):
                yield _earlier(run)
            yield from _unclear(unclear_places(folder, own[0]))
            bench = Bench(own[0], own[1], hints, stack, model, burst_files)
            for trial in trials:
                yield _check(trial, bench)
    finally:
        left = [path for path in own if not _remove(path)]
    yield _cleaned(left)


def check_lines(check: Check) -> list[str]:
    """Return what a person reads: the verdict, and what to do where it did not pass."""
    word = check.verdict if check.verdict in ("passed", "skipped") else check.verdict.upper()
    lines = [f"{word:<8} {check.name}: {check.detail}"]
    if check.verdict in ("failed", "warning"):
        lines += [f"{'':<8}   {check.meaning}", f"{'':<8}   -> {check.remedy}"]
    return lines


def summary_line(checks: Iterable[Check]) -> str:
    """Return for example `27 checks in 31 s: 25 passed, 1 warning, 1 skipped`."""
    done = tuple(checks)
    counts = Counter(check.verdict for check in done)
    verdicts: tuple[Verdict, ...] = ("passed", "failed", "warning", "skipped")
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts if counts[verdict])
    return f"{len(done)} checks in {sum(check.seconds for check in done):.0f} s: {told}"


def check_json(check: Check) -> str:
    """Return a verdict as one line of JSON."""
    return json.dumps(asdict(check) | {"seconds": round(check.seconds, 3)})


def _check(trial: Trial, bench: Bench) -> Check:
    started = time.monotonic()
    verdict, detail = _verdict(trial, bench)
    remedy = trial.remedy if verdict in ("failed", "warning") else None
    return Check(trial.name, verdict, detail, time.monotonic() - started, trial.meaning, remedy)


def _verdict(trial: Trial, bench: Bench) -> tuple[Verdict, str]:
    try:
        return "passed", trial.run(bench)
    except Warned as seen:
        return "warning", str(seen)
    except Skipped as seen:
        return "skipped", str(seen)
    except Failed as seen:
        return "failed", str(seen)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return "failed", f"{where}{error.strerror or error}"
    except Exception as error:
        # A fault in a trial must not hide what the others see.
        return "failed", f"unforeseen {type(error).__name__}: {error}"


def _earlier(run: Run) -> Check:
    """Remove what a self-test that was killed left behind, and say what that was."""
    started, ended = time.monotonic(), end_agents(run)
    places = [place for place in (run.folder, run.state) if os.path.lexists(system_path(place))]
    left = [place for place in places if not _remove(place)]
    meaning = "Nothing stays of a self-test that was killed."
    names = ", ".join(str(place) for place in left or places)
    seconds = time.monotonic() - started
    if left:
        detail = f"of a killed run, could not be removed: {names}"
        return Check("killed run cleared up", "failed", detail, seconds, meaning, "Delete it by hand.")
    agents = f", and {ended} agents ended" if ended else ""
    return Check("killed run cleared up", "passed", f"removed {names}{agents}", seconds, meaning, None)


def _unclear(places: list[Path]) -> Iterator[Check]:
    """Name what another PC's self-test may be using, or left behind: only a person can know."""
    if places:
        meaning = "What is called like this belongs to a self-test on another PC, or stayed of one."
        named = ", ".join(str(path) for path in places)
        yield Check(
            "other self-tests", "warning", named, 0.0, meaning, "Delete it by hand unless one runs there."
        )


def _cleaned(left: list[Path]) -> Check:
    meaning = "Nothing of the self-test stays."
    if not left:
        return Check("cleared up", "passed", "nothing of the self-test is left", 0.0, meaning, None)
    names = ", ".join(str(path) for path in left)
    return Check("cleared up", "failed", f"could not be removed: {names}", 0.0, meaning, "Delete it by hand.")


def _remove(folder: Path) -> bool:
    """Remove one of our own folders; an antivirus that looks into the new files is waited for."""
    deadline = time.monotonic() + _REMOVING_SECONDS
    while True:
        with suppress(OSError):
            _remove_once(folder)
        if not os.path.lexists(system_path(folder)):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def _remove_once(folder: Path) -> None:
    with os.scandir(system_path(folder)) as entries:
        found = [(folder / entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for path, is_folder in found:
        if is_folder:
            _remove_once(path)
        else:
            Path(system_path(path)).unlink()
    Path(system_path(folder)).rmdir()
