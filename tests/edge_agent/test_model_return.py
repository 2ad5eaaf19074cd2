"""A model that fails in the field: the running agent goes back to the last good one, and says so.

Real workers, tiny bundles; the real `watch`, or its service alone, of which `Turns` runs one after the other.
"""

from __future__ import annotations

import hashlib
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from vouched_bundles import KEY, TRUSTED, put, signed_bundle

from edge_agent.config import AgentConfig
from edge_agent.keeping.model_intake import add, use
from edge_agent.keeping.model_store import ModelStore
from edge_agent.keeping.store_record import choice_of
from edge_agent.model_bundle import GOLDEN, MANIFEST, MODEL
from edge_agent.service import Service
from edge_agent.sidecar import read_record
from edge_agent.signatures import signed
from edge_agent.status import running_status
from edge_agent.supervisor import ModelRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.sidecar import Finding

REPOSITORY = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 30


class Turns:
    """One service after another, each with what the store chooses then."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.store = ModelStore(config.state)
        self.findings: queue.SimpleQueue[Finding] = queue.SimpleQueue()
        self.titles: list[str] = []
        self.refused: list[str] = []
        self.ready = threading.Event()
        self._ended = threading.Event()
        self._service: Service | None = None
        self.thread = threading.Thread(target=self._run)

    def take_turns(self) -> None:
        """End the present service, as a host does that sees another revision."""
        self.ready.clear()
        self._service.stop()

    def end(self) -> None:
        self._ended.set()
        if self._service is not None:
            self._service.stop()
        self.thread.join(WAIT_SECONDS)

    def _run(self) -> None:
        chosen = self.store.chosen(self.config.model)
        while not self._ended.is_set():
            self.titles.append(chosen.title)
            self._service = Service(
                self.config,
                model=chosen,
                on_finding=self.findings.put,
                on_ready=lambda model: self.ready.set(),
            )
            try:
                self._service.run()
            except ModelRefused as error:
                self.refused.append(str(error))
                other = self.store.failed(chosen, str(error))
                assert other is not None
                chosen = other
            else:
                chosen = self.store.chosen(self.config.model)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for version in ("1", "2"):
        signed_bundle(folder / f"tiny-{version}", version, seed=int(version))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    (tmp_path / "scope").mkdir()
    return AgentConfig(
        folders=(tmp_path / "scope",), state=tmp_path / "state", trusted_keys=TRUSTED, quiet_seconds=0.1,
        scan_seconds=0.5, free_space_floor_mib=0, low_priority=False, recycle_files=1,
    )  # fmt: skip


@pytest.fixture
def good(config: AgentConfig, made: Path) -> str:
    """tiny-1 is in use; the hash of its model."""
    store = ModelStore(config.state)
    entry = add(store, made / "tiny-1", TRUSTED).entry
    use(store, "tiny-1", TRUSTED)
    return entry.model_sha256


@contextmanager
def running(config: AgentConfig) -> Iterator[Turns]:
    turns = Turns(config)
    turns.thread.start()
    try:
        assert turns.ready.wait(WAIT_SECONDS), turns.refused
        yield turns
    finally:
        turns.end()


def answered_by(turns: Turns, name: str, micrograph: bytes) -> str:
    """Save a file and return the hash of the model that its sidecar names."""
    path = turns.config.folders[0] / name
    path.write_bytes(micrograph)
    finding = turns.findings.get(timeout=WAIT_SECONDS)
    assert (finding.path, finding.outcome) == (path, "classified")
    record = read_record(path.with_name(f"{name}.json"))
    assert record.model.sha256 == finding.model_sha256
    return record.model.sha256


def spoil(store: ModelStore, folder: str, name: str) -> None:
    file = store.folder / "bundles" / folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_model_whose_file_was_changed_after_it_was_put_to_use_gives_way(
    config: AgentConfig, good: str, made: Path, micrograph_bytes: bytes
):
    with running(config) as turns:
        assert answered_by(turns, "a.dm3", micrograph_bytes) == good
        add(turns.store, made / "tiny-2", TRUSTED)
        use(turns.store, "tiny-2", TRUSTED)
        spoil(turns.store, "tiny-2", MODEL)
        turns.take_turns()
        assert turns.ready.wait(WAIT_SECONDS)
        assert answered_by(turns, "b.dm3", micrograph_bytes) == good

    assert [title.split(" (")[0] for title in turns.titles[:3]] == ["tiny 1", "tiny 2", "tiny 1"]
    (reason,) = turns.refused
    assert str(turns.store.folder / "bundles" / "tiny-2" / MODEL) in reason
    assert turns.store.record().entry("tiny-2").refused.reason == reason
    assert turns.store.chosen(None).note == f"tiny-2 was refused ({reason})"


@contextmanager
def watching(config: AgentConfig) -> Iterator[subprocess.Popen[str]]:
    """`edge-agent watch` as its own process, until all is said."""
    file = config.state.with_name("agent.toml")
    file.write_text(
        f'state = "{config.state}"\nfolders = ["{config.folders[0]}"]\ntrusted_keys = ["{TRUSTED[0]}"]\n'
        "quiet_seconds = 0.1\nscan_seconds = 0.5\nfree_space_floor_mib = 0\nlow_priority = false\n"
        "[page]\nenabled = false\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_agent.cli", "watch", "--config", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    killer = threading.Timer(2 * WAIT_SECONDS, process.kill)
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        process.terminate()
        process.communicate()
        killer.join()


def heard(process: subprocess.Popen[str], text: str) -> str:
    """Read on until a line holds `text`, and return it."""
    said = []
    while line := process.stdout.readline():
        said.append(line)
        if text in line:
            return line
    raise AssertionError(f"never said {text!r}: {said}")


def model_note(config: AgentConfig) -> str:
    """What the status says of the model, once the agent has published it: it does so every second or two."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        status = running_status(config.state)
        if status is not None and status.model_note is not None:
            return status.model_note
        time.sleep(0.1)
    raise AssertionError("the status never named a reason")


