"""Which entries have a picture, and how much pictures may take on the disk."""

from __future__ import annotations

import os
import time

import pytest
from page_archive import Laboratory

from edge_agent.classifier import Classifier
from edge_agent.config import configure
from edge_agent.model_bundle import open_bundle
from edge_agent.page import picture_budget
from edge_agent.page.picture_budget import PictureBudget
from edge_agent.page.picture_process import NoPicture
from edge_agent.preview_files import (
    KINDS,
    PICTURES_FOLDER,
    Previews,
    keep_previews,
    preview_path,
    read_preview,
)
from edge_agent.service import Service

PICTURE_BYTES, THUMB_BYTES = 100_000, 4_000
MIB = 2**20


@pytest.fixture(scope="module")
def classifier(tiny):
    return Classifier(open_bundle(str(tiny)))


@pytest.fixture
def laboratory(tmp_path):
    made = Laboratory(tmp_path)
    yield made
    made.close()


# --- which entries have one


def row_of(laboratory, finding):
    return laboratory.home.history.row(laboratory.number_of(finding.path))


def test_what_the_worker_kept_is_there(laboratory, classifier, micrograph_bytes):
    row = row_of(laboratory, laboratory.save("a.dm3", micrograph_bytes, classifier))

    assert all(laboratory.home.pictures.kept(row, kind).startswith(b"\xff\xd8") for kind in KINDS)


def test_one_of_an_earlier_time_is_drawn(laboratory, classifier, micrograph_bytes):
    row = row_of(laboratory, laboratory.save("a.dm3", micrograph_bytes, classifier, previews=False))
    pictures = laboratory.home.pictures

    assert pictures.kept(row, "thumb") is None
    drawn = pictures.drawn(row).result(20)
    assert pictures.kept(row, "thumb") == drawn.thumb


def test_of_a_quarantined_file_nothing_is_drawn(laboratory, classifier, micrograph_bytes):
    finding = laboratory.save("a.dm3", micrograph_bytes, classifier)
    laboratory.journal.record(
        type(finding)(
            **{name: getattr(finding, name) for name in finding.__slots__}
            | {"outcome": "quarantined", "label": None, "probability": None}
        )
    )

    with pytest.raises(NoPicture, match="nothing opens it"):
        laboratory.home.pictures.kept(row_of(laboratory, finding), "picture")


def test_with_no_room_given_nothing_is_kept_and_all_is_shown(tmp_path, classifier, micrograph_bytes):
    laboratory = Laboratory(tmp_path, pictures_mib=0)
    row = row_of(laboratory, laboratory.save("a.dm3", micrograph_bytes, classifier, previews=False))
    pictures = laboratory.home.pictures

    assert pictures.drawn(row).result(20).thumb
    assert pictures.kept(row, "thumb") is None and not laboratory.cache.exists()
    laboratory.close()


@pytest.mark.parametrize(
    ("page", "kept"),
    [
        pytest.param({}, True, id="as it comes"),
        pytest.param({"enabled": False}, False, id="no page"),
        pytest.param({"pictures_mib": 0}, False, id="no room"),
    ],
)
def test_the_worker_keeps_pictures_where_there_is_a_page(tmp_path, page, kept):
    config = configure(None, folders=(tmp_path,), state=tmp_path / "state", page=page)

    settings = Service(config)._worker_settings()

    assert settings.previews == (tmp_path / "state" / PICTURES_FOLDER if kept else None)


# --- how much they take


def content(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}" + "0" * 56


def fill(folder, count: int, *, seconds_apart: int = 100) -> list[str]:
    """Keep so many, the first the oldest."""
    names = [content(number) for number in range(count)]
    drawn = Previews(
        b"\xff\xd8\xff" + bytes(PICTURE_BYTES - 5) + b"\xff\xd9",
        b"\xff\xd8\xff" + bytes(THUMB_BYTES - 5) + b"\xff\xd9",
    )
    now = time.time()
    for number, name in enumerate(names):
        assert keep_previews(folder, name, drawn)
        for kind in KINDS:
            moment = now - seconds_apart * (count - number)
            os.utime(preview_path(folder, name, kind), (moment, moment))
    return names


def kept(folder, names, kind) -> list[str]:
    return [name for name in names if read_preview(folder, name, kind) is not None]


def budget(folder, limit_mib, **given):
    return PictureBudget(folder, limit_mib, pause_seconds=0.0, **given)


def test_below_the_limit_nothing_goes(tmp_path):
    names = fill(tmp_path, 9)

    assert budget(tmp_path, 1).keep_within() == 0
    assert kept(tmp_path, names, "picture") == kept(tmp_path, names, "thumb") == names


def test_above_it_the_oldest_pictures_go_and_thumbnails_stay(tmp_path):
    names = fill(tmp_path, 20)

    removed = budget(tmp_path, 1).keep_within()

    left = kept(tmp_path, names, "picture")
    assert left == names[-len(left) :] and removed == 20 - len(left)
    assert kept(tmp_path, names, "thumb") == names
    assert 0.7 * MIB < len(left) * PICTURE_BYTES + 20 * THUMB_BYTES < MIB


def test_thumbnails_have_a_quarter_at_most(tmp_path):
    names = fill(tmp_path, 100)

    budget(tmp_path, 1).keep_within()

    thumbs = kept(tmp_path, names, "thumb")
    assert thumbs == names[-len(thumbs) :]
    assert 0.2 * MIB < len(thumbs) * THUMB_BYTES <= 0.25 * MIB
    assert kept(tmp_path, names, "picture") == names[-7:]


def test_what_was_looked_for_again_is_new(tmp_path):
    names = fill(tmp_path, 20)
    for kind in KINDS:
        os.utime(preview_path(tmp_path, names[0], kind))

    budget(tmp_path, 1).keep_within()

    assert names[0] in kept(tmp_path, names, "picture")


def test_what_a_kill_left_half_written_goes_after_an_hour(tmp_path):
    fill(tmp_path, 1)
    old, new = (preview_path(tmp_path, content(0), "picture").with_suffix(f".{n}.tmp") for n in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))

    budget(tmp_path, 1).keep_within()

    assert (old.exists(), new.exists()) == (False, True)


def test_no_folder_is_no_trouble(tmp_path):
    assert budget(tmp_path / "nowhere", 1).keep_within() == 0


def test_nothing_is_counted_at_a_start_nor_at_every_file(tmp_path, monkeypatch):
    now, counts = [0.0], []
    real = picture_budget.kept_in
    monkeypatch.setattr(picture_budget, "kept_in", lambda folder: counts.append(1) or real(folder))
    fill(tmp_path, 9)
    one = budget(tmp_path, 1, clock=lambda: now[0])

    one.note()
    assert counts == []
    now[0] = picture_budget.FIRST_COUNT_SECONDS
    one.note()
    wait_until(lambda: one._busy is False)
    assert len(counts) == 1
    one.note()
    assert len(counts) == 1, "there is room for another"
    names = fill(tmp_path, 11)
    one.note()
    wait_until(lambda: one._busy is False)
    assert len(counts) == 3, "counted, and the oldest looked for"
    assert kept(tmp_path, names, "picture") == names[-9:]
    one.close()


def wait_until(holds, seconds=20.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_it_stops_in_the_middle(tmp_path):
    names = fill(tmp_path, 20)
    one = budget(tmp_path, 1)
    one.close()

    assert one.keep_within() == 0
    assert kept(tmp_path, names, "picture") == names
