"""What the running agent says of itself, and whether one is running.

The agent holds a lock on its state folder (and one for each watched folder) for as long as it lives; the
operating system frees it when the process ends, however it ends. Its numbers stand in `status.json` in the
state folder. Only this module knows the lock files and the form of the numbers.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from contextlib import contextmanager
from datetime import date
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from edge_agent.config import system_state_folder
from edge_agent.files import FileLayer, remove_leftovers, write_durably
from edge_agent.processes.storage_probe import in_time

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATUS_NAME: Final = "status.json"
LOCK_NAME: Final = "agent.lock"
OWN: Final = "status"
"""Owner of the temporary files in the state folder."""
MOST_TROUBLES: Final = 20
# `status` looks at the lock for an instant; an agent that starts just then waits it out.
_LOCK_PATIENCE_SECONDS: Final = 0.5


class AlreadyRunning(Exception):
    """Another agent holds this state folder or one of the watched folders; the text says which."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FolderStatus(_Part):
    """One watched folder; `events` is "on", or why they cannot be relied on (scans still find everything).

    `scanned` is when the last scan came to its end, null before the first; the next is due a period later.
    """

    path: str
    present: bool
    events: str
    share: bool
    scanned: AwareDatetime | None = None
    scan_period_seconds: float | None = None


class DiskStatus(_Part):
    """A disk that the agent writes to; when it is `low` nothing is written there."""

    folder: str
    free_mib: int
    low: bool


class ModelStatus(_Part):
    """The model that answers; `labels` are its classes, in the manifest's order."""

    name: str
    version: str
    sha256: str
    labels: tuple[str, ...] = ()


class WorkerStatus(_Part):
    """The worker process; `trouble` is why there is none at the moment, or why the last one ended.

    `away_seconds` says for how long none could be started, null where one works or is still being waited for.
    """

    pid: int | None
    starts: int
    deaths: int
    recycled: int
    interrupted: int
    trouble: str | None
    away_seconds: float | None = None


class Trouble(_Part):
    """A file that is tried again, and why; a `stalled` one has a sidecar that says so."""

    path: str
    outcome: str
    reason: str | None


class LastFile(_Part):
    """The file that was finished last."""

    path: str
    outcome: str
    label: str | None
    probability: float | None
    decision: str | None
    finished: AwareDatetime


class DriftStatus(_Part):
    """One quantity over the files of one day (UTC), beside the range that the model calls usual.

    `left`: more than half of at least twenty files lie beyond one end of it. Null: too few files, or no range.
    """

    quantity: str
    day: date
    files: int
    mean: float
    standard_deviation: float | None
    below: int
    above: int
    usual: tuple[float, float] | None
    left: bool | None


class ConfigStatus(_Part):
    """The configuration that is in force: its file, since when, and why the last edit is not taken up, if so."""

    file: str | None
    since: AwareDatetime
    refused: str | None


class Surroundings(_Part):
    """What whoever runs the service adds to its numbers; see `AgentStatus`."""

    config: ConfigStatus | None = None
    page: str | None = None
    model_note: str | None = None


class AgentStatus(_Part):
    """Everything `edge-agent status` prints. `done` counts the journal, `since_start` this run.

    `decided` splits what this run classified by its decision: "accept", "abstain", "ungated".
    `journal` says where the rows come from: "kept", "new" (there was none), or "moved aside" (it could not be
    used); the last two are filled from the sidecars. `orphaned` counts sidecars whose micrograph is gone.
    `drift` is of the last day with files and, when that is today, of the one before. `page` is the address of page
    and metrics, or why there is none. `model_note` says why another model answers than was asked for.
    """

    schema_name: Literal["scopewatch.status/4"] = "scopewatch.status/4"
    version: str
    pid: int
    started: AwareDatetime
    updated: AwareDatetime
    state: str
    folders: tuple[FolderStatus, ...]
    output: str | None
    disks: tuple[DiskStatus, ...]
    paused: str | None
    model: ModelStatus | None
    worker: WorkerStatus
    seen: int
    waiting: int
    oldest_waiting_seconds: float | None
    done: dict[str, int]
    since_start: dict[str, int]
    decided: dict[str, int]
    incomplete: int
    stalled: int
    failing: int
    orphaned: int
    scans: int
    last_scan_seconds: float | None
    journal: str
    last: LastFile | None
    troubles: tuple[Trouble, ...]
    drift: tuple[DriftStatus, ...]
    instrument: str | None = None
    config: ConfigStatus | None = None
    page: str | None = None
    model_note: str | None = None


def carried_on(numbers: AgentStatus, earlier: AgentStatus) -> AgentStatus:
    """Return `numbers` with the counts of an earlier service of the same process added, which only ever grow."""
    worker, before = numbers.worker, earlier.worker
    counted = ("starts", "deaths", "recycled", "interrupted")
    return numbers.model_copy(
        update={
            "started": earlier.started,
            "since_start": _added(earlier.since_start, numbers.since_start),
            "decided": _added(earlier.decided, numbers.decided),
            "scans": earlier.scans + numbers.scans,
            "last": numbers.last or earlier.last,
            "worker": worker.model_copy(
                update={name: getattr(before, name) + getattr(worker, name) for name in counted}
            ),
        }
    )


