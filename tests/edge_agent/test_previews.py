"""The page's pictures: what is drawn, how it is kept, and that a file loses nothing when it is not."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from edge_agent import previews
from edge_agent.classifier import Classifier
from edge_agent.examine import Request, examine
from edge_agent.grey_scale import ContrastLimits, field_statistics, grey_field
from edge_agent.model_bundle import open_bundle
from edge_agent.output_places import OutputPlan
from edge_agent.preview_files import (
    KINDS,
    Previews,
    has_previews,
    is_left_over,
    keep_previews,
    kept_in,
    preview_path,
    read_preview,
)
from edge_agent.previews import draw_previews
from edge_agent.sidecar import Twin, read_record
from edge_agent.simulation import draw_field

if TYPE_CHECKING:
    from pathlib import Path

SHA = "ab" * 32
FINGERPRINT = "fp1:600000000:1700000000000000000:0123456789abcdef0123456789abcdef"
DRAWN = Previews(b"\xff\xd8\xff picture \xff\xd9", b"\xff\xd8\xff thumb \xff\xd9")


@pytest.fixture(scope="module")
def classifier(tiny):
    return Classifier(open_bundle(str(tiny)))


@pytest.fixture(scope="module")
def large_field():
    """2048 px of round particles, as counts from 0 to 250."""
    small = draw_field("round", np.random.default_rng(1), 512).pixels.astype(float)
    pixels = small.repeat(4, axis=0).repeat(4, axis=1)
    pixels += np.random.default_rng(2).normal(0, 0.05 * small.std(), pixels.shape)
    return np.clip(250 * (pixels - pixels.min()) / np.ptp(pixels), 0, 250)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("shape", "picture", "thumb"),
    [
        pytest.param((2048, 2048), (1024, 1024), (160, 160), id="halved"),
        pytest.param((1500, 3000), (1024, 512), (160, 80), id="no whole fraction"),
        pytest.param((300, 200), (200, 300), (107, 160), id="smaller than the picture"),
        pytest.param((40, 64), (64, 40), (64, 40), id="smaller than the thumbnail"),
        pytest.param((3, 4096), (1024, 1), (160, 1), id="a strip"),
        pytest.param((1, 1), (1, 1), (1, 1), id="one pixel"),
    ],
)
def test_both_show_the_whole_field_in_grey_and_are_never_enlarged(shape, picture, thumb):
    pixels = np.random.default_rng(1).integers(0, 4000, shape).astype(np.uint16)

    drawn = draw_previews(pixels, ContrastLimits(0.0, 4000.0))

    seen = opened(drawn.picture), opened(drawn.thumb)
    assert [(image.size, image.mode) for image in seen] == [(picture, "L"), (thumb, "L")]


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_what_is_seen_is_what_the_network_is_shown(kind, large_field):
    pixels = large_field.astype(kind)
    contrast = field_statistics(pixels, 0.0002).contrast

    seen = np.asarray(opened(draw_previews(pixels, contrast).picture), dtype=float)

    shown = grey_field(pixels, contrast, (1024, 1024)) * 255
    assert np.abs(seen - shown).mean() < 5, "JPEG changes single pixels a little"


def test_hot_pixels_and_what_is_no_number_leave_no_mark():
    pixels = np.full((2048, 2048), 100.0, dtype=np.float32)
    pixels[::2] = 110.0
    clean = draw_previews(pixels, ContrastLimits(0.0, 200.0))
    pixels[701, 1003], pixels[10:12, 10:12] = 1e6, np.nan
    contrast = ContrastLimits(0.0, 200.0, np.array([[701.0, 1003.0, 100.0]]), missing=105.0)

    assert np.array_equal(
        np.asarray(opened(draw_previews(pixels, contrast).picture)), np.asarray(opened(clean.picture))
    )


def test_a_constant_is_grey():
    drawn = draw_previews(np.full((64, 64), 7, dtype=np.int16), ContrastLimits(7.0, 7.0))

    assert set(np.asarray(opened(drawn.picture)).flat) == {128}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(SHA, id="hash"),
        pytest.param(FINGERPRINT, id="fingerprint, with colons"),
        pytest.param("../../etc/passwd", id="a path"),
        pytest.param("\x00", id="zero byte"),
        pytest.param("\udcff", id="no UTF-8"),
        pytest.param("", id="nothing"),
        pytest.param("AB" * 32, id="capitals, one name with small letters on Windows"),
    ],
)
def test_whatever_names_the_content_the_picture_lies_in_its_folder(tmp_path, content):
    path = preview_path(tmp_path, content, "picture")

    assert path.parent.parent == tmp_path
    assert path.name.removesuffix(".jpg").isalnum()
    assert keep_previews(tmp_path, content, DRAWN)
    assert [read_preview(tmp_path, content, kind) for kind in KINDS] == [DRAWN.picture, DRAWN.thumb]
    assert (path.name == f"{SHA}.jpg") == (content == SHA)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="removed"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty after a power cut"),
        pytest.param(lambda path: path.write_bytes(DRAWN.picture[:-1]), id="cut short"),
        pytest.param(lambda path: path.write_bytes(bytes(len(DRAWN.picture))), id="zeros"),
        pytest.param(lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), id="a planted link"),
        pytest.param(lambda path: (path.unlink(), os.mkfifo(path)), id="a planted FIFO"),
    ],
)
def test_what_is_not_whole_is_not_there(tmp_path, damage):
    keep_previews(tmp_path, SHA, DRAWN)

    damage(preview_path(tmp_path, SHA, "picture"))

    assert read_preview(tmp_path, SHA, "picture") is None
    assert read_preview(tmp_path, SHA, "thumb") == DRAWN.thumb


def test_one_that_is_looked_for_again_counts_as_new(tmp_path):
    assert not has_previews(tmp_path, SHA)
    keep_previews(tmp_path, SHA, DRAWN)
    for kind in KINDS:
        os.utime(preview_path(tmp_path, SHA, kind), (1, 1))

    assert has_previews(tmp_path, SHA)
    assert all(preview_path(tmp_path, SHA, kind).stat().st_mtime > 1 for kind in KINDS)


def test_a_listing_tells_kinds_and_what_was_never_finished(tmp_path):
    keep_previews(tmp_path, SHA, DRAWN)
    half = preview_path(tmp_path, SHA, "picture").with_suffix(".jpg.1234.tmp")
    half.write_bytes(b"half")
    os.utime(half, (1000, 1000))

    kept = [one for place in kept_in(tmp_path) for one in place]

    assert {(one.kind, one.size_bytes) for one in kept} == {
        ("picture", len(DRAWN.picture)),
        ("thumb", len(DRAWN.thumb)),
        (None, 4),
    }
    assert {one.kind for one in kept if is_left_over(one, now=1000 + 3601)} == {None}
    assert not [one for one in kept if is_left_over(one, now=1000 + 3599)]


# --- what becomes of it beside the work


def request(tmp_path: Path, **given) -> Request:
    return Request(OutputPlan(None, (tmp_path,)), previews=tmp_path / "state" / "pictures", **given)


@pytest.fixture
def micrograph(tmp_path, micrograph_bytes) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "field.dm3"
    path.write_bytes(micrograph_bytes)
    return path


def test_the_worker_keeps_both_under_the_content(tmp_path, micrograph, classifier):
    finding = examine(micrograph, classifier, request(tmp_path))

    kept = [read_preview(tmp_path / "state" / "pictures", finding.sha256, kind) for kind in KINDS]
    assert [opened(data).size for data in kept] == [(256, 256), (160, 160)]


def test_nobody_looks_nothing_is_kept(tmp_path, micrograph, classifier):
    examine(micrograph, classifier, Request(OutputPlan(None, (tmp_path,))))

    assert list((tmp_path / "state").iterdir()) == []


def test_what_is_no_image_has_no_picture(tmp_path, micrograph, classifier, spectrum_bytes):
    micrograph.write_bytes(spectrum_bytes)

    assert examine(micrograph, classifier, request(tmp_path)).outcome == "not_an_image"
    assert list((tmp_path / "state").iterdir()) == []


def test_a_renamed_file_keeps_its_picture_without_a_new_one(tmp_path, micrograph, classifier, monkeypatch):
    finding = examine(micrograph, classifier, request(tmp_path))
    moved = micrograph.rename(tmp_path / "moved.dm3")
    monkeypatch.setattr(previews, "draw_previews", lambda *_: pytest.fail("drawn again"))

    again = examine(moved, classifier, request(tmp_path, twins=(Twin(micrograph, finding.sha256),)))

    assert not again.inferred
    assert read_preview(tmp_path / "state" / "pictures", again.sha256, "picture")


def broken_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(previews, "keep_previews", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))


def no_folder(monkeypatch, tmp_path):
    (tmp_path / "state" / "pictures").write_text("a file where the folder should be")


def no_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(previews, "draw_previews", lambda *_: (_ for _ in ()).throw(MemoryError))


def fault_of_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(previews, "draw_previews", lambda *_: 1 / 0)


def no_state(monkeypatch, tmp_path):
    (tmp_path / "state").rmdir()


@pytest.mark.parametrize("trouble", [broken_disk, no_folder, no_memory, fault_of_ours, no_state])
def test_no_picture_is_no_trouble_of_the_file(tmp_path, micrograph, classifier, monkeypatch, trouble):
    trouble(monkeypatch, tmp_path)

    finding = examine(micrograph, classifier, request(tmp_path))

    assert finding.outcome == "classified"
    assert read_record(finding.sidecar) is not None and finding.heatmap.is_file()
    assert not list(tmp_path.rglob("*.jpg*"))


def test_the_picture_comes_after_the_sidecar(tmp_path, micrograph, classifier, monkeypatch):
    seen = []
    monkeypatch.setattr(
        previews, "draw_previews", lambda *_: seen.append(read_record(tmp_path / "field.dm3.json")) or DRAWN
    )

    examine(micrograph, classifier, request(tmp_path))

    assert [record.outcome for record in seen] == ["classified"]


def test_nothing_is_kept_below_the_floor(tmp_path):
    assert not keep_previews(tmp_path / "pictures", SHA, DRAWN, free_space_floor_mib=2**30)
    assert not list(tmp_path.rglob("*.jpg*"))


def test_real_micrographs(shared_data, classifier, tmp_path):
    """What a real file's picture is like: of its proportions, not flat, and like the network's input."""
    (tmp_path / "state").mkdir()
    drawn = 0
    for path in sorted((shared_data / "dm3").rglob("*.dm3"))[:12]:
        copy = tmp_path / path.name
        copy.write_bytes(path.read_bytes())
        finding = examine(copy, classifier, request(tmp_path))
        if finding.outcome != "classified":
            continue
        record = read_record(finding.sidecar)
        image = opened(read_preview(tmp_path / "state" / "pictures", finding.sha256, "picture"))
        rows, columns = record.micrograph.shape
        assert max(image.size) == min(1024, max(rows, columns))
        assert image.size[0] / image.size[1] == pytest.approx(columns / rows, rel=0.01)
        assert (np.asarray(image).std() > 5) != record.micrograph.field.blank
        drawn += 1
    assert drawn >= 4
