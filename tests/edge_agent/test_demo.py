"""The demo is the real agent on simulated files, and its verdict is what stands on the disk."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from edge_agent import demo as demo_module
from edge_agent.config import PageConfig
from edge_agent.demo import NOVEL_TO_IT, DemoPlan, run_demo
from edge_agent.sidecar import Finding
from edge_agent.simulation import SavedFile
from edge_agent.supervisor import ModelRefused

PATH = Path("/d/a.dm3")


@pytest.fixture
def plan(tmp_path, tiny):
    return DemoPlan(files=6, rate_hz=20, size_px=128, folder=tmp_path / "kept", model=str(tiny))


def test_every_file_gets_its_outputs_and_its_line(plan, capsys):
    assert run_demo(plan)

    saved = sorted(plan.folder.glob("*.dm3"))
    lines = capsys.readouterr().out.splitlines()
    assert len(saved) == 6
    assert all(path.with_name(path.name + ".json").is_file() for path in saved)
    assert lines[0] == f"The pictures are simulated. Model tiny 1 watches {plan.folder}"
    told = [line for line in lines if " -> " in line]
    assert sorted(line.split(" drawn ")[0].strip() for line in told) == [path.name for path in saved]
    assert lines[-1] == f"heatmaps: {plan.folder}/*.dm3.heatmap.png"
    classified = sum(" -> not an image" not in line for line in told)
    assert f"6 simulated files: 6 sidecars, {classified} classified, {classified} heatmaps" in lines
    assert any("clear fields of particles" in line for line in lines)


def test_a_demo_that_abstains_throughout_passes_and_says_what_was_leant_to(plan, capsys, tiny, tmp_path):
    """The exit code tells of sidecars and heatmaps; whether a model dares to answer is no fault of the agent."""
    demanding = shutil.copytree(tiny, tmp_path / "demanding-1")
    manifest = json.loads((demanding / "manifest.json").read_text()) | {"thresholds": {"confidence": 1.0}}
    (demanding / "manifest.json").write_text(json.dumps(manifest))

    assert run_demo(DemoPlan(files=6, rate_hz=20, size_px=128, folder=plan.folder, model=str(demanding)))

    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if " -> " in line and "not an image" not in line]
    assert all(" -> no answer: " in line and "low confidence" in line for line in told)
    summary = next(line for line in lines if "clear fields of particles: 0 " in line)
    assert "without an answer (" in summary
    assert any(
        line.startswith("label agrees with what was drawn in 0 of 0 answers; without") for line in lines
    )


@pytest.mark.parametrize("page", [True, False])
def test_the_page_is_offered_while_it_runs(plan, capsys, monkeypatch, page):
    monkeypatch.setattr(demo_module, "PageConfig", lambda enabled: PageConfig(enabled=enabled, port=0))

    assert run_demo(replace(plan, files=1, page=page))

    lines = capsys.readouterr().out.splitlines()
    offer = re.compile(r"The page until it ends: http://127\.0\.0\.1:\d+/#token=[0-9a-f]{64}")
    assert [offer.fullmatch(line) is not None for line in lines[1:2]] == [page]


@pytest.mark.parametrize("ending", ["enter", "interrupted"])
def test_a_page_that_was_opened_stays_until_somebody_has_looked(plan, capsys, monkeypatch, ending):
    monkeypatch.setattr(demo_module, "PageConfig", lambda enabled: PageConfig(enabled=enabled, port=0))
    monkeypatch.setattr(demo_module, "open_page", lambda word, state: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    answered = []

    def wait(is_over):
        answered.append(is_over())
        with socket.create_connection(("127.0.0.1", address.port), timeout=20):
            answered.append("the page is there")
        if ending == "interrupted":
            signal.raise_signal(signal.SIGINT)
            while not is_over():
                threading.Event().wait(0.02)

    def remember(text, *stream):
        nonlocal address
        found = re.search(r"http://127\.0\.0\.1:\d+/, opened in the browser", text)
        address = urlsplit(found[0].partition(",")[0]) if found else address
        real(text, *stream)

    address, real = None, demo_module.say
    monkeypatch.setattr(demo_module, "say", remember)
    monkeypatch.setattr(demo_module, "wait_for_enter", wait)

    assert run_demo(replace(plan, files=2))
    lines = capsys.readouterr().out.splitlines()
    assert answered == [False, "the page is there"]
    assert lines[-1] == "The page stays until Enter or Ctrl-C."
    assert lines[-2].startswith("heatmaps: ")


def saved(drawn: str, clear: bool = True) -> SavedFile:
    return SavedFile(PATH, drawn, clear)


def found(label: str, decision: str, *reasons: str) -> Finding:
    return Finding(PATH, "classified", label=label, probability=0.5, decision=decision, reasons=reasons)


@pytest.mark.parametrize(
    ("pairs", "lines"),
    [
        pytest.param([], [], id="nothing classified"),
        pytest.param([(saved("empty", clear=False), found("rod", "accept"))], [], id="no clear field"),
        pytest.param(
            [(saved("rod"), found("rod", "ungated")), (saved("rod"), found("round", "ungated"))],
            [
                "2 clear fields of particles: 1 answered and right, 1 answered and wrong, 0 without an answer",
                "label agrees with what was drawn in 1 of 2 answers",
            ],
            id="without thresholds",
        ),
        pytest.param(
            [
                (saved("rod"), found("rod", "accept")),
                (saved("rod"), found("round", "accept")),
                (saved("rod"), found("rod", "abstain", "low_confidence")),
                (saved("round"), found("faceted", "abstain", "low_confidence")),
            ],
            [
                "4 clear fields of particles: 1 accepted and right, 1 accepted and wrong, "
                "2 without an answer (2 low confidence)",
                "label agrees with what was drawn in 1 of 2 answers; without an answer, 1 of 2 lean to it",
            ],
            id="with thresholds",
        ),
        pytest.param(
            [
                (saved("rod"), found("rod", "accept")),
                (saved("rod"), found("rod", "abstain", "novel", "low_confidence")),
            ],
            [
                "2 clear fields of particles: 1 accepted and right, 0 accepted and wrong, "
                "1 without an answer (1 novel, 1 low confidence)",
                "label agrees with what was drawn in 1 of 1 answers; without an answer, 1 of 1 lean to it",
                NOVEL_TO_IT,
            ],
            id="a clear field that is novel to the model is explained",
        ),
    ],
)
def test_what_is_said_of_clear_fields(pairs, lines):
    assert demo_module._clear_lines(pairs) == lines


def test_all_other_fields_are_told_by_kind():
    lines = demo_module._other_lines(
        [
            (saved("rod"), found("rod", "abstain", "novel")),
            (saved("round", clear=False), found("round", "accept")),
            (saved("empty", clear=False), found("faceted", "abstain", "novel", "low_confidence")),
            (saved("empty", clear=False), found("faceted", "abstain", "novel")),
            (saved("empty", clear=False), found("faceted", "accept")),
            (saved("blank", clear=False), found("faceted", "abstain", "blank")),
        ]
    )

    assert lines == [
        "other fields, blank: 1 of 1 without an answer (1 blank)",
        "other fields, crowded or noisy round: 0 of 1 without an answer",
        "other fields, empty: 2 of 3 without an answer (2 novel, 1 low confidence)",
    ]


def test_files_that_were_there_before_are_not_counted(plan, capsys, micrograph_bytes):
    plan.folder.mkdir()
    (plan.folder / "older.dm3").write_bytes(micrograph_bytes)

    assert run_demo(plan)

    assert "6 simulated files: 6 sidecars" in capsys.readouterr().out


def test_a_file_without_sidecar_fails_the_demo_and_is_named(plan, capsys, monkeypatch):
    monkeypatch.setattr(demo_module, "PATIENCE_SECONDS", 1.0)
    plan.folder.mkdir()
    (plan.folder / "session_0001.dm3.json").mkdir()

    assert not run_demo(
        DemoPlan(files=1, rate_hz=20, size_px=128, seed=3, folder=plan.folder, model=plan.model)
    )

    assert f"no sidecar: {plan.folder}/session_0001" in capsys.readouterr().out


def test_a_model_that_cannot_be_used_ends_it_at_once(plan, tmp_path):
    with pytest.raises(ModelRefused, match="neither a folder nor a shipped model"):
        run_demo(DemoPlan(folder=plan.folder, size_px=128, model=str(tmp_path / "none")))


def test_what_cannot_be_removed_is_not_told_instead_of_what_went_wrong(plan, tmp_path, monkeypatch):
    remove, refused = os.rmdir, []

    def busy(path, **options):
        if "scopewatch-state-" in str(path):
            refused.append(path)
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        remove(path, **options)

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(ModelRefused):
        run_demo(DemoPlan(folder=plan.folder, size_px=128, model=str(tmp_path / "none")))

    assert refused


def test_a_microscope_that_fails_is_not_waited_for(plan, monkeypatch):
    def broken(*args, **options):
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_module, "run_microscope", broken)

    with pytest.raises(OSError, match="No space left on device"):
        run_demo(plan)