def saved(config: AgentConfig, name: str, micrograph: bytes) -> Path:
    (config.folders[0] / name).write_bytes(micrograph)
    return config.folders[0] / f"{name}.json"


def accept_as_another_pc_would(store: ModelStore, folder: Path) -> None:
    """Put a bundle to use here whose golden cases come out otherwise; the intake would not let it in."""
    elsewhere = signed_bundle(folder / "tiny-2", "2", seed=2)
    put(elsewhere, GOLDEN, (signed_bundle(folder / "other", "3", seed=3) / GOLDEN).read_bytes())
    manifest = signed((elsewhere / MANIFEST).read_bytes(), KEY)
    files = {file.name: file.read_bytes() for file in elsewhere.iterdir()} | {MANIFEST: manifest}
    changed = {"version": "2", "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    entry = store.record().accepted[0].model_copy(update=changed)
    store.accept(entry, files)
    store.change(lambda record: record.with_used(choice_of(entry), "tiny", "2"))


def test_the_real_agent_takes_up_another_model_and_returns_from_one_that_this_pc_computes_otherwise(
    config: AgentConfig, good: str, made: Path, tmp_path: Path, micrograph_bytes: bytes
):
    store = ModelStore(config.state)
    with watching(config) as process:
        heard(process, "model tiny 1 watches")
        first = saved(config, "a.dm3", micrograph_bytes)
        heard(process, "a.dm3")

        accept_as_another_pc_would(store, tmp_path / "elsewhere")
        line = heard(process, "answers instead")
        heard(process, "model tiny 1 watches")
        second = saved(config, "b.dm3", micrograph_bytes)
        heard(process, "b.dm3")
        note = model_note(config)

        third = signed_bundle(tmp_path / "tiny-3", "3", seed=3)
        new = add(store, third, TRUSTED).entry
        use(store, "tiny-3", TRUSTED)
        heard(process, "model tiny 3 watches")
        third = saved(config, "c.dm3", micrograph_bytes)
        heard(process, "c.dm3")

    reason = store.record().entry("tiny-2").refused.reason
    assert f"{store.folder}/bundles/tiny-2: the golden replay is off by" in reason
    assert reason.endswith("this PC does not compute what was exported")
    signer = "(signed by 56475aa75463474c)"
    assert f"ERROR tiny 2 {signer} is refused, tiny 1 {signer} answers instead: " in line
    assert reason in line
    assert reason in note
    assert [read_record(path).model.sha256 for path in (first, second, third)] == [
        good, good, new.model_sha256,
    ]  # fmt: skip


def test_a_model_that_is_changed_while_it_answers_gives_way_when_its_worker_is_gone(
    config: AgentConfig, good: str, made: Path, micrograph_bytes: bytes
):
    """The bytes in the old worker's memory are the verified ones; the next worker gets another model."""
    store = ModelStore(config.state)
    new = add(store, made / "tiny-2", TRUSTED).entry.model_sha256
    use(store, "tiny-2", TRUSTED)
    with running(config) as turns:
        assert answered_by(turns, "a.dm3", micrograph_bytes) == new
        spoil(store, "tiny-2", MODEL)
        # Due for relief after each file: the next worker is refused, and the old one goes on.
        assert answered_by(turns, "b.dm3", micrograph_bytes) == new
        kill_worker(turns)
        assert answered_by(turns, "c.dm3", micrograph_bytes) == good

    assert turns.refused[0].endswith("the file was changed or damaged: copy the bundle again")
    assert store.record().entry("tiny-2").refused is not None


def kill_worker(turns: Turns) -> None:
    status = running_status(turns.config.state)
    assert status is not None
    psutil.Process(status.worker.pid).kill()
