"""Where the trials of a search are recorded, which of them count, and what becomes of a dead process's trial.

Only this module knows the storage (SQLite, a database by its URL, or a journal file for network folders) and the
marks that a process leaves on its trial: machine, process, and a sign of life every minute. A trial whose process
died is failed without a reason and put in the queue again, at once where the process can be seen to be gone, after
`SILENCE_SECONDS` where it ran on another machine. Trials with a reason count as results; those without do not.

Optuna's own heartbeat would not do: journal files have none, and after a kill it waits out its grace period.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import optuna
import psutil
from filelock import FileLock, Timeout
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

DATABASE: Final = "study.db"
JOURNAL: Final = "journal:"
SILENCE_SECONDS: Final = 600.0
_SIGN_OF_LIFE_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 2.0
_TRIES: Final = 2
"""How often a trial may take its process with it before it counts as failed."""
_REASON: Final = "reason"
SLOT: Final = "slot"


class TuningError(Exception):
    """A search cannot start or go on; the message says what was seen and what to do."""


class TuningFailed(Exception):
    """The search ran and came to nothing, or its storage did; the message says what was seen."""


class TrialFailed(Exception):
    """One trial came to nothing; the message is the reason that stands in its record."""


class _Surplus(Exception):
    """Another process began the last trial at the same moment."""


@contextlib.contextmanager
def opened(storage: str | None, folder: Path) -> Iterator[BaseStorage]:
    """Open the storage of a search: `study.db` in its folder, an Optuna URL, or `journal:FILE`.

    Raises:
        TuningError: it cannot be opened.
        TuningFailed: it failed while it was open.

    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    if storage is not None and storage.startswith(JOURNAL):
        yield _journal(Path(storage.removeprefix(JOURNAL)))
        return
    # Two processes that start together would both create the tables.
    with FileLock(folder / "storage.lock"):
        database = _database(storage, folder / DATABASE)
    try:
        yield database
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise TuningFailed(
            f"{folder}: the storage of the search failed ({cause}); when it is well, the same command goes on"
        ) from error
    finally:
        database.remove_session()
        database.engine.dispose()


def _journal(file: Path) -> BaseStorage:
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock

    # Symbolic links need a privilege on Windows; elsewhere they are what NFS makes exclusively.
    lock = JournalFileOpenLock if os.name == "nt" else JournalFileSymlinkLock
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The link points to the file's name: a relative one would be looked up beside the link.
        name = str(file.resolve())
        return optuna.storages.JournalStorage(JournalFileBackend(name, lock_obj=lock(name)))
    except (OSError, ValueError, KeyError) as error:
        raise TuningError(f"{file}: no journal of a search can be kept here ({error})") from error


def _database(url: str | None, file: Path) -> optuna.storages.RDBStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if url is not None:
            return optuna.storages.RDBStorage(url)

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(file, timeout=60, check_same_thread=False)

        # By a function: a path in a URL must not hold braces, question marks or percent signs.
        return optuna.storages.RDBStorage("sqlite:///study", engine_kwargs={"creator": connect})
    except (SQLAlchemyError, ImportError, ValueError, OSError, RuntimeError, KeyError) as error:
        where = str(file) if url is None else _without_password(url)
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise TuningError(
            f"{where}: cannot be opened as the storage of a search ({cause}); "
            f"give an Optuna URL such as postgresql://..., or {JOURNAL}FILE for a network folder"
        ) from error


