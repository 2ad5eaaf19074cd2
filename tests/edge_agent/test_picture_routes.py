"""Pictures and details over HTTP: what is answered to whom, and that a disk that hangs keeps nobody else."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sqlite3
import threading
import time

import pytest
from page_archive import Laboratory, application, ask, one
from PIL import Image

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import open_bundle
from edge_agent.page import bounded_reads, picture_routes
from edge_agent.page.picture_routes import routes
from edge_agent.preview_files import preview_path, read_preview
from edge_agent.sidecar import read_record, write_record


@pytest.fixture(scope="module")
def classifier(tiny):
    return Classifier(open_bundle(str(tiny)))


@pytest.fixture
def laboratory(tmp_path):
    made = Laboratory(tmp_path)
    yield made
    made.close()


@pytest.fixture
def saved(laboratory, classifier, micrograph_bytes):
    """One micrograph: its finding and its entry's id."""
    finding = laboratory.save("a.dm3", micrograph_bytes, classifier)
    return finding, laboratory.number_of(finding.path)


def get(laboratory, path, **headers):
    (answer,) = ask(
        routes, laboratory.home, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    return answer


def error_of(answer) -> str:
    return json.loads(answer.body)["error"]


def empty(cache):
    for path in cache.rglob("*.jpg"):
        path.unlink()


@pytest.mark.parametrize(("kind", "px"), [("picture", 256), ("thumb", 160)])
@pytest.mark.parametrize("kept", [True, False], ids=["kept by the worker", "drawn on demand"])
def test_a_picture(laboratory, saved, kind, px, kept):
    finding, number = saved
    if not kept:
        empty(laboratory.cache)

    answer = get(laboratory, f"/api/entries/{number}/{kind}.jpg?v={finding.sha256[:16]}")

    assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "private, max-age=86400"
    assert Image.open(io.BytesIO(answer.body)).size == (px, px)
    assert read_preview(laboratory.cache, finding.sha256, kind) == answer.body, "kept for the next"


def test_a_browser_that_has_it_is_told_so(laboratory, saved):
    _, number = saved
    path = f"/api/entries/{number}/picture.jpg"
    tag = get(laboratory, path).headers["etag"]
    empty(laboratory.cache)

    again = get(laboratory, path, If_None_Match=f'"other", W/{tag}')

    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert list(laboratory.cache.rglob("*.jpg")) == [], "nothing was drawn for it"
    assert get(laboratory, f"/api/entries/{number}/thumb.jpg").headers["etag"] != tag


@pytest.mark.parametrize(
    ("query", "caching"),
    [
        pytest.param("", "private, no-cache", id="no version"),
        pytest.param("?v={content}", "private, max-age=86400", id="its version"),
        pytest.param("?v=", "private, no-cache", id="empty"),
    ],
)
def test_only_what_names_its_bytes_is_kept_by_the_browser(laboratory, saved, query, caching):
    finding, number = saved

    answer = get(laboratory, f"/api/entries/{number}/thumb.jpg" + query.format(content=finding.sha256[:16]))

    assert answer.headers["cache-control"] == caching


def test_a_version_of_other_bytes_is_not_answered_with_these(laboratory, saved):
    _, number = saved

    answer = get(laboratory, f"/api/entries/{number}/thumb.jpg?v=0123456789abcdef")

    assert (answer.status, error_of(answer)) == (404, "the file has changed since")


NO_IDS = (
    "0", "999", "-1", "1.0", "1e3", "9" * 18, "9" * 19, "9" * 5000, "١", "%31", "a", "1%00", "..", "%2e%2e%2f",
    " 1", "+1", "0x1", "1;drop table entries", "null",
)  # fmt: skip


@pytest.mark.parametrize("what", ["", "/picture.jpg", "/thumb.jpg"])
def test_there_is_nothing_but_ids(laboratory, saved, what):
    answers = ask(routes, laboratory.home, *(f"/api/entries/{number}{what}" for number in NO_IDS))

    told = {number: (one.status, error_of(one)) for number, one in zip(NO_IDS, answers, strict=True)}
    assert told == dict.fromkeys(NO_IDS, (404, "there is no such entry"))


def test_a_file_that_was_saved_again_is_not_shown_under_the_old_entry(
    laboratory, saved, other_micrograph_bytes
):
    finding, number = saved
    empty(laboratory.cache)
    finding.path.write_bytes(other_micrograph_bytes)

    answer = get(laboratory, f"/api/entries/{number}/picture.jpg")

    assert (answer.status, error_of(answer)) == (404, "the file has changed since it was classified")


def test_a_file_that_is_gone_is_shown_while_its_picture_is_kept(laboratory, saved):
    finding, number = saved
    finding.path.unlink()
    path = f"/api/entries/{number}/picture.jpg"

    assert get(laboratory, path).status == 200
    empty(laboratory.cache)
    assert error_of(get(laboratory, path)) == "the file is not there any more"


def test_what_is_no_micrograph_has_no_picture(laboratory, classifier, spectrum_bytes):
    finding = laboratory.save("s.dm3", spectrum_bytes, classifier)

    answer = get(laboratory, f"/api/entries/{laboratory.number_of(finding.path)}/picture.jpg")

    assert (answer.status, error_of(answer)) == (404, "the file is no micrograph")


def test_half_a_picture_is_never_served(laboratory, saved):
    finding, number = saved
    path = preview_path(laboratory.cache, finding.sha256, "picture")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])

    assert get(laboratory, f"/api/entries/{number}/picture.jpg").body == whole