def _added(some: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    return {key: some.get(key, 0) + more.get(key, 0) for key in {**some, **more}}


@contextmanager
def sole_agent(state: Path, folders: Iterable[Path]) -> Iterator[None]:
    """Hold the state folder (which is created) and the watched folders against other agents of this user.

    Raises AlreadyRunning.
    """
    with hold_state(state), hold_folders(folders):
        yield


@contextmanager
def hold_state(state: Path) -> Iterator[None]:
    """Hold the state folder, which is created, against other agents. Raises AlreadyRunning."""
    state.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        _hold(held, state / LOCK_NAME, f"the state folder {state}; stop it, or give this one another `state`")
        # An earlier run's numbers are not this one's, nor are the halves it left when it was killed.
        (state / STATUS_NAME).unlink(missing_ok=True)
        remove_leftovers(state, OWN)
        yield


@contextmanager
def hold_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the watched folders against other agents of this user and the service. Raises AlreadyRunning."""
    with contextlib.ExitStack() as held:
        served = _folders_of_the_service()
        for folder in folders:
            if served and _real(folder) in served:
                raise AlreadyRunning(
                    f"the service of this PC already watches the folder {folder}; stop it first"
                )
            _hold(held, _lock_of_folder(folder), f"the folder {folder}; stop it, or watch another folder")
        yield


def publish(state: Path, status: AgentStatus) -> None:
    """Write the numbers, whole or not at all. Raises OSError."""
    publish_beside(state / STATUS_NAME, status.model_dump_json(indent=2).encode())


def publish_beside(file: Path, data: bytes) -> None:
    """Write a file of the state folder that is of this moment, whole or not at all. Raises OSError."""
    write_durably(file, data, _UNFORCED)


def running_status(state: Path) -> AgentStatus | None:
    """Return what the agent on this state folder last said, or None when none is running.

    Raises ValueError when one is running whose numbers cannot be read.
    """
    if not is_running(state):
        return None
    file = state / STATUS_NAME
    try:
        return AgentStatus.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ValueError(
            f"{file}: an agent is running, but its numbers cannot be read yet: {_first(error)}"
        ) from None


def is_running(state: Path) -> bool:
    """Whether an agent holds this state folder at this moment; whoever may read the folder may ask.

    Raises PermissionError where the folder cannot even be read.
    """
    return is_held(state / LOCK_NAME)


def is_held(lock: Path) -> bool:
    """Whether an agent holds this lock file at this moment. Raises PermissionError."""
    try:
        # Not FileLock: it opens for writing, which only the agent's own account may do.
        descriptor = os.open(lock, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError:
        return False
    try:
        return _is_held(descriptor)
    finally:
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    """Try for an instant the lock that FileLock takes, and let go at once."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    except (BlockingIOError, PermissionError):
        return True
    return False


class _Unforced(FileLayer):
    """Numbers of the moment need to be whole, not to survive a power cut: the disk is spared."""

    def fsync(self, descriptor: int) -> None:
        """Leave it to the system."""

    def fsync_folder(self, folder: Path) -> None:
        """Leave it to the system."""


_UNFORCED: Final = _Unforced(OWN)


def _hold(held: contextlib.ExitStack, lock: Path, what: str) -> None:
    try:
        held.enter_context(FileLock(lock, timeout=_LOCK_PATIENCE_SECONDS, poll_interval=0.05))
    except Timeout:
        raise AlreadyRunning(f"another agent already holds {what}") from None


def _folders_of_the_service() -> frozenset[str]:
    """Return what the system's service watches, unless it is this process; its locks lie in a /tmp of its own."""
    try:
        numbers = running_status(system_state_folder())
    except (OSError, ValueError):  # a folder of others, or numbers that are not there yet
        return frozenset()
    if numbers is None or numbers.pid == os.getpid():
        return frozenset()
    return frozenset(_real(Path(folder.path)) for folder in numbers.folders)


def _lock_of_folder(folder: Path) -> Path:
    """Return where a watched folder's lock lies: never in it, because it belongs to the instrument."""
    name = sha256(os.fsencode(os.path.normcase(_real(folder)))).hexdigest()[:32]
    locks = locks_folder()
    locks.mkdir(mode=0o700, parents=True, exist_ok=True)
    return locks / f"{name}.lock"


def _real(folder: Path) -> str:
    """On a share that does not answer, the name that was given has to do: a start must not hang with it."""
    return in_time(partial(os.path.realpath, folder), otherwise=str(folder.absolute()))


def locks_folder() -> Path:
    """Return where this user's locks of watched folders lie, whether it is there or not."""
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir()) / f"scopewatch-locks{user}"


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]
