"""Several devices: the same numbers as on one, in single and half precision, interrupted or not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from toys import LONG_TIER, RECIPE

from trainer.fitting import devices
from trainer.fitting.checkpoint import Checkpoint
from trainer.fitting.devices import Devices, half_precision
from trainer.fitting.run_folder import RunError, read_history, read_record

if TYPE_CHECKING:
    from trainer.preparing.crops import DataSet

pytestmark = pytest.mark.timeout(300)

PROGRAM = Path(__file__).with_name("distributed.py")


def started(
    dataset: DataSet, run: Path, replicas: int, *more: str, **environment: str
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(dataset.root), str(run), str(replicas), *more],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
    )


def ended(process: subprocess.Popen[bytes]) -> None:
    try:
        _, said = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, said.decode()[-3000:]


def assert_alike(run: Path, other: Path) -> None:
    """Equal up to the rounding of sums in another order."""
    for line, expected in zip(read_history(run), read_history(other), strict=True):
        assert (line.stage, line.epoch, line.confusion) == (
            expected.stage,
            expected.epoch,
            expected.confusion,
        )
        assert line.loss == pytest.approx(expected.loss, abs=1e-5)
        assert line.validation_loss == pytest.approx(expected.validation_loss, abs=1e-5)


def test_two_devices_interrupted_and_resumed_compute_what_one_does(
    dataset: DataSet, shared_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "two"
    ended(started(dataset, run, 2, "--stop", "2"))
    assert [len(session.command) > 0 for session in read_record(run).sessions] == [True, True]
    assert_alike(run, shared_run)
    one, two = (Checkpoint.read(folder / "state") for folder in (shared_run, run))
    assert one is not None
    assert two is not None
    for expected, seen in zip(one.values, two.values, strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-4)


@pytest.mark.long
@LONG_TIER
def test_half_precision_on_two_devices_learns(dataset: DataSet, tmp_path: Path) -> None:
    recipe = {
        "mixed_precision": True,
        "head_width": 6,
        "dropout": 0.2,
        "optimizer": "rmsprop",
        "class_weights": True,
    }
    ended(started(dataset, tmp_path / "run", 2, "--recipe", json.dumps(recipe)))
    history = read_history(tmp_path / "run")
    assert len(history) == 3
    assert all(np.isfinite([line.loss, line.validation_loss]).all() for line in history)
    key = json.loads((tmp_path / "run" / "features" / "views.json").read_bytes())["key"]
    assert "half precision" in key


@pytest.mark.long
@LONG_TIER
def test_two_workers_compute_what_one_does(dataset: DataSet, shared_run: Path, tmp_path: Path) -> None:
    """Two processes that TF_CONFIG tells of one another; only the chief writes."""
    with socket.socket() as one, socket.socket() as two:
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{free.getsockname()[1]}" for free in (one, two)]
    processes = []
    for index in range(2):
        told = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(started(dataset, tmp_path / "run", 1, TF_CONFIG=json.dumps(told)))
    for process in processes:
        ended(process)
    assert_alike(tmp_path / "run", shared_run)


# --- who does what --------------------------------------------------------------------------------


def strategy(replicas: int) -> SimpleNamespace:
    return SimpleNamespace(num_replicas_in_sync=replicas)


def test_a_batch_is_dealt_to_the_workers_without_gap_or_overlap() -> None:
    shares = [Devices(strategy(4), worker, 2).share(16) for worker in range(2)]
    assert [list(range(16))[share] for share in shares] == [list(range(8)), list(range(8, 16))]
    with pytest.raises(RunError, match="a batch of 6 cannot be dealt evenly to 4 devices; give --batch 4"):
        Devices(strategy(4)).share(6)
    with pytest.raises(RunError, match="a batch of 3 cannot be dealt evenly to 4 devices; give --batch 4"):
        Devices(strategy(4)).share(3)


def test_on_one_device_nothing_is_dealt_or_agreed() -> None:
    alone = Devices(strategy(1))
    assert alone.is_chief
    assert alone.share(5) == slice(0, 5)
    batch = (np.arange(3), np.arange(3))
    assert alone.dealt(batch) == batch
    assert alone.of_chief([0.5, float("inf")]) == [0.5, float("inf")]


CLUSTER = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", (1, 0), id="none"),
        pytest.param(
            json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}), (3, 0), id="chief"
        ),
        pytest.param(
            json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}), (3, 2), id="worker"
        ),
    ],
)
def test_a_cluster_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[int, int]
) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    assert devices._cluster() == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{", id="no JSON"),
        pytest.param("[]", id="another kind"),
        pytest.param(json.dumps({"cluster": CLUSTER, "task": {"type": "ps", "index": 0}}), id="not a worker"),
        pytest.param(
            json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 9}}), id="not among them"
        ),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(RunError, match=r"TF_CONFIG is .*unset it to train on this machine alone"):
        devices._cluster()


@pytest.mark.parametrize(
    ("asked", "gpus", "half"), [(True, ["GPU:0"], True), (True, [], False), (False, ["GPU:0"], False)]
)
def test_half_precision_is_for_gpus(
    monkeypatch: pytest.MonkeyPatch, asked: bool, gpus: list[str], half: bool
) -> None:
    monkeypatch.setattr(devices, "accelerators", lambda: gpus)
    assert half_precision(RECIPE.model_copy(update={"mixed_precision": asked})) is half
