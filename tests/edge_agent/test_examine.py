"""One file through the whole chain: what each kind of file becomes, what is written, and in which order."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from edge_agent import __version__
from edge_agent import examine as examine_module
from edge_agent import files as files_module
from edge_agent.classifier import Classifier
from edge_agent.dm_tags import read_tags
from edge_agent.examine import Request, examine
from edge_agent.files import FileLayer, SourceChanged, stamp_of
from edge_agent.instrument_profile import NO_PROFILE, InstrumentProfile
from edge_agent.limits import TrainingRanges
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import Thresholds, open_bundle
from edge_agent.output_places import OutputPlan
from edge_agent.sidecar import ProfileRecord, ReplacedPixelSize, Twin, finding_on_record, read_record

if TYPE_CHECKING:
    from pathlib import Path

LONG = "SCOPEWATCH_LONG" in os.environ
"""Every byte offset instead of every fortieth."""
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


@pytest.mark.parametrize(
    ("thresholds", "limit"),
    [
        pytest.param(None, None, id="no thresholds"),
        pytest.param(Thresholds(confidence=0.5), None, id="none of novelty"),
        pytest.param(Thresholds(confidence=0.5, novelty=1.5), 1.5, id="one of novelty"),
    ],
)
def test_the_figure_is_given_the_bundles_novelty_threshold(saved, tiny, monkeypatch, thresholds, limit):
    bundle = open_bundle(tiny)
    changed = bundle.manifest.model_copy(update={"thresholds": thresholds})
    given = []
    monkeypatch.setattr(
        examine_module, "draw_heatmap", lambda *_, novelty_limit, **__: given.append(novelty_limit) or b"png"
    )

    examine(saved, Classifier(replace(bundle, manifest=changed)), BESIDE)

    assert given == [limit]


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


class Recorder(FileLayer):
    """Notes what is done to which file, in order."""

    def __init__(self):
        super().__init__("0a1b2c3d")
        self.calls = []
        self.temporary = {}

    def create(self, path):
        descriptor = super().create(path)
        assert path.name.startswith(".scopewatch-0a1b2c3d-")
        self.temporary[descriptor] = path.name
        self.calls.append("create")
        return descriptor

    def fsync(self, descriptor):
        self.calls.append("fsync")
        super().fsync(descriptor)

    def replace(self, source, target):
        self.calls.append(f"replace {target.name}")
        super().replace(source, target)

    def unlink(self, path):
        super().unlink(path)
        self.calls.append(f"unlink {path.name}")

    def make_folder(self, folder):
        self.calls.append(f"make {folder.name}")
        super().make_folder(folder)

    def fsync_folder(self, folder):
        self.calls.append(f"fsync {folder.name}")
        super().fsync_folder(folder)


def written(name: str, folder: str) -> list[str]:
    return ["create", "fsync", f"replace {name}", f"fsync {folder}"]


def test_heatmap_then_sidecar_each_forced_to_the_disk_with_its_folder(saved, classifier):
    layer = Recorder()

    examine(saved, classifier, Request(OutputPlan(), layer=layer))

    folder = saved.parent.name
    assert layer.calls == written("a.dm3.heatmap.png", folder) + written("a.dm3.json", folder)


def test_an_earlier_heatmap_is_gone_for_good_before_the_sidecar_says_so(saved, classifier, spectrum_bytes):
    examine(saved, classifier, BESIDE)
    saved.write_bytes(spectrum_bytes)
    layer = Recorder()

    examine(saved, classifier, Request(OutputPlan(), layer=layer))

    folder = saved.parent.name
    assert layer.calls == ["unlink a.dm3.heatmap.png", f"fsync {folder}", *written("a.dm3.json", folder)]


def test_folders_of_a_mirrored_tree_are_forced_to_the_disk_as_well(tmp_path, classifier, micrograph_bytes):
    source = tmp_path / "scope" / "monday" / "a.dm3"
    source.parent.mkdir(parents=True)
    source.write_bytes(micrograph_bytes)
    layer = Recorder()
    plan = OutputPlan(tmp_path / "out", (tmp_path / "scope",))

    examine(source, classifier, Request(plan, layer=layer))

    assert layer.calls[:4] == ["make out", f"fsync {tmp_path.name}", "make monday", "fsync out"]
    assert layer.calls[4:] == written("a.dm3.heatmap.png", "monday") + written("a.dm3.json", "monday")


class PowerCut(BaseException):
    """Not even clearing up comes after it."""


class Dying(FileLayer):
    """The system up to one call, and nothing after it."""

    def __init__(self, calls_left):
        super().__init__()
        self.calls_left = calls_left

    def __getattribute__(self, name):
        if name in ("create", "write", "fsync", "close", "replace", "unlink", "make_folder", "fsync_folder"):
            if self.calls_left == 0:
                raise PowerCut
            self.calls_left -= 1
        return super().__getattribute__(name)


def restored(folder: Path, content: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        if path.suffix != ".dm3":
            path.unlink()
    for name, data in content.items():
        folder.joinpath(name).write_bytes(data)


@pytest.mark.parametrize(("case", "calls"), [("new content", 12), ("same file, new model", 14)])
def test_a_cut_before_any_call_leaves_what_belongs_together_or_is_done_again(
    saved, classifier, other_micrograph_bytes, monkeypatch, case, calls
):
    examine(saved, classifier, BESIDE)
    before = {name: saved.with_name(name).read_bytes() for name in outputs(saved.parent) if name != "a.dm3"}
    if case == "new content":
        saved.write_bytes(other_micrograph_bytes)
    else:
        monkeypatch.setattr(examine_module, "draw_heatmap", lambda *a, **k: b"another picture")
    for calls_left in range(calls):
        restored(saved.parent, before)
        with pytest.raises(PowerCut):
            examine(saved, classifier, Request(OutputPlan(), layer=Dying(calls_left)))
        found = finding_on_record(saved, stamp_of(saved), OutputPlan())
        if found is not None:
            assert_belong_together(found)

    restored(saved.parent, before)
    assert_belong_together(examine(saved, classifier, Request(OutputPlan(), layer=Dying(calls))))


def assert_belong_together(finding):
    record = read_record(finding.sidecar)
    assert sha256(finding.heatmap.read_bytes()).hexdigest() == record.cam.heatmap_sha256
    assert record.model.sha256 == finding.model_sha256


@pytest.mark.parametrize(
    "above_floor_bytes", [-1, 60_000, 100_000], ids=["below", "at the sidecar", "at the heatmap"]
)
def test_nothing_is_written_that_would_leave_less_than_the_floor(
    saved, classifier, monkeypatch, above_floor_bytes
):
    usage = shutil.disk_usage(saved.parent)._replace(free=1024 * 2**20 + above_floor_bytes)
    monkeypatch.setattr(files_module.shutil, "disk_usage", lambda _: usage)

    finding = examine(saved, classifier, Request(OutputPlan(), free_space_floor_mib=1024))

    assert finding.outcome == "failed"
    assert "1024 MiB are left to the instrument (free_space_floor_mib)" in finding.reason
    assert outputs(saved.parent) == ["a.dm3"]


def test_above_the_floor_both_are_written(saved, classifier, monkeypatch):
    usage = shutil.disk_usage(saved.parent)._replace(free=1034 * 2**20)
    monkeypatch.setattr(files_module.shutil, "disk_usage", lambda _: usage)

    assert (
        examine(saved, classifier, Request(OutputPlan(), free_space_floor_mib=1024)).outcome == "classified"
    )


class FullDisk(FileLayer):
    """A disk that takes so many bytes more, a few at a time."""

    def __init__(self, room_bytes):
        super().__init__()
        self.room_bytes = room_bytes

    def write(self, descriptor, data):
        taken = min(len(data), self.room_bytes, 700)
        if taken == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room_bytes -= taken
        return super().write(descriptor, data[:taken])


@pytest.mark.parametrize("earlier", [False, True], ids=["first outputs", "earlier outputs are there"])
def test_a_disk_that_fills_at_any_byte_leaves_no_half_file(
    saved, classifier, other_micrograph_bytes, monkeypatch, earlier
):
    picture = bytes(range(256)) * 4
    monkeypatch.setattr(examine_module, "draw_heatmap", lambda *a, **k: picture)
    prediction = classifier.classify(read_micrograph(saved))
    monkeypatch.setattr(classifier, "classify", lambda micrograph: prediction)
    before = {}
    if earlier:
        examine(saved, classifier, BESIDE)
        before = {
            name: (saved.parent / name).read_bytes() for name in outputs(saved.parent) if name != "a.dm3"
        }
        saved.write_bytes(other_micrograph_bytes)
        picture = picture[::-1]
    whole = len(picture) + 3000
    failed = 0
    for room_bytes in range(0, whole, 1 if LONG else 40):
        finding = examine(saved, classifier, Request(OutputPlan(), layer=FullDisk(room_bytes)))
        if finding.outcome == "classified":
            break
        failed += 1
        assert finding.outcome == "failed"
        assert finding.reason == f"outputs cannot be written to {saved.parent}: No space left on device"
        assert_nothing_half(saved, before, picture if room_bytes >= len(picture) else None)
    assert finding.outcome == "classified"
    assert_belong_together(finding)
    assert failed > len(picture) / (1 if LONG else 40)


def assert_nothing_half(saved, before, picture):
    found = {path.name: path.read_bytes() for path in saved.parent.iterdir() if path != saved}
    # The heatmap is whole or the earlier one; the sidecar is the earlier one, or not there.
    expected = before | ({"a.dm3.heatmap.png": picture} if picture else {})
    assert found == expected
    assert finding_on_record(saved, stamp_of(saved), OutputPlan()) is None


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
@pytest.mark.parametrize("content", ["micrograph", "spectrum"])
def test_links_planted_in_the_outputs_place_are_replaced_and_not_followed(
    saved, classifier, spectrum_bytes, content
):
    if content == "spectrum":
        saved.write_bytes(spectrum_bytes)
    target = saved.with_name("precious")
    target.write_bytes(b"somebody's")
    place = OutputPlan().place(saved)
    place.sidecar.symlink_to(target)
    place.heatmap.symlink_to(target)

    finding = examine(saved, classifier, BESIDE)

    assert target.read_bytes() == b"somebody's"
    assert not place.sidecar.is_symlink()
    assert not place.heatmap.is_symlink()
    assert place.heatmap.exists() == (finding.outcome == "classified")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_planted_where_the_temporary_file_goes_is_not_followed(saved, classifier, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    target = saved.with_name("precious")
    saved.with_name(".scopewatch-guessed.tmp").symlink_to(target)

    finding = examine(saved, classifier, BESIDE)

    assert (finding.outcome, finding.reason) == (
        "failed",
        f"outputs cannot be written to {saved.parent}: File exists",
    )
    assert not target.exists()


def never_inferred(classifier, monkeypatch):
    monkeypatch.setattr(classifier, "classify", lambda micrograph: pytest.fail("inferred"))


def moved(saved):
    new = saved.with_name("b.dm3")
    saved.rename(new)
    return new


def copied(saved):
    new = saved.with_name("b.dm3")
    shutil.copy2(saved, new)
    return new


def moved_with_its_outputs(saved):
    for suffix in (".json", ".heatmap.png"):
        saved.with_name(f"a.dm3{suffix}").rename(saved.with_name(f"b.dm3{suffix}"))
    return moved(saved)


@pytest.mark.parametrize("move", [moved, copied, moved_with_its_outputs])
def test_the_answer_follows_a_file_to_its_new_name_without_inference(saved, classifier, monkeypatch, move):
    first = examine(saved, classifier, BESIDE)
    picture = first.heatmap.read_bytes()
    earlier = read_record(first.sidecar)
    new = move(saved)
    never_inferred(classifier, monkeypatch)
    settled = datetime(2026, 5, 4, tzinfo=UTC)

    finding = examine(
        new, classifier, Request(OutputPlan(), settled=settled, twins=(Twin(saved, first.sha256),))
    )

    record = read_record(new.with_name("b.dm3.json"))
    assert (finding.path, finding.outcome, finding.label, finding.probability) == (
        new, "classified", first.label, first.probability,
    )  # fmt: skip
    assert finding.stamp == stamp_of(new)
    assert finding_on_record(new, stamp_of(new), OutputPlan()) == replace(finding, milliseconds=0.0)
    assert (record.source.path, record.source.sha256) == (str(new), first.sha256)
    assert (record.prediction, record.micrograph) == (earlier.prediction, earlier.micrograph)
    assert record.cam == earlier.cam.model_copy(update={"heatmap": "b.dm3.heatmap.png"})
    assert new.with_name("b.dm3.heatmap.png").read_bytes() == picture
    assert record.agent.settled == settled
    assert record.agent.finished > earlier.agent.finished
    assert record.agent.milliseconds.infer is None


MAGNIFICATION, FILE_NM = 200_000.0, 0.41947564482688904
"""What the simulated micrograph says."""
LISTED = InstrumentProfile("Titan, room 12", "FEI Titan", None, ((199_999.99, 0.21), (40_000.0, 9.0)))


def test_a_listed_pixel_size_replaces_the_files_and_the_record_says_so(saved, classifier, monkeypatch):
    shown = []
    monkeypatch.setattr(
        examine_module, "draw_heatmap", lambda micrograph, *a, **k: shown.append(micrograph) or b"png"
    )

    finding = examine(saved, classifier, replace(BESIDE, instrument=LISTED))

    record = read_record(finding.sidecar)
    assert record.micrograph.instrument.magnification == MAGNIFICATION
    assert record.micrograph.pixel_size_nm == (0.21, 0.21)
    assert record.micrograph.pixel_size_replaced == ReplacedPixelSize(
        magnification=MAGNIFICATION, file_pixel_size_nm=(FILE_NM, FILE_NM)
    )
    assert record.agent.instrument == ProfileRecord(
        name="Titan, room 12", microscope="FEI Titan", camera=None
    )
    assert finding.pixel_size_nm == 0.21
    assert [micrograph.pixel_size_nm for micrograph in shown] == [(0.21, 0.21)]


def test_a_listed_pixel_size_is_what_guards_judge(saved, tiny):
    ranges = TrainingRanges(pixel_size_nm=(0.2, 0.22))

    def decided(instrument):
        classifier = Classifier(open_bundle(tiny))
        manifest = classifier.bundle.manifest.model_copy(update={"training_ranges": ranges})
        classifier.bundle = replace(classifier.bundle, manifest=manifest)
        return examine(saved, classifier, replace(BESIDE, instrument=instrument)).reasons

    assert "pixel_size_out_of_range" in decided(NO_PROFILE)
    assert "pixel_size_out_of_range" not in decided(LISTED)


@pytest.mark.parametrize(
    "instrument",
    [
        pytest.param(NO_PROFILE, id="nothing is listed"),
        pytest.param(InstrumentProfile(pixel_size_nm=((40_000.0, 9.0),)), id="another magnification is"),
    ],
)
def test_a_pixel_size_that_is_not_listed_stays_the_files(saved, classifier, instrument):
    record = read_record(examine(saved, classifier, replace(BESIDE, instrument=instrument)).sidecar)

    assert record.micrograph.pixel_size_nm == (FILE_NM, FILE_NM)
    assert record.micrograph.pixel_size_replaced is None
    assert record.agent.instrument is None


@pytest.mark.parametrize(
    ("before", "now", "is_inferred"),
    [
        pytest.param(LISTED, LISTED, False, id="the same is listed"),
        pytest.param(LISTED, replace(LISTED, name="other"), False, id="another name is no other picture"),
        pytest.param(NO_PROFILE, LISTED, True, id="it is listed now"),
        pytest.param(LISTED, NO_PROFILE, True, id="it is listed no more"),
        pytest.param(
            LISTED, InstrumentProfile(pixel_size_nm=((2e5, 0.3),)), True, id="another size is listed"
        ),
    ],
)
def test_an_answer_at_another_pixel_size_is_not_taken_over(saved, classifier, before, now, is_inferred):
    first = examine(saved, classifier, replace(BESIDE, instrument=before))
    new = moved(saved)

    finding = examine(new, classifier, replace(BESIDE, instrument=now, twins=(Twin(saved, first.sha256),)))

    assert finding.inferred is is_inferred
    assert finding.pixel_size_nm == (now.pixel_size_at(MAGNIFICATION) or FILE_NM)


@pytest.mark.parametrize(("days_after", "is_inferred"), [(1, False), (-1, True)], ids=["past", "young"])
def test_a_moved_file_whose_heatmap_was_past_its_time_needs_none(saved, classifier, days_after, is_inferred):
    first = examine(saved, classifier, BESIDE)
    first.heatmap.unlink()
    since = read_record(first.sidecar).agent.finished + timedelta(days=days_after)
    new = moved(saved)

    finding = examine(
        new, classifier, replace(BESIDE, heatmaps_since=since, twins=(Twin(saved, first.sha256),))
    )

    assert (finding.inferred, finding.heatmap is None) == (is_inferred, not is_inferred)
    assert finding_on_record(new, stamp_of(new), OutputPlan()) == replace(finding, milliseconds=0.0)


def drop_heatmap(finding):
    finding.heatmap.unlink()


def spoil_heatmap(finding):
    finding.heatmap.write_bytes(b"another picture")


def drop_sidecar(finding):
    finding.sidecar.unlink()


def cut_sidecar(finding):
    os.truncate(finding.sidecar, 500)


def name_another_model(finding):
    text = finding.sidecar.read_text(encoding="utf-8")
    finding.sidecar.write_text(text.replace(finding.model_sha256, "0" * 64), encoding="utf-8")


def name_other_bytes(finding):
    text = finding.sidecar.read_text(encoding="utf-8")
    finding.sidecar.write_text(text.replace(finding.sha256, "0" * 64), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [drop_heatmap, spoil_heatmap, drop_sidecar, cut_sidecar, name_another_model, name_other_bytes]
)
def test_an_answer_that_is_not_whole_or_not_of_this_model_is_not_taken_over(saved, classifier, spoil):
    first = examine(saved, classifier, BESIDE)
    new = moved(saved)
    spoil(first)

    finding = examine(new, classifier, Request(OutputPlan(), twins=(Twin(saved, first.sha256),)))

    assert finding.outcome == "classified"
    assert read_record(finding.sidecar).agent.milliseconds.infer is not None
    assert_belong_together(finding)


def test_another_file_of_the_same_size_and_time_gets_its_own_answer(
    saved, classifier, other_micrograph_bytes
):
    first = examine(saved, classifier, BESIDE)
    saved.unlink()
    new = saved.with_name("b.dm3")
    new.write_bytes(other_micrograph_bytes)

    finding = examine(new, classifier, Request(OutputPlan(), twins=(Twin(saved, first.sha256),)))

    assert finding.sha256 == sha256(other_micrograph_bytes).hexdigest()
    assert read_record(finding.sidecar).agent.milliseconds.infer is not None


def test_a_twin_without_a_heatmap_answers_when_none_is_asked_for(saved, classifier, monkeypatch):
    bare = Request(OutputPlan(), heatmap=False)
    first = examine(saved, classifier, bare)
    new = moved(saved)
    twins = (Twin(saved, first.sha256),)
    with_picture = examine(new, classifier, Request(OutputPlan(), twins=twins))
    assert with_picture.heatmap is not None

    never_inferred(classifier, monkeypatch)
    finding = examine(new, classifier, replace(bare, twins=twins))

    assert (finding.outcome, finding.heatmap) == ("classified", None)
    assert outputs(new.parent) == ["a.dm3.json", "b.dm3", "b.dm3.json"]


def test_frames_of_a_series_are_not_read_twice(saved, classifier, micrograph_bytes, monkeypatch):
    first = examine(saved, classifier, BESIDE)
    new = saved.with_name("b.dm3")
    new.write_bytes(micrograph_bytes)
    monkeypatch.setattr(examine_module, "identify", lambda *a: pytest.fail("read for its hash alone"))

    finding = examine(new, classifier, Request(OutputPlan(), twins=(Twin(saved, first.sha256),)))

    assert read_record(finding.sidecar).agent.milliseconds.infer is None


POISON = Request(OutputPlan(), quarantine="the worker ended 3 times while it examined the file")


def test_a_quarantined_file_is_hashed_and_no_parser_sees_it(saved, classifier, micrograph_bytes, monkeypatch):
    monkeypatch.setattr(examine_module, "read_micrograph", lambda *a, **k: pytest.fail("parsed"))

    finding = examine(saved, classifier, POISON)

    record = read_record(finding.sidecar)
    assert (finding.outcome, record.outcome, record.reason) == (
        "quarantined",
        "quarantined",
        POISON.quarantine,
    )
    assert record.source.sha256 == sha256(micrograph_bytes).hexdigest()
    assert (record.micrograph, record.prediction, record.cam) == (None, None, None)
    assert record.model.sha256 == classifier.bundle.sha256
    assert outputs(saved.parent) == ["a.dm3", "a.dm3.json"]


def test_the_quarantine_follows_a_poisonous_file_to_its_new_name(saved, classifier, monkeypatch):
    first = examine(saved, classifier, POISON)
    new = moved(saved)
    monkeypatch.setattr(examine_module, "read_micrograph", lambda *a, **k: pytest.fail("parsed"))

    finding = examine(new, classifier, Request(OutputPlan(), twins=(Twin(saved, first.sha256),)))

    assert (finding.outcome, finding.reason) == ("quarantined", POISON.quarantine)
    assert finding_on_record(new, stamp_of(new), OutputPlan()) == replace(finding, milliseconds=0.0)


def test_a_huge_file_is_quarantined_without_a_hash(saved, classifier):
    os.truncate(saved, 2**20 + 1)

    finding = examine(saved, classifier, replace(POISON, snapshot_limit_mib=1))

    assert finding.outcome == "quarantined"
    assert finding.sha256 is None
    assert finding.fingerprint is not None


def test_a_file_that_is_gone_is_not_quarantined(tmp_path, classifier):
    assert examine(tmp_path / "a.dm3", classifier, POISON).outcome == "vanished"


def test_a_file_that_is_written_again_is_not_quarantined(saved, classifier, monkeypatch):
    def changed(path, limit_bytes):
        raise SourceChanged(errno.EAGAIN, "changed while it was read", str(path))

    monkeypatch.setattr(examine_module, "identify", changed)

    assert examine(saved, classifier, POISON).outcome == "incomplete"
    assert outputs(saved.parent) == ["a.dm3"]


def test_a_lack_of_memory_is_not_taken_for_an_answer(saved, classifier, monkeypatch):
    monkeypatch.setattr(examine_module, "read_micrograph", raising(MemoryError()))

    with pytest.raises(MemoryError):
        examine(saved, classifier, AT_ONCE)


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
def test_a_disk_that_takes_no_outputs_is_said_so_and_leaves_no_half_file(saved, classifier, error):
    class Refusing(FileLayer):
        def create(self, path):
            raise error

    finding = examine(saved, classifier, Request(OutputPlan(), layer=Refusing()))

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


def test_zeros_are_parts_not_yet_written_until_they_are_final(saved, classifier, micrograph_bytes):
    tags = read_tags(io.BytesIO(micrograph_bytes), len(micrograph_bytes))
    pixels = max(value for name, value in tags.items() if name.endswith("ImageData.Data.arrayOffset"))
    holed = micrograph_bytes[: pixels + 5000] + bytes(600) + micrograph_bytes[pixels + 5600 :]
    saved.write_bytes(holed)

    early = examine(saved, classifier, Request(OutputPlan(), gaps_are_final=False))
    assert (early.outcome, early.reason) == ("incomplete", "holds zeros that its writer may yet fill")
    assert outputs(saved.parent) == ["a.dm3"]

    late = examine(saved, classifier, Request(OutputPlan()))
    assert (late.outcome, late.sha256) == ("classified", sha256(holed).hexdigest())