def _without_password(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return url.partition(":")[0] + ":..."


class _SeededByTrial(optuna.samplers.BaseSampler):
    """TPE (Bergstra et al., NeurIPS 2011) drawing anew from seed and number for each trial.

    So a study that goes on draws what it would have drawn, and two processes never draw the same.
    """

    def __init__(self, seed: int, startup: int) -> None:
        self._seed, self._startup = seed, startup
        self._drawing = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        drawn = hashlib.sha256(f"{self._seed}:{study.study_name}:{trial.number}".encode()).digest()
        own = int.from_bytes(drawn[:4], "big")
        self._drawing = optuna.samplers.TPESampler(seed=own, n_startup_trials=self._startup)
        self._drawing.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._drawing.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._drawing.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:  # noqa: ANN401
        return self._drawing.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._drawing.after_trial(study, trial, state, values)


class StageStudy:
    """One stage's trials in a storage, run by as many processes as like to."""

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        *,
        seed: int,
        startup: int,
        pruner: optuna.pruners.BasePruner,
        slots_only: bool = False,
    ) -> None:
        self._storage, self._slots_only = storage, slots_only
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize",
            sampler=_SeededByTrial(seed, startup),
            pruner=pruner,
            load_if_exists=True,
        )

    def counted(self) -> list[FrozenTrial]:
        """The trials that count, by number: running, complete, pruned, or failed for a reason of their own."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if _counts(trial)]

    def put_in_queue(self, slot: str, parameters: Mapping[str, Any], marks: Mapping[str, Any]) -> None:
        """Have these parameters tried next unless that was done; what is missing is drawn.

        `slot` names what is tried: of two trials with one slot only the first counts, so that two machines may
        ask for the same. `marks` become user attributes.
        """
        if slot not in {trial.user_attrs.get(SLOT) for trial in self._known()}:
            self.study.enqueue_trial(dict(parameters), user_attrs={**marks, SLOT: slot})

    def run(
        self,
        quota: Callable[[], int],
        objective: Callable[[Trial], float],
        *,
        prepare: Callable[[], None] = lambda: None,
        waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Run trials until `quota()` of them count and none runs, here or elsewhere.

        `objective` returns the score; TrialPruned prunes, TrialFailed records a reason and the study goes on.
        Whatever else is raised puts the trial in the queue again and ends the call. `prepare` is called before
        each trial and may fill the queue, `waiting(n)` once while n trials of other processes are waited for.
        """
        told = False
        while True:
            self._take_back()
            prepare()
            trials = self.counted()
            if len(trials) < quota():
                self.study.optimize(
                    lambda trial: self._tried(trial, quota(), objective),
                    n_trials=1,
                    catch=(TrialFailed, _Surplus),
                )
                continue
            others = sum(trial.state == TrialState.RUNNING for trial in trials)
            if not others:
                return
            if not told:
                waiting(others)
                told = True
            time.sleep(_WAIT_SECONDS)

    def _known(self) -> list[FrozenTrial]:
        """The trials that count and those that wait to be run."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if _counts(trial) or trial.state == TrialState.WAITING]

    def _tried(self, trial: Trial, quota: int, objective: Callable[[Trial], float]) -> float:
        before = [other for other in self.counted() if other.number < trial.number]
        slot = trial.user_attrs.get(SLOT)
        taken = slot is not None and slot in {other.user_attrs.get(SLOT) for other in before}
        if len(before) >= quota or taken or (self._slots_only and slot is None):
            raise _Surplus
        try:
            with _signs_of_life(trial):
                return objective(trial)
        except TrialFailed as failure:
            trial.set_user_attr(_REASON, str(failure))
            raise
        except optuna.TrialPruned:
            raise
        except BaseException:
            record = next(one for one in self.study.get_trials() if one.number == trial.number)
            self._again(record, int(record.user_attrs.get("tries", 1)))
            raise

    def _take_back(self) -> None:
        """Fail what dead processes left running, and put it in the queue again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not _is_abandoned(trial):
                continue
            tries = int(trial.user_attrs.get("tries", 1))
            if tries >= _TRIES:
                self._mark(trial, f"its process died {tries} times, perhaps for want of memory")
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                continue  # another process was quicker
            if tries < _TRIES:
                self._again(trial, tries + 1)

    def _again(self, trial: FrozenTrial, tries: int) -> None:
        marks = {name: value for name, value in trial.user_attrs.items() if name not in ("process", "alive")}
        self.study.enqueue_trial(trial.params, user_attrs={**marks, "tries": tries})

    def _mark(self, trial: FrozenTrial, reason: str) -> None:
        study = self._storage.get_study_id_from_name(self.study.study_name)
        number = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(number, _REASON, reason)


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial came to nothing; "" where it did not."""
    return str(trial.user_attrs.get(_REASON, ""))


def name_of(*parts: object) -> str:
    """A name for a study that only the same data, recipe and search share."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return f"scopewatch-{digest[:12]}"


@contextlib.contextmanager
def own_place(folder: Path, name: str) -> Iterator[Path]:
    """A folder below `folder` that no other process uses meanwhile: NAME-0, or the next that is free."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(1000):
        lock = FileLock(folder / f"{name}-{index}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            yield folder / f"{name}-{index}"
        finally:
            lock.release()
        return
    raise TuningError(f"{folder}: a thousand processes use it already")


def _counts(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return _REASON in trial.user_attrs
    return trial.state in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


def _machine() -> str:
    return f"{socket.gethostname()} {uuid.getnode():012x}"


def _started(pid: int) -> float | None:
    """When a process was started, in seconds; None where there is no such process (its number may be reused)."""
    try:
        process = psutil.Process(pid)
        # A killed process keeps its number until its parent has asked after it.
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _is_abandoned(trial: FrozenTrial) -> bool:
    """Whether nobody works on a running trial; this process itself is between two trials."""
    machine, pid, started = trial.user_attrs.get("process", ("", 0, 0.0))
    if machine == _machine():
        now = _started(pid)
        return pid == os.getpid() or now is None or abs(now - started) > 2
    began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return time.time() - float(trial.user_attrs.get("alive", began)) > SILENCE_SECONDS


@contextlib.contextmanager
def _signs_of_life(trial: Trial) -> Iterator[None]:
    trial.set_user_attr("process", [_machine(), os.getpid(), _started(os.getpid())])
    trial.set_user_attr("alive", time.time())
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_SIGN_OF_LIFE_SECONDS):
            # A storage that is away for a moment is no reason to give up the trial.
            with contextlib.suppress(Exception):
                trial.set_user_attr("alive", time.time())

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