def test_of_many_thumbnails_at_once_most_are_to_be_asked_for_again(
    laboratory, classifier, micrograph_bytes, other_micrograph_bytes
):
    """A browser's six connections must not all wait for pictures while somebody says what is wrong."""
    numbers = [
        laboratory.number_of(laboratory.save(f"{n}.dm3", data + bytes([n]), classifier, previews=False).path)
        for n, data in enumerate((micrograph_bytes, other_micrograph_bytes) * 4)
    ]
    thumbs = [f"/api/entries/{number}/thumb.jpg" for number in numbers]

    answers = ask(routes, laboratory.home, *thumbs, f"/api/entries/{numbers[0]}/picture.jpg")

    told = [answer.status for answer in answers]
    assert (told[:8].count(200), told[:8].count(202), told[8]) == (2, 6, 200)
    assert answers[3].status == 200 or answers[3].headers["retry-after"] == "2"
    wait_until(lambda: all(one.status == 200 for one in ask(routes, laboratory.home, *thumbs)))


def wait_until(holds, seconds=20.0):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)


def test_one_that_takes_long_is_to_be_asked_for_again(laboratory, saved, monkeypatch):
    _, number = saved
    empty(laboratory.cache)
    monkeypatch.setattr(picture_routes, "DRAWING_SECONDS", 0.0)

    answer = get(laboratory, f"/api/entries/{number}/picture.jpg")

    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert "ask again" in error_of(answer)


# --- the detail


def test_the_detail_is_what_the_sidecar_says(laboratory, saved):
    finding, number = saved
    record = read_record(finding.sidecar)

    answer = get(laboratory, f"/api/entries/{number}")

    told = json.loads(answer.body)
    assert answer.status == 200
    assert set(told) == {
        "row", "probabilities", "novelty", "novelty_threshold", "confidence_threshold", "cam", "shape",
        "pixel_size_nm", "acquired", "instrument", "tiles", "model", "labels",
    }  # fmt: skip
    assert told["row"] == laboratory.home.history.json_of(laboratory.home.history.row(number))
    assert [one["label"] for one in told["probabilities"]] == ["faceted", "rod", "round"]
    assert {
        one["label"]: one["probability"] for one in told["probabilities"]
    } == record.prediction.probabilities
    assert told["cam"]["grid"] == [len(told["cam"]["values"]), len(told["cam"]["values"][0])]
    assert (told["shape"], told["tiles"]) == ([256, 256], 1)
    assert told["model"] == {"name": "tiny", "version": "1"}
    assert told["labels"] == []


NOTHING = {
    "probabilities": [], "novelty": None, "novelty_threshold": None, "confidence_threshold": None, "cam": None,
    "shape": None, "pixel_size_nm": None, "acquired": None, "instrument": None, "tiles": 0, "model": None,
    "labels": [],
}  # fmt: skip


def removed(sidecar):
    sidecar.unlink()


def damaged(sidecar):
    sidecar.write_text("{}")


def planted(sidecar):
    sidecar.unlink()
    sidecar.symlink_to("/etc/hostname")


def of_other_bytes(sidecar):
    record = read_record(sidecar)
    source = record.source.model_copy(update={"sha256": "0" * 64, "fingerprint": "fp1:0"})
    sidecar.write_text(record.model_copy(update={"source": source}).model_dump_json(by_alias=True))


def of_another_model(sidecar):
    record = read_record(sidecar)
    model = record.model.model_copy(update={"sha256": "0" * 64})
    sidecar.write_text(record.model_copy(update={"model": model}).model_dump_json(by_alias=True))


def not_finite(sidecar):
    text = sidecar.read_text()
    start = text.index('"probabilities"')
    sidecar.write_text(
        text[:start] + '"probabilities": {"faceted": NaN},' + text[text.index('"novelty"', start) :]
    )


@pytest.mark.parametrize("harm", [removed, damaged, planted, of_other_bytes, of_another_model, not_finite])
def test_an_entry_whose_sidecar_says_nothing_of_it_has_its_row(laboratory, saved, harm):
    finding, number = saved
    harm(finding.sidecar)

    told = json.loads(get(laboratory, f"/api/entries/{number}").body)

    row = told.pop("row")
    assert told == NOTHING and row["label"] == finding.label


def test_a_sidecar_that_comes_back_is_read(laboratory, saved, tmp_path):
    finding, number = saved
    away = finding.sidecar.rename(tmp_path / "away.json")
    assert json.loads(get(laboratory, f"/api/entries/{number}").body)["model"] is None

    away.rename(finding.sidecar)

    assert json.loads(get(laboratory, f"/api/entries/{number}").body)["model"]["name"] == "tiny"


