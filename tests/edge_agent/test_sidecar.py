"""The sidecar is exactly what contracts.md promises, stands where it promises, and survives any name."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sidecars import CONTRACT, STAMP, finish, record

from edge_agent.output_places import NameTooLong, OutputPlan, Place, is_own_output, readable_path
from edge_agent.sidecar import (
    Finding,
    Milliseconds,
    Sidecar,
    finding_of,
    finding_on_record,
    heatmaps_kept_since,
    modified_utc,
    read_record,
    sidecar_json,
    sidecar_schema,
    source_record,
    write_record,
)

FINDING = Finding(
    path=Path("/data/a.dm3"),
    outcome="classified",
    label="round",
    probability=0.97,
    decision="accept",
    reasons=("one", "two"),
    sidecar=Path("/data/a.dm3.json"),
    heatmap=Path("/data/a.dm3.heatmap.png"),
    stamp=STAMP,
    sha256="ab" * 32,
    fingerprint="fp1:1",
    model_sha256="ef" * 32,
    milliseconds=12.5,
    novelty=0.31,
    contrast=0.21,
    pixel_size_nm=0.12,
)


def test_a_record_is_the_contract_to_the_letter():
    assert json.loads(sidecar_json(record())) == CONTRACT


def test_a_file_that_is_no_image_has_a_reason_and_neither_picture_nor_answer():
    bare = record(outcome="not_an_image", reason="a spectrum", micrograph=None, prediction=None, cam=None)

    written = json.loads(sidecar_json(bare))

    assert written.keys() == CONTRACT.keys()
    assert (written["micrograph"], written["prediction"], written["cam"]) == (None, None, None)


def test_the_text_has_one_line_for_each_part_and_ends_with_a_newline():
    lines = sidecar_json(record()).splitlines()

    assert [line.split('"')[1] for line in lines[1:-1]] == list(CONTRACT)
    assert sidecar_json(record()).endswith("}\n")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"schema": "scopewatch.sidecar/2"}, id="another version"),
        pytest.param({"outcome": "incomplete"}, id="an outcome without a sidecar"),
        pytest.param({"extra": 1}, id="an unknown key"),
        pytest.param(
            {"source": CONTRACT["source"] | {"modified": "2026-05-03T03:09:37"}}, id="a time without zone"
        ),
        pytest.param({"source": CONTRACT["source"] | {"bytes": -1}}, id="a negative size"),
    ],
)
def test_anything_else_is_refused(changes):
    with pytest.raises(ValidationError):
        record(**changes)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_floats_are_finite(value):
    with pytest.raises(ValidationError):
        Sidecar.model_validate(CONTRACT | {"cam": CONTRACT["cam"] | {"values": [[0.0, value]]}})
    with pytest.raises(ValidationError):
        Sidecar.model_validate(CONTRACT | {"prediction": CONTRACT["prediction"] | {"novelty": value}})


def test_times_are_written_in_utc_whatever_zone_they_came_in():
    source = CONTRACT["source"] | {"modified": "2026-05-03T05:09:37+02:00"}

    assert json.loads(sidecar_json(record(source=source)))["source"]["modified"] == "2026-05-03T03:09:37Z"


def test_the_schema_names_every_part_of_the_contract():
    schema = sidecar_schema()

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"].keys() == CONTRACT.keys()
    assert schema["$defs"]["SourceRecord"]["properties"].keys() == CONTRACT["source"].keys()
    assert schema["$defs"]["CamRecord"]["properties"].keys() == CONTRACT["cam"].keys()
    assert schema["properties"]["outcome"]["enum"] == [
        "classified",
        "not_an_image",
        "unreadable",
        "quarantined",
    ]


def test_tags_with_broken_text_give_a_record_that_any_json_reader_takes():
    micrograph = CONTRACT["micrograph"] | {"acquired_text": "5\udcff2026"}

    text = sidecar_json(Sidecar.model_validate(CONTRACT | {"micrograph": micrograph}))

    assert json.loads(text.encode("utf-8"))["micrograph"]["acquired_text"] == "5\\udcff2026"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_bytes_of_a_name_that_are_no_utf8_are_shown_as_escapes():
    path = Path(os.fsdecode(b"/data/caf\xe9.dm3"))

    assert readable_path(path) == "/data/caf\\xe9.dm3"
    assert source_record(path, STAMP, None, None).path == "/data/caf\\xe9.dm3"


PLACES = [
    pytest.param(None, ("/d",), "/d/s/a.dm3", "/d/s/a.dm3.json", id="beside"),
    pytest.param("/out", ("/d",), "/d/s/a.dm3", "/out/s/a.dm3.json", id="one root is mirrored directly"),
    pytest.param(
        "/out", ("/d/x", "/d/y"), "/d/y/s/a.dm3", "/out/y/s/a.dm3.json", id="two roots cannot clash"
    ),
    pytest.param(
        "/out", ("/d/x", "/d/y"), "/d/x/s/a.dm3", "/out/x/s/a.dm3.json", id="the same name in the other"
    ),
    pytest.param("/out", ("/d", "/d/x"), "/d/x/a.dm3", "/out/x/a.dm3.json", id="one root inside another"),
    pytest.param("/out", ("/d",), "/elsewhere/a.dm3", "/out/elsewhere/a.dm3.json", id="outside all roots"),
    pytest.param("/out", (), "/d/a.dm3", "/out/d/a.dm3.json", id="no roots"),
    pytest.param(None, (), "/d/A.DM3", "/d/A.DM3.json", id="the whole name counts"),
]


@pytest.mark.parametrize(("output", "roots", "source", "sidecar"), PLACES)
def test_where_outputs_go(output, roots, source, sidecar):
    plan = OutputPlan(Path(output) if output else None, tuple(map(Path, roots)))

    place = plan.place(Path(source))

    assert place.sidecar == Path(sidecar)
    assert place.heatmap == Path(sidecar.removesuffix(".json") + ".heatmap.png")


@pytest.mark.skipif(os.name == "nt", reason="Windows counts UTF-16 units")
@pytest.mark.parametrize("char", ["x", "ä", "粒"], ids=["one byte", "two bytes", "three bytes"])
def test_a_name_is_refused_where_the_outputs_names_do_not_fit(char):
    longest = (255 - len(".dm3.heatmap.png")) // len(char.encode())
    assert OutputPlan().place(Path("/d") / (char * longest + ".dm3")).heatmap.suffix == ".png"

    with pytest.raises(
        NameTooLong, match=r"no room for '\.heatmap\.png': 25[678] bytes where 255 are possible; rename"
    ):
        OutputPlan().place(Path("/d") / (char * (longest + 1) + ".dm3"))


@pytest.mark.parametrize(("name", "other"), [("a.dm3.label", "a.dm3"), ("b.LABEL", "b")])
def test_a_name_is_refused_whose_sidecar_would_be_the_labels_of_another(name, other):
    with pytest.raises(NameTooLong, match=f"the name of the labels of '{other}'; rename the file"):
        OutputPlan().place(Path("/d") / name)
    assert OutputPlan().place(Path("/d") / other).labels.name == f"{other}.label.json"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("a.dm3", False),
        ("a.dm3.json", True),
        ("a.dm3.heatmap.png", True),
        ("a.dm3.label.json", True),
        ("A.HEATMAP.PNG", True),
        ("map.png", False),
    ],
)
def test_own_outputs_are_known_by_name(name, own):
    assert is_own_output(name) is own


def test_a_record_is_written_and_read_back(tmp_path):
    place = Place(tmp_path / "a.dm3.json", tmp_path / "a.dm3.heatmap.png")

    write_record(place, record())

    assert read_record(place.sidecar) == record()
    assert [path.name for path in tmp_path.iterdir()] == ["a.dm3.json"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(None, id="missing"),
        pytest.param(b"", id="empty"),
        pytest.param(b'{"schema": "scopewatch.sidecar/1"}', id="only a schema"),
        pytest.param(sidecar_json(record()).encode()[:-40], id="cut off"),
        pytest.param(b'{"name": "somebody else\'s a.dm3.json"}', id="another program's"),
        pytest.param(b"\xff\xfe\x00", id="no text"),
    ],
)
def test_what_is_no_whole_record_of_ours_counts_as_none(tmp_path, content):
    path = tmp_path / "a.dm3.json"
    if content is not None:
        path.write_bytes(content)

    assert read_record(path) is None


def test_a_folder_in_the_sidecars_place_counts_as_none(tmp_path):
    assert read_record(tmp_path) is None


def test_a_record_answers_for_exactly_the_size_and_time_it_saw(tmp_path):
    path = tmp_path / "a.dm3"
    stamp = finish(path)

    found = finding_on_record(path, replace(stamp, device=9, inode=9), OutputPlan())

    assert found is not None
    assert (found.outcome, found.label, found.probability, found.sha256) == (
        "classified",
        "round",
        0.97,
        "ab" * 32,
    )
    assert found.heatmap == tmp_path / "a.dm3.heatmap.png"
    assert finding_on_record(path, replace(stamp, size_bytes=1), OutputPlan()) is None
    assert finding_on_record(path, replace(stamp, modified_ns=stamp.modified_ns + 1000), OutputPlan()) is None
    assert finding_on_record(path, stamp, OutputPlan(tmp_path / "out", (tmp_path,))) is None


def link_elsewhere(path: Path) -> None:
    path.replace(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


NO_PROOF = [
    pytest.param(lambda place: place.heatmap.unlink(), id="the heatmap it names is gone"),
    pytest.param(lambda place: become_a_folder(place.heatmap), id="a folder in the heatmap's place"),
    pytest.param(lambda place: place.sidecar.unlink(), id="the sidecar is gone"),
    pytest.param(lambda place: become_a_folder(place.sidecar), id="a folder in its place"),
    pytest.param(lambda place: os.truncate(place.sidecar, 100), id="cut off"),
    pytest.param(lambda place: place.sidecar.write_bytes(b"\0" * 900), id="zeros after a power cut"),
    pytest.param(lambda place: os.truncate(place.sidecar, 2**40), id="a sparse terabyte"),
]
if os.name != "nt":
    NO_PROOF += [
        pytest.param(lambda place: link_elsewhere(place.heatmap), id="a link in the heatmap's place"),
        pytest.param(lambda place: link_elsewhere(place.sidecar), id="a link in its place"),
        pytest.param(lambda place: become_a_pipe(place.sidecar), id="a pipe in its place"),
    ]


@pytest.mark.parametrize("change", NO_PROOF)
def test_without_whole_outputs_of_our_own_nothing_is_on_record(tmp_path, change):
    path = tmp_path / "a.dm3"
    stamp = finish(path)
    assert finding_on_record(path, stamp, OutputPlan()) is not None

    change(OutputPlan().place(path))

    assert finding_on_record(path, stamp, OutputPlan()) is None


@pytest.mark.parametrize(
    ("days_after", "counts"),
    [
        pytest.param(None, False, id="heatmaps are kept for ever"),
        pytest.param(-1, False, id="it was finished later"),
        pytest.param(1, True, id="it was finished before"),
    ],
)
def test_a_heatmap_that_may_have_been_removed_for_its_age_is_not_missed(tmp_path, days_after, counts):
    path = tmp_path / "a.dm3"
    stamp = finish(path)
    finished = datetime.fromisoformat(CONTRACT["agent"]["finished"])
    since = None if days_after is None else finished + timedelta(days=days_after)
    assert finding_on_record(path, stamp, OutputPlan(), None, since).heatmap is not None
    OutputPlan().place(path).heatmap.unlink()

    found = finding_on_record(path, stamp, OutputPlan(), None, since)

    assert (found is not None) is counts
    assert found is None or (found.label, found.heatmap) == ("round", None)


def test_from_when_on_heatmaps_are_kept():
    assert heatmaps_kept_since(None) is None
    since = heatmaps_kept_since(7)
    assert timedelta(days=7) <= datetime.now(UTC) - since < timedelta(days=8)


def test_the_heatmap_of_another_file_is_not_this_ones(tmp_path):
    path = tmp_path / "a.dm3"
    stamp = finish(path, cam=CONTRACT["cam"] | {"heatmap": "b.dm3.heatmap.png"})

    assert finding_on_record(path, stamp, OutputPlan()) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_no_utf8_is_on_record_too(tmp_path):
    path = tmp_path / "caf\udce9.dm3"
    stamp = finish(path)

    assert finding_on_record(path, stamp, OutputPlan()).heatmap == tmp_path / "caf\udce9.dm3.heatmap.png"


@pytest.mark.parametrize(
    ("model_sha256", "counts"),
    [
        pytest.param(None, True, id="no model is known yet"),
        pytest.param("ef" * 32, True, id="the model that it names"),
        pytest.param("00" * 32, False, id="another model"),
    ],
)
def test_a_quarantine_holds_for_its_model(tmp_path, model_sha256, counts):
    path, classified = tmp_path / "a.dm3", tmp_path / "b.dm3"
    stamp = finish(path, outcome="quarantined", reason="why", micrograph=None, prediction=None, cam=None)
    finish(classified)

    found = finding_on_record(path, stamp, OutputPlan(), model_sha256)

    assert (found is not None) is counts
    assert finding_on_record(classified, stamp, OutputPlan(), model_sha256) is not None


@pytest.mark.parametrize(
    ("modified_ns", "moment"),
    [
        pytest.param(0, datetime(1970, 1, 1, tzinfo=UTC), id="the epoch"),
        pytest.param(-1_000, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), id="before it"),
        pytest.param(
            1_777_777_777_123_456_789, datetime(2026, 5, 3, 3, 9, 37, 123_456, tzinfo=UTC), id="microseconds"
        ),
        pytest.param(4_102_444_800_000_000_000, datetime(2100, 1, 1, tzinfo=UTC), id="a clock gone wrong"),
        pytest.param(10**21, datetime.max.replace(tzinfo=UTC), id="a year beyond every calendar"),
        pytest.param(-(10**21), datetime.min.replace(tzinfo=UTC), id="and before"),
    ],
)
def test_times_of_files_are_exact_to_the_microsecond(modified_ns, moment):
    assert modified_utc(replace(STAMP, modified_ns=modified_ns)) == moment


@pytest.mark.parametrize(
    "finding",
    [
        pytest.param(FINDING, id="classified"),
        pytest.param(
            replace(
                FINDING,
                stages=Milliseconds(read=1.5, infer=20.25),
                settled=datetime(2026, 5, 3, 3, 9, 39, 123456, tzinfo=UTC),
                finished=datetime(2026, 5, 3, 3, 9, 40, tzinfo=UTC),
            ),
            id="with its times",
        ),
        pytest.param(Finding(Path("/d/x.dm3"), "vanished"), id="as little as possible"),
        pytest.param(
            Finding(Path("/d/caf\udce9\n.dm3"), "unreadable", "odd \udcff"), id="a name that is no UTF-8"
        ),
    ],
)
def test_a_finding_survives_json_as_one_line(finding):
    line = finding.to_json()

    assert line.isascii()
    assert "\n" not in line
    again = Finding.from_json(line)
    assert again == finding
    assert (again.stages, again.settled, again.finished) == (
        finding.stages,
        finding.settled,
        finding.finished,
    )


def test_a_finding_of_an_earlier_version_is_read_with_the_rest_unknown():
    values = json.loads(FINDING.to_json())
    for key in ("novelty", "contrast", "pixel_size_nm", "inferred", "stages", "settled", "finished"):
        del values[key]

    assert Finding.from_json(json.dumps(values)) == replace(
        FINDING, novelty=None, contrast=None, pixel_size_nm=None
    )


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        pytest.param({}, (0.31, 0.21, 0.12, True), id="all known"),
        pytest.param(
            {"micrograph": CONTRACT["micrograph"] | {"pixel_size_nm": [0.5, 0.25]}},
            (0.31, 0.21, 0.25, True),
            id="pixels that are no squares",
        ),
        pytest.param(
            {
                "micrograph": CONTRACT["micrograph"] | {"pixel_size_nm": None, "field": None},
                "prediction": CONTRACT["prediction"] | {"novelty": None},
            },
            (None, None, None, True),
            id="uncalibrated, by an earlier version",
        ),
        pytest.param(
            {"agent": CONTRACT["agent"] | {"milliseconds": {"read": 1.0}}},
            (0.31, 0.21, 0.12, False),
            id="an answer that was known",
        ),
        pytest.param(
            {"outcome": "not_an_image", "micrograph": None, "prediction": None, "cam": None},
            (None, None, None, True),
            id="no image",
        ),
    ],
)
def test_a_finding_has_the_figures_of_its_record(changes, figures):
    path = Path("/data/a.dm3")

    found = finding_of(path, STAMP, OutputPlan().place(path), record(**changes))

    assert (found.novelty, found.contrast, found.pixel_size_nm, found.inferred) == figures
    assert (found.settled, found.finished) == (
        datetime(2026, 5, 3, 3, 9, 39, tzinfo=UTC),
        datetime(2026, 5, 3, 3, 9, 40, tzinfo=UTC),
    )
    assert found.stages == record(**changes).agent.milliseconds


def test_a_line_for_the_journal_holds_none_of_the_times():
    line = replace(FINDING, stages=Milliseconds(read=1.5)).to_json(times=False)

    assert not {"stages", "settled", "finished"} & json.loads(line).keys()
    assert Finding.from_json(line) == FINDING


@given(name=st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=60))
def test_any_name_survives(name):
    finding = replace(FINDING, path=Path("/d") / name)

    assert Finding.from_json(finding.to_json()).path == finding.path
