"""What a run says about its machine, its command and its source."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from trainer.fitting import provenance
from trainer.fitting.provenance import Gpu, Machine, Session

if TYPE_CHECKING:
    from pathlib import Path


def test_a_session_says_where_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/edge-trainer", "train", "data set"])
    here = provenance.session({"python": "3.11"})
    assert here.command == ("edge-trainer", "train", "data set")
    assert (here.versions, here.finished, here.seconds) == ({"python": "3.11"}, False, 0.0)
    assert here.machine.cores >= 1
    assert here.machine.memory_bytes > 10**8
    assert here.machine.processor
    assert Session.model_validate_json(here.model_dump_json()) == here


@pytest.mark.parametrize(
    ("gpus", "named"),
    [
        pytest.param((), "no GPU", id="none"),
        pytest.param(
            (Gpu(name="NVIDIA A", memory_bytes=80 * 10**9),) * 2,
            "NVIDIA A (80 GB), NVIDIA A (80 GB)",
            id="two",
        ),
        pytest.param((Gpu(name="B"),), "memory, B, Linux", id="of unknown memory"),
    ],
)
def test_a_machine_is_a_line_of_text(gpus: tuple[Gpu, ...], named: str) -> None:
    machine = Machine(processor="Xeon", cores=2, memory_bytes=25 * 10**9, gpus=gpus, system="Linux")
    assert str(machine).startswith("Xeon, 2 cores, 25 GB memory, ")
    assert named in str(machine)


@pytest.mark.parametrize(
    ("said", "cards"),
    [
        pytest.param(None, (), id="no such tool"),
        pytest.param("", (), id="no card"),
        pytest.param(
            "NVIDIA H200, 143771\nNVIDIA, odd, [N/A]",
            (Gpu(name="NVIDIA H200", memory_bytes=143771 * 2**20), Gpu(name="NVIDIA, odd")),
            id="cards",
        ),
    ],
)
def test_cards_are_those_that_their_maker_lists(
    monkeypatch: pytest.MonkeyPatch, said: str | None, cards: tuple[Gpu, ...]
) -> None:
    monkeypatch.setattr(provenance, "_said", lambda *_: said)
    assert provenance._gpus() == cards


def test_the_commit_is_that_of_this_source_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *name, *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    file = tmp_path / "provenance.py"
    file.write_text("first")
    git("init", "-q")
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert provenance.commit() is None
    git("add", "provenance.py")
    git("commit", "-qm", "first")
    assert provenance.commit() == git("rev-parse", "HEAD")
    file.write_text("second")
    assert provenance.commit() == git("rev-parse", "HEAD") + "-dirty"