def test_hostile_names_and_tags_are_text(laboratory, classifier, micrograph_bytes):
    name = os.fsdecode(b"<img src=x onerror=alert(1)>\n\xff.dm3")
    finding = laboratory.save(name, micrograph_bytes, classifier)
    record = read_record(finding.sidecar)
    instrument = record.micrograph.instrument.model_copy(
        update={"device": "</script><script>alert(1)</script>"}
    )
    micrograph = record.micrograph.model_copy(update={"instrument": instrument})
    write_record(laboratory.plan.place(finding.path), record.model_copy(update={"micrograph": micrograph}))

    answer = get(laboratory, f"/api/entries/{laboratory.number_of(finding.path)}")

    told = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/json" and answer.body.isascii()
    assert told["row"]["name"] == "<img src=x onerror=alert(1)>\n\\xff.dm3"
    assert told["instrument"]["device"] == "</script><script>alert(1)</script>"


def insert_label(laboratory, content, number, void=0, record=None):
    event = record or json.dumps({"id": f"e{number}", "action": "confirm", "label": "rod", "by": "ab"})

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO labels (event, batch, content, folder, name, at_us, by, action, label, blind, undoes, "
            "void, written, record) VALUES (?, 'b', ?, x'00', x'00', ?, 'ab', 'confirm', 'rod', 0, NULL, ?, 1, ?)",
            (f"e{number}", content, number, void, event),
        )

    laboratory.journal.change(work)


def test_what_people_said_comes_oldest_first_and_says_what_counts(laboratory, saved):
    finding, number = saved
    insert_label(laboratory, finding.sha256, 2, void=1)
    insert_label(laboratory, finding.sha256, 1)
    insert_label(laboratory, "0" * 64, 3)
    insert_label(laboratory, finding.sha256, 4, record="this is no event")

    labels = json.loads(get(laboratory, f"/api/entries/{number}").body)["labels"]

    assert [(event["id"], event["void"]) for event in labels] == [("e1", False), ("e2", True)]


def test_a_journal_that_cannot_be_read_is_said(laboratory, saved, monkeypatch):
    """Not that nobody said anything."""
    _, number = saved
    monkeypatch.setattr(
        picture_routes, "read_events", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError)
    )

    answer = get(laboratory, f"/api/entries/{number}")

    assert (answer.status, error_of(answer)) == (503, "the journal cannot be read at the moment")


def test_details_are_kept_by_entry_and_content(laboratory, saved, monkeypatch):
    _, number = saved
    reads = []
    real = picture_routes.record_of
    monkeypatch.setattr(picture_routes, "record_of", lambda *given: reads.append(1) or real(*given))

    first, second = ask_in_turn(laboratory, [f"/api/entries/{number}"] * 2)

    assert first.body == second.body and len(reads) == 1


def ask_in_turn(laboratory, paths):
    """Requests to the same routes, one after the other."""
    made = routes(laboratory.home)
    return [ask(lambda _: made, laboratory.home, path)[0] for path in paths]


# --- a disk that hangs


@pytest.fixture
def hanging(monkeypatch):
    """A sidecar's disk that does not answer before it is let go."""
    let_go = threading.Event()
    asked = []
    real = picture_routes.record_of

    def hang(row, plan):
        asked.append(row)
        assert let_go.wait(30)
        return real(row, plan)

    monkeypatch.setattr(picture_routes, "record_of", hang)
    monkeypatch.setattr(bounded_reads, "SECONDS", 0.2)
    yield asked, let_go
    let_go.set()


def test_a_disk_that_hangs_is_said_and_keeps_no_picture(laboratory, saved, hanging):
    asked, _ = hanging
    _, number = saved
    paths = [f"/api/entries/{number}"] * 12 + [f"/api/entries/{number}/thumb.jpg"] * 12
    started = time.monotonic()

    answers = ask(routes, laboratory.home, *paths)

    assert [answer.status for answer in answers] == [503] * 12 + [200] * 12
    assert len(asked) <= bounded_reads.MOST_AT_ONCE
    assert all(
        "does not answer" in error_of(one) or "has not answered" in error_of(one) for one in answers[:12]
    )
    assert time.monotonic() - started < 10, "nobody waited for the disk"


def test_nothing_more_is_asked_of_it_until_it_answers_again(laboratory, saved, hanging):
    asked, let_go = hanging
    _, number = saved
    app = application(routes, laboratory.home)

    async def story() -> list[int]:
        seen = [(await one(app, f"/api/entries/{number}")).status for _ in range(5)]
        let_go.set()
        while (await one(app, f"/api/entries/{number}")).status != 200:
            await asyncio.sleep(0.02)
        return seen

    seen = asyncio.run(asyncio.wait_for(story(), 20))
    assert seen == [503] * 5
    assert len(asked) <= bounded_reads.MOST_HANGING + 1


def test_between_two_services_there_is_nothing(laboratory, saved):
    _, number = saved
    laboratory.home.meet(None)

    answers = ask(routes, laboratory.home, *(f"/api/entries/{number}{what}" for what in ("", "/thumb.jpg")))

    assert [answer.status for answer in answers] == [503, 503]
