"""The quick tier of fuzzing: some thousands of mutated files, every bomb, and that the fuzzer itself can see."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import fuzz_bombs
import fuzz_dm
import numpy as np
import pytest
from dm_builder import dm_bytes, image_of, write_pieces
from fuzz_config import fuzz

from edge_agent.micrograph import read_micrograph

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"dm": 2500, "export": 1000}
# The figures of the full tier are measured on processes of their own; here a bound that decides a hang.
HANG_MS = 10_000.0


@pytest.fixture
def folder(tmp_path):
    """A folder in memory where there is one."""
    place = fuzz_dm.memory_folder()
    yield place
    for path in place.iterdir():
        path.unlink()
    place.rmdir()


def judged(kind: str, folder: Path, keep: Path) -> fuzz_dm.Judge:
    judge = fuzz_dm.Judge(folder, keep, kind)
    judge.most_cpu_ms = HANG_MS
    return judge


@pytest.mark.parametrize("kind", ["dm", "export"])
def test_mutated_files_end_in_the_family_or_in_a_safe_micrograph(kind, folder, tmp_path, capfd):
    files, judge = fuzz_dm.maker(kind), judged(kind, folder, tmp_path / "kept")
    for number in range(FILES[kind]):
        judge.judge(number, files.file(number))
    assert judge.tally.failures == []
    assert capfd.readouterr() == ("", "")
    assert {"accepted", "DamagedFile", "IncompleteFile", "NotAnImage"} == set(judge.tally.outcomes)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle that answers in milliseconds; making one loads onnx, which only two tests here need."""
    from bundles import tiny_bundle

    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny-1")


@pytest.mark.parametrize("kind", ["dm", "export"])
def test_what_is_accepted_goes_through_the_whole_chain(kind, folder, tmp_path, bundle):
    files, judge = fuzz_dm.maker(kind, seed=1), judged(kind, folder, tmp_path / "kept")
    number = 0
    while len(judge.accepted) < 10:
        judge.judge(number, files.file(number))
        number += 1
    judge.examine_accepted(bundle)
    assert judge.tally.failures == []
    assert sum(judge.tally.examined.values()) == 10


@pytest.mark.parametrize("name", sorted(fuzz_bombs.bombs()))
def test_a_bomb_is_refused_and_takes_little_memory(name, tmp_path):
    pieces, deserved = fuzz_bombs.bombs()[name]
    try:
        path = write_pieces(tmp_path / "bomb.dm3", pieces)
    except OSError as error:
        pytest.skip(f"no file of that size here: {error}")
    reading, peak_mib = fuzz_dm.read_traced(path)
    assert (reading.outcome, reading.complaint) == (deserved, None)
    assert peak_mib < 20


def test_a_file_is_the_same_for_ever():
    first, second = fuzz_dm.maker("dm"), fuzz_dm.maker("dm")
    assert [first.file(number) for number in range(50)] == [second.file(number) for number in range(50)]
    assert first.file(1) != fuzz_dm.maker("dm", seed=1).file(1)


def test_every_seed_is_sound():
    seeds = [*fuzz_dm.built_seeds(), *fuzz_dm.simulated_seeds()]
    assert len(seeds) > 50
    assert {seed.layout.version for seed in seeds} == {3, 4}
    assert all(len(seed.data) - seed.layout.end == 8 for seed in seeds)


GREY = dm_bytes(image_of(np.arange(12, dtype="int16").reshape(3, 4)))


@pytest.mark.parametrize(
    ("reader", "seen"),
    [
        pytest.param(lambda path: 1 / 0, "outside the family: ZeroDivisionError", id="another exception"),
        pytest.param(lambda path: _warning(path), "warning: odd", id="a warning"),
        pytest.param(lambda path: bytes(80 * 2**20) and read_micrograph(path), "takes 80 MiB", id="memory"),
        pytest.param(lambda path: sum(range(10**6)) and read_micrograph(path), "takes ", id="time"),
        pytest.param(lambda path: _unlike(read_micrograph(path)), "then ", id="another answer"),
        pytest.param(lambda path: replace(read_micrograph(path), dataset_index=9), "data set 9", id="nonsense"),
    ],
)  # fmt: skip
def test_the_judge_sees_what_it_looks_for(reader, seen, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_dm, "read_micrograph", reader)
    judge = fuzz_dm.Judge(folder, tmp_path / "kept", "dm")
    judge.most_cpu_ms = 1.0 if seen == "takes " else HANG_MS
    judge.judge(0, GREY)
    assert any(failure.startswith("0: ") and seen in failure for failure in judge.tally.failures)
    assert (tmp_path / "kept" / "0.dm3").read_bytes() == GREY


def _warning(path):
    warnings.warn("odd", stacklevel=1)
    return read_micrograph(path)


def _unlike(micrograph):
    return replace(micrograph, acquired_text=str(np.random.default_rng().integers(2**62)))


def test_a_run_goes_on_where_its_record_ends(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz_dm, "BLOCK_FILES", 10)
    command = [
        "fuzz_dm",
        "run",
        "--files",
        "20",
        "--record",
        str(tmp_path / "r"),
        "--keep",
        str(tmp_path / "k"),
    ]
    for minutes in ("0", "5", "5"):
        monkeypatch.setattr(sys, "argv", [*command, "--minutes", minutes, "--jobs", "1"])
        with contextlib.suppress(SystemExit):
            assert fuzz_dm.main() == 0
    said = capsys.readouterr().out
    assert said.count("0 of 20 files (dm)") == 3
    assert said.count("10 of 20 files, 0 failures") == 1
    assert (tmp_path / "r").read_text().count("\n") == 2


@pytest.mark.parametrize("kind", ["config", "sidecar", "line"])
def test_what_is_read_beside_micrographs_never_surprises(kind, tmp_path):
    outcomes, complaints = fuzz(kind, 1000, 0, tmp_path)
    assert complaints == []
    assert len(outcomes) > 1
