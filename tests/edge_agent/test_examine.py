"""One file through the whole chain: what each kind of file becomes, what is written, and in which order."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from edge_agent import __version__
from edge_agent import examine as examine_module
from edge_agent.classifier import Classifier
from edge_agent.examine import Request, examine
from edge_agent.files import stamp_of
from edge_agent.model_bundle import open_bundle
from edge_agent.sidecar import OutputPlan, read_record

if TYPE_CHECKING:
    from pathlib import Path

BESIDE = Request(OutputPlan())
AT_ONCE = Request(OutputPlan(), incomplete_is_final=True)


@pytest.fixture(scope="session")
def classifier(tiny):
    return Classifier(open_bundle(tiny))


@pytest.fixture
def saved(tmp_path, micrograph_bytes):
    path = tmp_path / "a.dm3"
    path.write_bytes(micrograph_bytes)
    return path


def outputs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_micrograph_is_classified_with_sidecar_and_heatmap(saved, classifier, micrograph_bytes):
    settled = datetime(2026, 5, 4, tzinfo=UTC)

    finding = examine(saved, classifier, Request(OutputPlan(), settled=settled))

    record = read_record(saved.with_name("a.dm3.json"))
    assert record is not None
    assert outputs(saved.parent) == ["a.dm3", "a.dm3.heatmap.png", "a.dm3.json"]
    assert (finding.outcome, finding.reason, finding.sidecar) == (
        "classified",
        None,
        saved.with_name("a.dm3.json"),
    )
    assert finding.label in ("faceted", "rod", "round")
    assert finding.stamp == stamp_of(saved)
    assert finding.milliseconds > 0
    assert record.source.sha256 == finding.sha256 == sha256(micrograph_bytes).hexdigest()
    assert record.source.fingerprint == finding.fingerprint
    assert record.micrograph.shape == (256, 256)
    assert record.micrograph.instrument.voltage_kv in (80.0, 120.0, 200.0, 300.0)
    assert record.prediction.label == finding.label
    assert record.prediction.probabilities[finding.label] == finding.probability
    assert sum(record.prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert record.cam.grid == (len(record.cam.values), len(record.cam.values[0]))
    assert record.cam.heatmap == "a.dm3.heatmap.png"
    assert record.cam.heatmap_sha256 == sha256(finding.heatmap.read_bytes()).hexdigest()
    assert record.model.name == "tiny"
    assert record.agent.version == __version__
    assert record.agent.settled == settled
    assert None not in record.agent.milliseconds.model_dump().values()


def test_a_spectrum_is_no_image_and_says_which(tmp_path, classifier, spectrum_bytes):
    path = tmp_path / "s.dm3"
    path.write_bytes(spectrum_bytes)

    finding = examine(path, classifier, BESIDE)

    record = read_record(tmp_path / "s.dm3.json")
    assert finding.outcome == record.outcome == "not_an_image"
    assert "spectrum" in record.reason
    assert str(path) not in record.reason
    assert (record.micrograph, record.prediction, record.cam) == (None, None, None)
    assert record.source.sha256 == sha256(spectrum_bytes).hexdigest()
    assert outputs(tmp_path) == ["s.dm3", "s.dm3.json"]


def test_text_called_dm3_is_unreadable(tmp_path, classifier):
    path = tmp_path / "t.dm3"
    path.write_text("These are my notes, not a micrograph. " * 20)

    finding = examine(path, classifier, BESIDE)

    record = read_record(tmp_path / "t.dm3.json")
    assert finding.outcome == record.outcome == "unreadable"
    assert "These are my" in record.reason


def test_a_file_that_is_being_written_gets_no_sidecar_while_it_is_worth_waiting(
    saved, classifier, micrograph_bytes
):
    saved.write_bytes(micrograph_bytes[: len(micrograph_bytes) // 2])

    finding = examine(saved, classifier, BESIDE)

    assert finding.outcome == "incomplete"
    assert finding.reason
    assert outputs(saved.parent) == ["a.dm3"]


def test_it_is_reported_as_unreadable_when_there_is_no_waiting(saved, classifier, micrograph_bytes):
    saved.write_bytes(micrograph_bytes[: len(micrograph_bytes) // 2])

    finding = examine(saved, classifier, AT_ONCE)

    assert finding.outcome == "unreadable"
    assert finding.reason.startswith("incomplete: ")
    assert read_record(finding.sidecar).reason == finding.reason


def raising(error):
    def read_micrograph(path, *, snapshot_limit_mib):
        raise error

    return read_micrograph


@pytest.mark.parametrize(
    ("error", "waiting", "at_once"),
    [
        pytest.param(
            PermissionError(errno.EACCES, "Permission denied"),
            ("failed", "cannot be opened: Permission denied"),
            ("unreadable", "cannot be opened: Permission denied"),
            id="access denied",
        ),
        pytest.param(
            OSError(errno.EIO, "Input/output error"),
            ("failed", "cannot be opened: Input/output error"),
            ("unreadable", "cannot be opened: Input/output error"),
            id="a share that failed",
        ),
    ],
)
def test_what_the_file_system_refuses_passes_or_is_reported(
    saved, classifier, monkeypatch, error, waiting, at_once
):
    monkeypatch.setattr(examine_module, "read_micrograph", raising(error))

    now = examine(saved, classifier, BESIDE)
    assert outputs(saved.parent) == ["a.dm3"]
    final = examine(saved, classifier, AT_ONCE)

    assert (now.outcome, now.reason) == waiting
    assert (final.outcome, final.reason) == at_once
    assert read_record(final.sidecar).source.sha256 is None


@pytest.mark.skipif(os.name == "nt", reason="FIFOs are POSIX")
def test_a_pipe_is_never_opened(tmp_path, classifier):
    path = tmp_path / "pipe.dm3"
    os.mkfifo(path)

    finding = examine(path, classifier, AT_ONCE)

    assert (finding.outcome, finding.reason) == (
        "unreadable",
        "is a FIFO, not a regular file, and was not opened",
    )


def test_a_file_that_is_gone_is_skipped(tmp_path, classifier):
    finding = examine(tmp_path / "a.dm3", classifier, AT_ONCE)

    assert (finding.outcome, finding.reason) == ("vanished", "deleted or renamed before it was read")
    assert outputs(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        pytest.param(lambda path: path.unlink(), "vanished", id="deleted"),
        pytest.param(lambda path: path.write_bytes(b"next"), "incomplete", id="overwritten"),
    ],
)
def test_nothing_is_written_about_a_file_that_changed_during_inference(
    saved, classifier, monkeypatch, change, outcome
):
    decide = examine_module.decide
    monkeypatch.setattr(examine_module, "decide", lambda *a: (change(saved), decide(*a))[1])

    finding = examine(saved, classifier, BESIDE)

    assert finding.outcome == outcome
    assert not saved.with_name("a.dm3.json").exists()
    assert not saved.with_name("a.dm3.heatmap.png").exists()


def test_the_heatmap_is_written_before_the_sidecar(saved, classifier, monkeypatch):
    order = []
    write_durably, write_record = examine_module.write_durably, examine_module.write_record
    monkeypatch.setattr(
        examine_module,
        "write_durably",
        lambda path, data: (order.append(path.name), write_durably(path, data)),
    )
    monkeypatch.setattr(
        examine_module,
        "write_record",
        lambda place, r: (order.append(place.sidecar.name), write_record(place, r)),
    )

    examine(saved, classifier, BESIDE)

    assert order == ["a.dm3.heatmap.png", "a.dm3.json"]


def test_an_overwritten_file_replaces_both_outputs(saved, classifier, other_micrograph_bytes):
    first = examine(saved, classifier, BESIDE)
    earlier = first.heatmap.read_bytes()
    saved.write_bytes(other_micrograph_bytes)

    second = examine(saved, classifier, BESIDE)

    assert second.sha256 == sha256(other_micrograph_bytes).hexdigest() != first.sha256
    assert read_record(second.sidecar).source.sha256 == second.sha256
    assert second.heatmap.read_bytes() != earlier


@pytest.mark.parametrize("reason", ["the new file is no image", "no heatmap was asked for"])
def test_the_heatmap_of_an_earlier_file_does_not_stay(saved, classifier, spectrum_bytes, reason):
    examine(saved, classifier, BESIDE)
    no_image = reason.startswith("the new")
    if no_image:
        saved.write_bytes(spectrum_bytes)

    finding = examine(saved, classifier, BESIDE if no_image else Request(OutputPlan(), heatmap=False))

    assert finding.heatmap is None
    assert outputs(saved.parent) == ["a.dm3", "a.dm3.json"]
    record = read_record(finding.sidecar)
    assert record.cam is None or (record.cam.heatmap, record.cam.heatmap_sha256) == (None, None)


def test_a_mirrored_tree_is_made_as_needed(tmp_path, classifier, micrograph_bytes):
    source = tmp_path / "scope" / "monday" / "a.dm3"
    source.parent.mkdir(parents=True)
    source.write_bytes(micrograph_bytes)

    finding = examine(source, classifier, Request(OutputPlan(tmp_path / "out", (tmp_path / "scope",))))

    assert finding.sidecar == tmp_path / "out" / "monday" / "a.dm3.json"
    assert outputs(tmp_path / "out" / "monday") == ["a.dm3.heatmap.png", "a.dm3.json"]
    assert outputs(source.parent) == ["a.dm3"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "Permission denied")]
)
def test_a_disk_that_takes_no_outputs_is_said_so_and_leaves_no_half_file(
    saved, classifier, monkeypatch, error
):
    def refuse(path, data):
        raise error

    monkeypatch.setattr(examine_module, "write_durably", refuse)

    finding = examine(saved, classifier, BESIDE)

    assert finding.outcome == "failed"
    assert finding.reason == f"outputs cannot be written to {saved.parent}: {error.strerror}"
    assert outputs(saved.parent) == ["a.dm3"]


@pytest.mark.skipif(os.name == "nt", reason="Windows counts UTF-16 units")
def test_a_name_without_room_for_the_outputs_is_refused_not_shortened(tmp_path, classifier, micrograph_bytes):
    path = tmp_path / ("x" * 246 + ".dm3")
    path.write_bytes(micrograph_bytes)

    finding = examine(path, classifier, BESIDE)

    assert finding.outcome == "refused"
    assert "no room for '.heatmap.png': 262 bytes where 255 are possible" in finding.reason
    assert finding.stamp == stamp_of(path)
    assert outputs(tmp_path) == [path.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", ["caf\udce9.dm3", "two\nlines \x1b[31m.dm3", "粒子 😀.dm3"])
def test_any_name_is_examined_and_its_sidecar_is_valid_json(tmp_path, classifier, micrograph_bytes, name):
    path = tmp_path / name
    path.write_bytes(micrograph_bytes)

    finding = examine(path, classifier, BESIDE)

    assert finding.outcome == "classified"
    written = json.loads((tmp_path / (name + ".json")).read_bytes().decode("utf-8"))
    assert written["outcome"] == "classified"


def test_a_fault_of_ours_is_not_hidden(saved, classifier, monkeypatch):
    monkeypatch.setattr(examine_module, "draw_heatmap", lambda *a, **k: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        examine(saved, classifier, BESIDE)
