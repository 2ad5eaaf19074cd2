"""The journal remembers what is done, and losing it loses nothing but time."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.files import FileStamp
from edge_agent.journal import Journal, Seen
from edge_agent.sidecar import Finding

STAMP = FileStamp(10, 20, 1, 2)


def done(path: str, outcome: str = "classified", stamp: FileStamp = STAMP) -> Finding:
    return Finding(Path(path), outcome, "why", "rod", 0.9, stamp=stamp, model_sha256="ab")  # type: ignore[arg-type]


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path / "state") as opened:
        yield opened


def test_what_was_recorded_is_found_by_path_and_by_folder(journal):
    journal.record(done("/d/a.dm3"))
    journal.record(done("/d/b.dm3", stamp=replace(STAMP, size_bytes=11)))
    journal.record(done("/d/sub/a.dm3"))

    assert journal.of(Path("/d/a.dm3")) == Seen(10, 20)
    assert journal.of(Path("/d/c.dm3")) is None
    assert journal.in_folder(Path("/d")) == {"a.dm3": Seen(10, 20), "b.dm3": Seen(11, 20)}
    assert journal.in_folder(Path("/")) == {}
    assert journal.finding(Path("/d/a.dm3")) == done("/d/a.dm3")
    assert journal.finding(Path("/d/x.dm3")) is None


def test_a_later_finding_takes_the_place_of_the_earlier_one(journal):
    journal.record(done("/d/a.dm3"))
    journal.record(done("/d/a.dm3", "unreadable", replace(STAMP, modified_ns=21)))

    assert journal.in_folder(Path("/d")) == {"a.dm3": Seen(10, 21)}
    assert journal.counts() == {"unreadable": 1}


def test_counts_are_by_outcome_and_survive_a_restart(tmp_path):
    with Journal(tmp_path) as journal:
        for number in range(3):
            journal.record(done(f"/d/{number}.dm3"))
        journal.record(done("/d/s.dm3", "not_an_image"))
        assert journal.counts() == {"classified": 3, "not_an_image": 1}

    with Journal(tmp_path) as journal:
        assert journal.counts() == {"classified": 3, "not_an_image": 1}
        assert not journal.rebuilt


@pytest.mark.parametrize("name", ["caf\udce9.dm3", "two\nlines.dm3", "quote'.dm3", "粒子.dm3"])
def test_any_name_can_be_remembered(journal, name):
    journal.record(done(f"/d\udcff/{name}"))

    assert journal.in_folder(Path("/d\udcff")) == {name: Seen(10, 20)}
    assert journal.of(Path(f"/d\udcff/{name}")) == Seen(10, 20)


@pytest.mark.parametrize("outcome", ["incomplete", "vanished", "failed", "crashed"])
def test_what_will_be_tried_again_is_not_recorded(journal, outcome):
    with pytest.raises(ValueError, match=f"/d/a.dm3: {outcome} is no outcome to be kept"):
        journal.record(done("/d/a.dm3", outcome))


def test_rows_that_repeat_a_sidecar_are_kept_after_a_flush(tmp_path):
    with Journal(tmp_path) as journal:
        journal.record(done("/d/a.dm3"), durable=False)
        assert journal.of(Path("/d/a.dm3")) == Seen(10, 20)
        journal.flush()
        assert rows(journal.path) == 1


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT COUNT(*) FROM files").fetchone()[0]
    finally:
        connection.close()


def filled(folder: Path) -> Path:
    with Journal(folder) as journal:
        for number in range(200):
            journal.record(done(f"/d/{number}.dm3"), durable=False)
        return journal.path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def overwrite_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xaa" * 8192
    path.write_bytes(content)


def newer(path: Path) -> None:
    change(path, "PRAGMA user_version = 99")


def other_columns(path: Path) -> None:
    change(path, "ALTER TABLE files RENAME COLUMN name TO nome")


def change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        pytest.param(
            lambda path: path.write_bytes(b"not a database" * 100), "file is not a database", id="garbage"
        ),
        pytest.param(truncate, "", id="cut off"),
        pytest.param(overwrite_middle, "", id="overwritten"),
        pytest.param(newer, "written by a later version: schema 99, this one reads 1", id="newer"),
        pytest.param(other_columns, "no such column: name", id="other columns"),
    ],
)
def test_a_journal_that_cannot_be_used_is_moved_aside_and_started_anew(tmp_path, caplog, damage, complaint):
    path = filled(tmp_path)
    damage(path)

    with caplog.at_level(logging.WARNING), Journal(tmp_path) as journal:
        assert journal.rebuilt
        assert journal.counts() == {}
        journal.record(done("/d/a.dm3"))

    assert complaint in caplog.text
    assert "moved to journal.sqlite.aside-" in caplog.text
    assert list(tmp_path.glob("journal.sqlite.aside-*"))


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "empty"])
def test_a_missing_or_empty_journal_is_simply_a_new_one(tmp_path, missing):
    path = filled(tmp_path)
    path.unlink()
    if not missing:
        path.touch()

    with Journal(tmp_path) as journal:
        assert journal.counts() == {}


def test_a_full_disk_is_a_warning_and_the_row_is_missing(tmp_path, caplog):
    with Journal(tmp_path) as journal:
        (pages,) = journal._connection.execute("PRAGMA page_count").fetchone()
        journal._connection.execute(f"PRAGMA max_page_count = {pages}")
        long = Finding(Path("/d/a.dm3"), "unreadable", "x" * 50_000, stamp=STAMP)

        journal.record(long)

        assert journal.of(long.path) is None
        assert journal.counts() == {}
    assert "the sidecars stand, it catches up at a later scan" in caplog.text


def test_closing_twice_does_no_harm(tmp_path):
    journal = Journal(tmp_path)
    journal.close()
    journal.close()
    with Journal(tmp_path) as again:
        assert again.counts() == {}
