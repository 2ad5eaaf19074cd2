"""What people said on the operator's page, on its way into a data set: what counts, where it goes, what is told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from edge_agent.dm_writer import Axis, Picture, filetime, write_dm3
from edge_agent.files import identify
from edge_agent.labelling.label_record import SCHEMA, LabelEvent, LabelFile, Shown, label_json
from edge_agent.preprocessing import Preprocessing
from trainer.preparing import whereabouts
from trainer.preparing.contact_sheet import write_contact_sheet
from trainer.preparing.corrections import Corrections, Verdict, read_corrections
from trainer.preparing.crops import DataSet, Order, PrepareError, load_dataset, prepare, summary
from trainer.preparing.leaks import leak_report
from trainer.preparing.overrides import read_overrides
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import SplitRule

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
A, B = "a" * 64, "b" * 64
FEW = Preprocessing(input_px=32)
UNSCREENED = ScreeningRule(on=False)
LOOKED_AT = ScreeningRule(least_distinctness=0, least_sharpness=0, most_point_symmetry=1)


def event(
    number: int,
    action: str = "correct",
    label: str | None = "rod",
    by: str = "ada",
    content: str | None = A,
    **other: Any,
) -> LabelEvent:
    """One event, a minute after that of the number before."""
    stated = {
        "id": f"event {number}", "at": NOON + timedelta(minutes=number), "by": by, "action": action,
        "label": None if action in ("not_in_list", "undo") else label, "blind": False, "batch": "1",
        "shown": Shown(label="round", probability=0.6, decision="accept", model_sha256=None),
        "source_sha256": content, "fingerprint": None,
    }  # fmt: skip
    return LabelEvent.model_validate(stated | other)


def undo(number: int, of: int, **other: Any) -> LabelEvent:
    return event(number, "undo", undoes=f"event {of}", **other)


def write_labels(beside: Path, *events: LabelEvent) -> Path:
    """The label file of a micrograph, whether that is there or not."""
    path = beside.with_name(beside.name + ".label.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(label_json(LabelFile(schema=SCHEMA, events=events)))
    return path


def said(root: Path) -> Corrections:
    return read_corrections([root], root / "out")


def told(verdict: Verdict) -> str:
    if verdict.kind == "label":
        return f"{verdict.label} {verdict.who}"
    return f"{verdict.kind} ({verdict.said})"


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([event(1)], "rod by ada", id="one word"),
        pytest.param([event(1, "confirm", "round")], "round by ada", id="confirmed"),
        pytest.param([event(1), event(2, label="round")], "round by ada", id="a second thought"),
        pytest.param([event(1), event(2, label="round"), undo(3, 2)], "rod by ada", id="undone: the word before"),
        pytest.param([event(1), undo(2, 1)], None, id="all undone: nothing"),
        pytest.param([event(1), undo(2, 1), undo(3, 2)], "rod by ada", id="undo undone: said again"),
        pytest.param([event(1), event(2, by="ben")], "rod by ada, ben", id="two people agree"),
        pytest.param(
            [event(1), event(2, by="ben", label="round")],
            "disputed (ada: rod; ben: round)",
            id="two people disagree",
        ),
        pytest.param(
            [event(1), event(2, by="ben", label="round"), event(3, by="ben")],
            "rod by ada, ben",
            id="one of them gives in",
        ),
        pytest.param(
            [event(1), event(2, by="ben", label="round"), undo(3, 2, by="ada")],
            "rod by ada",
            id="the other word undone",
        ),
        pytest.param([event(1, "not_in_list")], "not_in_list (ada: not in the list)", id="no class of the list"),
        pytest.param(
            [event(1, "not_in_list"), event(2, by="ben")],
            "disputed (ada: not in the list; ben: rod)",
            id="whether it is a class is disputed",
        ),
        pytest.param([event(1, label="Sta\u0308bchen")], "St\u00e4bchen by ada", id="one spelling of a class"),
        pytest.param([event(1, blind=True)], "rod blind by ada", id="blind"),
        pytest.param(
            [event(1, blind=True), event(2, "confirm")], "rod blind by ada", id="blind, and confirmed when seen"
        ),
        pytest.param([event(1, blind=True), event(2, label="round")], "round by ada", id="blind, then changed"),
        pytest.param(
            [event(1), event(2, blind=True)], "rod by ada", id="not blind after a look, whatever the event says"
        ),
        pytest.param(
            [event(1, blind=True), undo(2, 1), event(3)], "rod by ada", id="blind, undone, said again in sight"
        ),
        pytest.param(
            [event(1), event(2, by="ben", blind=True)], "rod blind by ada, ben", id="one of two was blind"
        ),
        pytest.param([event(1), event(1)], "rod by ada", id="one event twice in a file"),
    ],
)  # fmt: skip
def test_what_counts_of_what_was_said(tmp_path: Path, events: list[LabelEvent], expected: str | None) -> None:
    write_labels(tmp_path / "a.dm3", *events)
    assert [told(verdict) for verdict in said(tmp_path).verdicts.values()] == ([expected] if expected else [])


def test_an_id_that_says_two_things_is_told(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(1))
    write_labels(tmp_path / "b.dm3", event(1, label="round"))
    found = said(tmp_path)
    assert [told(verdict) for verdict in found.verdicts.values()] == ["rod by ada"]
    assert found.faults == (f"{tmp_path}/b.dm3.label.json: event event 1 says otherwise elsewhere",)


def test_no_terminal_obeys_a_name(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(1, by="\x1b[2Jada\n"), event(2, by="ben", label="\x9b2J"))
    (verdict,) = said(tmp_path).verdicts.values()
    assert verdict.said == r"\x1b[2Jada\n: rod; ben: \x9b2J"


def test_label_files_of_one_content_are_one(tmp_path: Path) -> None:
    """A micrograph was moved with its label file, another PC kept the older half, a third one said more."""
    write_labels(tmp_path / "old" / "a.dm3", event(1), event(2, label="round"))
    write_labels(tmp_path / "moved" / "renamed.dm3", event(1), event(2, label="round"), undo(3, 2))
    write_labels(tmp_path / "third" / "a.dm3", event(4, by="ben"))
    found = said(tmp_path)
    assert [told(verdict) for verdict in found.verdicts.values()] == ["rod by ada, ben"]
    assert found.label_files == 3
    assert len(found.verdicts[A].label_files) == 3


def test_a_file_that_was_written_over_keeps_both_contents_apart(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(1), event(2, label="round", content=B))
    assert [told(verdict) for verdict in said(tmp_path).verdicts.values()] == ["rod by ada", "round by ada"]


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(5), event(6, label="round", at=NOON))
    assert said(tmp_path).verdicts[A].label == "round"


def test_above_the_snapshot_limit_the_fingerprint_names_the_content(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(1, content=None, fingerprint="fp1:9:8:ab"), event(2, content=None))
    found = said(tmp_path)
    assert list(found.verdicts) == ["fp1:9:8:ab"]
    assert found.nameless == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("b.dm3.label.json", b"", id="empty"),
        pytest.param(
            "b.dm3.label.json", b'{"schema": "scopewatch.label/2", "events": []}', id="a later version"
        ),
        pytest.param(
            "b.dm3.label.json", b'{"schema": "scopewatch.label/1", "events": [{}]}', id="half an event"
        ),
        pytest.param("b.dm3.LABEL.JSON", b"[" * 100_000, id="a bomb of brackets"),
        pytest.param("b.dm3.label.json", b"\xff\xfe", id="no text"),
    ],
)
def test_a_bad_label_file_costs_a_line_and_no_more(tmp_path: Path, name: str, content: bytes) -> None:
    write_labels(tmp_path / "a.dm3", event(1))
    (tmp_path / name).write_bytes(content)
    found = said(tmp_path)
    assert list(found.verdicts) == [A]
    (fault,) = found.faults
    assert fault.startswith(f"{tmp_path / name}: is no label file that this version reads (")
    assert "\n" not in fault


def test_the_data_set_folder_is_not_searched(tmp_path: Path) -> None:
    write_labels(tmp_path / "a.dm3", event(1))
    write_labels(tmp_path / "out" / "b.dm3", event(2, content=B))
    assert list(said(tmp_path).verdicts) == [A]


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    elsewhere = write_labels(tmp_path / "elsewhere" / "a.dm3", event(1))
    root = tmp_path / "root"
    write_labels(root / "b.dm3", event(2, content=B))
    (root / "link.dm3.label.json").symlink_to(elsewhere)
    (root / "linked").symlink_to(elsewhere.parent)
    os.mkfifo(root / "pipe.dm3.label.json")
    found = read_corrections([root], tmp_path / "out")
    assert list(found.verdicts) == [B]
    why = "cannot be read (no plain file, too long, or not allowed)"
    assert found.faults == (f"{root}/link.dm3.label.json: {why}", f"{root}/pipe.dm3.label.json: {why}")


@pytest.mark.parametrize(
    ("root", "message"),
    [
        pytest.param(
            "gone",
            "gone: there is no such folder; name one that holds label files (--corrections)",
            id="gone",
        ),
        pytest.param(
            "empty",
            "empty: holds no label file (*.label.json); the agent writes them beside the micrographs, or below its "
            "output folder, once somebody has corrected or confirmed one on its page",
            id="without a label file",
        ),
    ],
)
def test_a_root_without_labels_is_a_slip_of_the_pen(tmp_path: Path, root: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_labels(tmp_path / "good" / "a.dm3", event(1))
    with pytest.raises(PrepareError) as refused:
        read_corrections([tmp_path / "good", tmp_path / root], tmp_path / "out")
    assert str(refused.value) == f"{tmp_path}/{message}"


# ---- what becomes of them in a data set


def field(seed: int, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint16]:
    """A bright disc somewhere on a slope: structure, so that no field counts as blank."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    centre = random.uniform(0.3, 0.7, 2) * shape
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (min(shape) / 5) ** 2
    return (200 + 20 * (seed % 50) + x + 900 * disc + random.normal(0, 3, shape)).astype(np.uint16)


def save(path: Path, seed: int) -> str:
    """Save the field with that seed; return the sha256 of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dm3":
        path.write_bytes(write_dm3(Picture("test", field(seed), (Axis(0.5, "nm"), Axis(0.5, "nm")), {})))
    else:
        Image.fromarray(field(seed)).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(slots=True)
class Lab:
    """Class folders with 12 micrographs each, and the folder that the agent watches."""

    raw: Path
    watched: Path
    events: int = 0

    def seen(
        self, name: str, seed: int, label: str = "round", *, action: str = "correct", **other: Any
    ) -> str:
        """A micrograph in the watched folder that somebody labelled; return its content."""
        content = save(self.watched / name, seed)
        self.label(content, name, label, action=action, **other)
        return content

    def label(
        self, content: str, name: str, label: str = "round", *, action: str = "correct", **other: Any
    ) -> None:
        """A label file for a content, with one event more than it had."""
        self.events += 1
        path = self.watched / (name + ".label.json")
        before = LabelFile.model_validate_json(path.read_bytes()).events if path.exists() else ()
        write_labels(
            self.watched / name, *before, event(self.events, action, label, content=content, **other)
        )

    def label_raw(self, source: str, label: str, **other: Any) -> None:
        """A label about a file of the class folders, which lies in the watched folder no more."""
        content = hashlib.sha256((self.raw / source).read_bytes()).hexdigest()
        self.label(content, Path(source).name.replace(".", f"-{source[:2]}."), label, **other)

    def prepared(self, *, corrected: bool = True, roots: Sequence[Path] = (), **options: Any) -> DataSet:
        out = self.raw.parent / "out"
        given: dict[str, Any] = {
            "preprocessing": FEW, "split": SplitRule(), "cache_px": 32, "screening": UNSCREENED,
            "corrections_share": 0.9,
        }  # fmt: skip
        if corrected:
            given["corrections"] = read_corrections(roots or [self.watched], out)
        embed = options.pop("embed", None)
        return prepare(self.raw, out, Order(**given | options), workers=1, embed=embed)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    for at in range(12):
        save(tmp_path / "raw" / "rod" / f"{at:02}.tif", at)
        save(tmp_path / "raw" / "round" / f"{at:02}.tif", 100 + at)
    (tmp_path / "watched").mkdir()
    return Lab(tmp_path / "raw", tmp_path / "watched")


def of_part(dataset: DataSet, part: str, label: str = "rod") -> str:
    """The first source of a part and class."""
    return next(crop.source for crop in dataset.kept if (crop.part, crop.label) == (part, label))


def fate(dataset: DataSet, source: str) -> str:
    (crop,) = (crop for crop in dataset.crops if crop.source == source)
    return f"{crop.label} in {crop.part}" if crop.kept else crop.reason


def newcomers(dataset: DataSet) -> dict[str, str]:
    """What became of the micrographs of no class folder, by their own names."""
    return {
        Path(crop.source).name: fate(dataset, crop.source)
        for crop in dataset.crops
        if crop.source.startswith("corrections/")
    }


def dealt(dataset: DataSet) -> dict[str, str]:
    """The part of every micrograph of the class folders."""
    return {crop.source: crop.part for crop in dataset.kept if not crop.source.startswith("corrections/")}


@pytest.mark.parametrize(
    ("part", "said_of_it", "expected"),
    [
        pytest.param("train", {"label": "round"}, "round in train", id="train: relabelled"),
        pytest.param("train", {"label": "rod"}, "rod in train", id="train: confirmed"),
        pytest.param("test", {"label": "round"}, "rod in test", id="test: frozen to who saw the answer"),
        pytest.param("validation", {"label": "round"}, "rod in validation", id="validation: the same"),
        pytest.param("test", {"label": "round", "blind": True}, "round in test", id="test: relabelled blind"),
        pytest.param("test", {"label": "rod"}, "rod in test", id="test: agreeing changes nothing"),
        pytest.param(
            "test",
            {"label": "", "action": "not_in_list"},
            "rod in test",
            id="test: in no class, said with the answer in sight",
        ),
        pytest.param(
            "test",
            {"label": "", "action": "not_in_list", "blind": True},
            "not in the list: said by ada",
            id="test: in no class, said blind",
        ),
        pytest.param(
            "train",
            {"label": "", "action": "not_in_list"},
            "not in the list: said by ada",
            id="train: in no class",
        ),
        pytest.param(
            "train",
            {"label": "cube"},
            "unknown class: cube by ada, and the raw folder has none",
            id="a class that is not learnt",
        ),
    ],
)
def test_a_label_about_a_file_of_the_class_folders(
    lab: Lab, part: str, said_of_it: dict[str, Any], expected: str
) -> None:
    before = lab.prepared(corrected=False)
    source = of_part(before, part)
    lab.label_raw(source, **said_of_it)
    after = lab.prepared()
    assert fate(after, source) == expected
    others = {name: where for name, where in dealt(after).items() if name != source}
    assert others == {name: where for name, where in dealt(before).items() if name != source}


def test_people_who_disagree_leave_a_file_out(lab: Lab) -> None:
    lab.label_raw("rod/03.tif", "round")
    lab.label_raw("rod/03.tif", "rod", by="ben")
    dataset = lab.prepared()
    assert fate(dataset, "rod/03.tif") == "disputed label: ada: round; ben: rod"
    assert "corrections: people disagree, left out: 1 (03-ro.tif (ada: round; ben: rod))" in dataset.notes


def test_a_relabelled_file_says_so(lab: Lab) -> None:
    source = of_part(lab.prepared(corrected=False), "train")
    lab.label_raw(source, "round")
    (crop,) = (crop for crop in lab.prepared().crops if crop.source == source)
    assert (crop.note, crop.correction) == ("correction: class by ada, was rod", "by ada")


def test_one_picture_in_two_class_folders_is_settled_by_a_person(lab: Lab) -> None:
    save(lab.raw / "round" / "twin.tif", 3)
    assert fate(lab.prepared(corrected=False), "rod/03.tif").startswith("contradictory label")
    lab.label_raw("rod/03.tif", "round")
    dataset = lab.prepared()
    assert fate(dataset, "rod/03.tif") == "round in train"
    assert fate(dataset, "round/twin.tif").startswith("contradictory label")


def test_a_label_about_a_copy_holds_for_the_file_that_stays(lab: Lab) -> None:
    source = of_part(lab.prepared(corrected=False), "train")
    shutil.copy(lab.raw / source, lab.raw / "rod" / "zz.tif")
    Image.fromarray(field(int(Path(source).stem))).save(lab.raw / "rod" / "zzz.png")
    lab.label_raw("rod/zzz.png", "round")
    dataset = lab.prepared()
    assert fate(dataset, source) == "round in train"
    assert fate(dataset, "rod/zzz.png").startswith("duplicate pixels")


@pytest.mark.parametrize("suffix", [".tif", ".dm3"])
def test_a_new_micrograph_trains(lab: Lab, suffix: str) -> None:
    before = lab.prepared(corrected=False)
    content = lab.seen(f"day 1/a{suffix}", 200)
    dataset = lab.prepared()
    assert newcomers(dataset) == {f"a{suffix}": "round in train"}
    assert dealt(dataset) == dealt(before)
    assert dataset.corrections is not None
    source = f"corrections/{content[:16]}/a{suffix}"
    assert dataset.corrections.files == {source: str(lab.watched / f"day 1/a{suffix}")}
    assert dataset.path_of(source) == lab.watched / f"day 1/a{suffix}"
    assert load_dataset(dataset.root) == dataset
    assert dataset.fingerprint != before.fingerprint
    assert not leak_report(dataset.kept, dataset.split).leaks


def test_labels_given_in_sight_train_and_only_train(lab: Lab) -> None:
    for at in range(16):
        lab.seen(f"{at}.tif", 200 + at)
    assert Counter(newcomers(lab.prepared()).values()) == {"round in train": 16}


def test_blind_labels_are_dealt_to_all_parts_and_stay_there(lab: Lab) -> None:
    for at in range(30):
        lab.seen(f"{at}.tif", 200 + at, blind=True)
    first = newcomers(lab.prepared())
    assert set(first.values()) == {"round in train", "round in validation", "round in test"}
    for at in range(30, 50):
        lab.seen(f"{at}.tif", 200 + at, blind=at % 2 == 0)
    later = newcomers(lab.prepared())
    assert {name: later[name] for name in first} == first
    assert all(later[f"{at}.tif"] == "round in train" for at in range(31, 50, 2))


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"split": SplitRule(part_folders=True)}, id="parts by folders"),
        pytest.param({"split": SplitRule(by="every-third")}, id="every third"),
    ],
)
def test_where_nothing_is_dealt_by_lot_blind_labels_train(lab: Lab, rule: dict[str, Any]) -> None:
    for part, numbers in {"train": range(8), "test": range(8, 12)}.items():
        for label in ("rod", "round"):
            for at in numbers:
                old = lab.raw / label / f"{at:02}.tif"
                if rule["split"].part_folders:
                    new = lab.raw / part / label / old.name
                    new.parent.mkdir(parents=True, exist_ok=True)
                    old.rename(new)
    for at in range(12):
        lab.seen(f"{at}.tif", 200 + at, blind=True)
    if rule["split"].part_folders:
        shutil.rmtree(lab.raw / "rod")
        shutil.rmtree(lab.raw / "round")
        rule = {"split": SplitRule()}
    assert Counter(newcomers(lab.prepared(**rule)).values()) == {"round in train": 12}


def test_at_most_the_share_of_a_class_is_from_corrections(lab: Lab) -> None:
    for at in range(24):
        lab.seen(f"{at}.tif", 200 + at, "rod" if at % 3 == 0 else "round")
    dataset = lab.prepared(corrections_share=0.3)
    there = Counter(crop.label for crop in dataset.train if not crop.source.startswith("corrections/"))
    came = Counter(crop.label for crop in dataset.train if crop.source.startswith("corrections/"))
    for label in ("rod", "round"):
        assert came[label] / (there[label] + came[label]) <= 0.3
        assert (came[label] + 1) / (there[label] + came[label] + 1) > 0.3
    held = [why for why in newcomers(dataset).values() if why.startswith("held back")]
    assert len(held) == 24 - sum(came.values())
    assert "held back: no more than 30% of round in train may be corrections" in held
    assert newcomers(lab.prepared(corrections_share=0.3)) == newcomers(dataset)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 12)])
def test_the_share_at_its_ends(lab: Lab, share: float, expected: int) -> None:
    for at in range(12):
        lab.seen(f"{at}.tif", 200 + at)
    found = Counter(newcomers(lab.prepared(corrections_share=share)).values())
    assert found["round in train"] == expected


def test_blind_labels_are_a_fair_sample_and_never_held_back(lab: Lab) -> None:
    for at in range(20):
        lab.seen(f"{at}.tif", 200 + at, blind=at < 6)
    dataset = lab.prepared(split=SplitRule(by="every-third"), corrections_share=0.3)
    found = newcomers(dataset)
    assert all(found[f"{at}.tif"] == "round in train" for at in range(6))
    led = [crop for crop in dataset.train if crop.answer_seen]
    everybody = [crop for crop in dataset.train if crop.label == "round"]
    assert 0 < len(led) / len(everybody) <= 0.3 < (len(led) + 1) / (len(everybody) + 1)


def test_relabelled_files_of_the_class_folders_are_not_held_back(lab: Lab) -> None:
    train = [crop.source for crop in lab.prepared(corrected=False).train if crop.label == "rod"]
    for source in train[:4]:
        lab.label_raw(source, "round")
    dataset = lab.prepared(corrections_share=0.0)
    assert [fate(dataset, source) for source in train[:4]] == ["round in train"] * 4


# ---- whom a newcomer belongs to


def same_features(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    return np.ones((len(pictures), 4), np.float32)


def textured(seed: int, at: int = 0) -> NDArray[np.uint16]:
    """A window of a larger field of blobs: neighbouring windows show about the same area."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :200]
    values = np.zeros(y.shape)
    for _ in range(60):
        row, column, width = random.uniform(0, 160), random.uniform(0, 200), random.uniform(4, 9)
        values += np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
    return (300 + 2000 * values[8 + at : 136 + at, 8 + at : 168 + at]).astype(np.uint16)


def blobs(lab: Lab) -> None:
    """Class folders whose pictures have something to be recognised by."""
    for label, first in (("rod", 0), ("round", 100)):
        for at in range(12):
            Image.fromarray(textured(first + at)).save(lab.raw / label / f"{at:02}.tif")


def seen_near(lab: Lab, name: str, source: str, shift: int, **other: Any) -> None:
    """A neighbouring view, or with no shift another file, of a picture of the class folders."""
    label, _, file = source.partition("/")
    picture = textured((100 if label == "round" else 0) + int(file[:2]), shift)
    if not shift:
        picture = (picture.astype(np.float32) * 0.8 + 50).astype(np.uint16)
    Image.fromarray(picture).save(lab.watched / name)
    content = hashlib.sha256((lab.watched / name).read_bytes()).hexdigest()
    lab.label(content, name, **{"label": label} | other)


@pytest.mark.parametrize(
    ("part", "shift", "blind", "expected"),
    [
        pytest.param(
            "test", 6, False, "kin of held-out micrographs: of one group with", id="view of a test picture"
        ),
        pytest.param(
            "validation", 6, False, "kin of held-out micrographs: of one group with", id="of validation"
        ),
        pytest.param("test", 6, True, "rod in test", id="blind: goes where its group is"),
        pytest.param("train", 6, True, "rod in train", id="blind: where its group trains it trains"),
        pytest.param("train", 6, False, "rod in train", id="view of a training picture"),
        pytest.param("test", 0, True, "near duplicate: same picture as", id="saved again"),
    ],
)
def test_a_newcomer_goes_where_its_group_is_or_nowhere(
    lab: Lab, part: str, shift: int, blind: bool, expected: str
) -> None:
    blobs(lab)
    options = {"screening": LOOKED_AT, "embed": same_features}
    before = lab.prepared(corrected=False, **options)
    source = of_part(before, part)
    seen_near(lab, "a.tif", source, shift, blind=blind)
    after = lab.prepared(**options)
    assert newcomers(after)["a.tif"].startswith(expected)
    assert dealt(after) == dealt(before)
    assert leak_report(after.kept, after.split).worst != "leak"
    if "in " in expected and not expected.startswith("kin"):
        assert (
            len({crop.group for crop in after.kept if crop.source in (source, *newcomer_sources(after))}) == 1
        )


def newcomer_sources(dataset: DataSet) -> list[str]:
    return [crop.source for crop in dataset.kept if crop.source.startswith("corrections/")]


def test_a_label_about_the_same_picture_saved_again_holds_for_the_class_folder(lab: Lab) -> None:
    blobs(lab)
    options = {"screening": LOOKED_AT, "embed": same_features}
    before = lab.prepared(corrected=False, **options)
    trains, tests = of_part(before, "train"), of_part(before, "test")
    validates = of_part(before, "validation")
    seen_near(lab, "a.tif", trains, 0, label="round")
    seen_near(lab, "b.tif", tests, 0, label="round", blind=True)
    seen_near(lab, "c.tif", validates, 0, label="round")
    after = lab.prepared(**options)
    assert fate(after, trains) == "round in train"
    assert fate(after, tests) == "round in test"
    assert fate(after, validates) == "rod in validation"


@pytest.mark.parametrize(
    ("by", "first", "expected"),
    [
        pytest.param("ada", "sight", "rod in test", id="she knew the answer of its copy"),
        pytest.param("ben", "sight", "round in test", id="somebody else did"),
        pytest.param("ada", "blind", "round in test", id="she looked at the copy later"),
    ],
)
def test_a_label_is_not_blind_after_a_look_at_a_copy(lab: Lab, by: str, first: str, expected: str) -> None:
    blobs(lab)
    options = {"screening": LOOKED_AT, "embed": same_features}
    source = of_part(lab.prepared(corrected=False, **options), "test")
    for turn in (first, "blind" if first == "sight" else "sight"):
        if turn == "sight":
            seen_near(lab, "a.tif", source, 0, label="round", by=by)
        else:
            lab.label_raw(source, "round", blind=True)
    assert fate(lab.prepared(**options), source) == expected


def test_what_left_the_test_still_keeps_its_neighbours_out_of_training(lab: Lab) -> None:
    blobs(lab)
    options = {"screening": LOOKED_AT, "embed": same_features}
    source = of_part(lab.prepared(corrected=False, **options), "test")
    lab.label_raw(source, "", action="not_in_list", blind=True)
    seen_near(lab, "a.tif", source, 6)
    after = lab.prepared(**options)
    assert fate(after, source) == "not in the list: said by ada"
    assert newcomers(after)["a.tif"].startswith("kin of held-out micrographs")


@pytest.mark.parametrize(
    ("screening", "shift", "kept"),
    [
        pytest.param(LOOKED_AT, 0, "newcomer", id="a copy that was found and kept all the same"),
        pytest.param(
            LOOKED_AT.model_copy(update={"least_sharpness": 10.0}),
            6,
            "all",
            id="a view, nothing is sharp enough",
        ),
        pytest.param(
            LOOKED_AT.model_copy(update={"least_sharpness": 10.0}),
            0,
            "all",
            id="a copy, nothing is sharp enough",
        ),
    ],
)
def test_what_a_person_keeps_against_the_screening_is_kin_all_the_same(
    lab: Lab, screening: ScreeningRule, shift: int, kept: str
) -> None:
    """The contact sheet decides whether a picture is worth it, not whether it is another one than in the test."""
    blobs(lab)
    options = {"screening": LOOKED_AT, "embed": same_features}
    before = lab.prepared(corrected=False, **options)
    source = of_part(before, "test")
    seen_near(lab, "a.tif", source, shift)
    (own,) = [crop.source for crop in lab.prepared(**options).crops if crop.source.startswith("corrections/")]
    files = [own, *(sorted({crop.source for crop in before.crops}) if kept == "all" else ())]
    sheet = lab.raw.parent / "overrides.csv"
    sheet.write_text("file,decision\n" + "".join(f"{file},keep\n" for file in files))
    after = lab.prepared(**options | {"screening": screening, "overrides": read_overrides(sheet)})
    assert dealt(after) == dealt(before)
    assert newcomers(after)["a.tif"].startswith("kin of held-out micrographs: of one group with " + source)


def test_what_is_held_out_and_named_otherwise_is_told(lab: Lab) -> None:
    """Who believed the network's mistake would take it out of the test, and the figure would rise."""
    sources = [crop.source for crop in lab.prepared(corrected=False).kept if crop.part == "test"]
    for source in sources[:2]:
        lab.label_raw(source, "round" if source.startswith("rod") else "rod")
    lab.label_raw(sources[2], "", action="not_in_list")
    dataset = lab.prepared()
    assert [crop.source for crop in dataset.test] == sources
    assert (
        "corrections: held out, named otherwise by people who saw the answer, kept as they are: 3 "
        f"({', '.join(sources[:3])})" in dataset.notes
    )


def test_where_crops_of_one_micrograph_are_dealt_a_corrected_one_is_not_held_out(lab: Lab) -> None:
    rule = {"split": SplitRule(by="every-third")}
    source = of_part(lab.prepared(corrected=False, **rule), "test")
    lab.label_raw(source, "round")
    assert fate(lab.prepared(**rule), source).startswith("corrected with the answer in sight: round by ada")


def test_figures_rest_on_what_the_folder_said_before_the_network_did(lab: Lab) -> None:
    """Confirmed and put right again: a cross-validation that left those out would leave its mistakes out."""
    trains = [crop.source for crop in lab.prepared(corrected=False).train if crop.label == "rod"]
    lab.label_raw(trains[0], "rod")
    lab.label_raw(trains[1], "round")
    led = {crop.source for crop in lab.prepared().train if crop.answer_seen}
    assert led == {trains[1]}


def test_the_folders_below_the_root_group_as_those_below_a_class(lab: Lab) -> None:
    for label in ("rod", "round"):
        for at in range(12):
            old = lab.raw / label / f"{at:02}.tif"
            new = lab.raw / label / f"sample {at % 5}" / old.name
            new.parent.mkdir(exist_ok=True)
            old.rename(new)
    rule = {"split": SplitRule(by="folder")}
    before = lab.prepared(corrected=False, **rule)
    for at in range(5):
        lab.seen(f"sample {at}/a{at}.tif", 200 + at)
    after = lab.prepared(**rule)
    held_out = {crop.group for crop in before.kept if crop.part != "train"}
    for at in range(5):
        what = newcomers(after)[f"a{at}.tif"]
        assert what.startswith("kin of held-out") if f"sample {at}" in held_out else what == "round in train"
    assert dealt(after) == dealt(before)


def taken(path: Path, seed: int, hour: float) -> str:
    """Save a dm3 file that was taken so many hours after noon; return its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = {"DataBar": {"Acquisition Time (OS)": filetime(NOON + timedelta(hours=hour))}}
    path.write_bytes(write_dm3(Picture("test", field(seed), (Axis(0.5, "nm"), Axis(0.5, "nm")), tags)))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_newcomer_of_a_session_that_is_dealt_belongs_to_it(lab: Lab) -> None:
    """Eight sessions of three micrographs, ten hours apart; one newcomer in each, one between two of them."""
    shutil.rmtree(lab.raw)
    for session in range(8):
        for at in range(3):
            label = ("rod", "round")[session % 2]
            taken(lab.raw / label / f"{session}-{at}.dm3", 10 * session + at, 10 * session + at / 10)
    rule = {"split": SplitRule(by="session", session_gap_hours=6)}
    before = lab.prepared(corrected=False, **rule)
    part_of = {crop.source.split("/")[1][0]: crop.part for crop in before.kept}
    for session in range(8):
        lab.label(taken(lab.watched / f"{session}.dm3", 100 + session, 10 * session + 1), f"{session}.dm3")
    lab.label(taken(lab.watched / "alone.dm3", 120, 200), "alone.dm3")
    between = next(one for one in range(7) if {part_of[str(one)], part_of[str(one + 1)]} == {"train", "test"})
    lab.label(taken(lab.watched / "both.dm3", 121, 10 * between + 5.5), "both.dm3", blind=True)
    after = lab.prepared(**rule)
    found = newcomers(after)
    for session in range(8):
        trains = part_of[str(session)] == "train"
        assert found[f"{session}.dm3"].startswith("round in train" if trains else "kin of held-out"), session
    assert found["alone.dm3"] == "round in train"
    assert found["both.dm3"].endswith("in train and test, and it ties these parts together")
    assert dealt(after) == dealt(before)
    assert leak_report(after.kept, after.split).worst == "none"


# ---- where the micrographs are


def test_a_micrograph_is_known_by_its_bytes_wherever_it_lies(lab: Lab) -> None:
    lab.seen("here.tif", 200)
    lab.seen("moved.tif", 201)
    lab.seen("renamed.tif", 202)
    lab.seen("changed.tif", 203)
    lab.seen("deleted.tif", 204)
    lab.seen("twice.tif", 205)
    (lab.watched / "archive").mkdir()
    (lab.watched / "moved.tif").rename(lab.watched / "archive" / "moved.tif")
    (lab.watched / "renamed.tif").rename(lab.watched / "archive" / "other name.tif")
    save(lab.watched / "changed.tif", 300)
    (lab.watched / "deleted.tif").unlink()
    shutil.copy(lab.watched / "twice.tif", lab.watched / "archive" / "twice.tif")
    dataset = lab.prepared()
    names = ["here.tif", "moved.tif", "other name.tif", "twice.tif"]
    assert newcomers(dataset) == dict.fromkeys(names, "round in train")
    assert "corrections: micrographs that no file holds any more: 2 (changed.tif, deleted.tif)" in [
        note.replace("deleted.tif, changed.tif", "changed.tif, deleted.tif") for note in dataset.notes
    ]
    assert dataset.corrections is not None
    assert set(dataset.corrections.missing.values()) == {"changed.tif", "deleted.tif"}


def test_the_sidecar_tells_where_a_mirrored_micrograph_lies(lab: Lab, tmp_path: Path) -> None:
    content = save(tmp_path / "microscope" / "a.tif", 200)
    lab.label(content, "mirrored/a.tif")
    source = {"path": str(tmp_path / "microscope" / "a.tif"), "bytes": 1, "sha256": content}
    source["bytes"] = (tmp_path / "microscope" / "a.tif").stat().st_size
    (lab.watched / "mirrored" / "a.tif.json").write_text(json.dumps({"source": source}))
    assert newcomers(lab.prepared()) == {"a.tif": "round in train"}


def test_a_fingerprint_finds_the_file_of_the_class_folders(lab: Lab) -> None:
    """The agent's snapshot limit was lower than the trainer's."""
    source = of_part(lab.prepared(corrected=False), "train")
    fingerprint = identify(lab.raw / source, 0).fingerprint
    lab.label("", "a.tif", source_sha256=None, fingerprint=fingerprint)
    lab.label("", "b.tif", source_sha256=None, fingerprint="fp1:no number:")
    dataset = lab.prepared()
    assert fate(dataset, source) == "round in train"
    assert newcomers(dataset) == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a file name be no text")
def test_a_path_that_is_no_text_is_reported(lab: Lab) -> None:
    content = lab.seen("a.tif", 200)
    (lab.watched / "a.tif").rename(lab.watched / os.fsdecode(b"gr\xf6\xdfe.tif"))
    dataset = lab.prepared()
    assert dataset.corrections is not None
    assert dataset.corrections.missing == {content: "a.tif: its path is not Unicode, rename it"}


@pytest.mark.parametrize(
    "sidecar",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'{"source": 3}', id="no source"),
        pytest.param(b'{"source": {"path": 3, "bytes": "x", "sha256": null}}', id="no path"),
        pytest.param(b"[" * 100_000, id="a bomb of brackets"),
    ],
)
def test_a_sidecar_that_says_nothing_does_no_harm(lab: Lab, sidecar: bytes) -> None:
    lab.seen("a.tif", 200)
    (lab.watched / "a.tif.json").write_bytes(sidecar)
    assert newcomers(lab.prepared()) == {"a.tif": "round in train"}


def test_no_computer_is_asked_because_a_sidecar_names_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    content = lab.seen("a.tif", 200)
    (lab.watched / "a.tif").unlink()
    source = {"path": r"\\evil\share\a.tif", "bytes": 1, "sha256": content}
    (lab.watched / "a.tif.json").write_text(json.dumps({"source": source}))
    asked: list[str] = []
    real = whereabouts.stamp_of

    def spied(path: Path) -> Any:
        asked.append(str(path))
        return real(path)

    monkeypatch.setattr(whereabouts, "stamp_of", spied)
    lab.prepared()
    assert asked
    assert not [path for path in asked if "evil" in path]


def test_a_search_reads_each_file_once_and_remembers_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.seen("gone.tif", 200)
    (lab.watched / "gone.tif").unlink()
    for at in range(5):
        save(lab.watched / f"other {at}.tif", 300 + at)
    read: list[str] = []

    def spied(path: Path, limit_bytes: int) -> Any:
        read.append(path.name)
        return identify(path, limit_bytes)

    monkeypatch.setattr(whereabouts, "identify", spied)
    lab.prepared()
    assert Counter(name for name in read if name.startswith("other")) == {
        f"other {at}.tif": 1 for at in range(5)
    }
    read.clear()
    lab.prepared()
    assert read == []


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("a.dm3", b"this is text", "unreadable: ", id="no micrograph"),
        pytest.param("a.tif", None, "blank field", id="blank"),
    ],
)
def test_a_labelled_file_is_screened_like_any_other(
    lab: Lab, name: str, content: bytes | None, reason: str
) -> None:
    path = lab.watched / name
    if content is None:
        Image.fromarray(np.zeros((40, 40), np.uint16)).save(path)
    else:
        path.write_bytes(content)
    lab.label(hashlib.sha256(path.read_bytes()).hexdigest(), name)
    assert newcomers(lab.prepared())[name].startswith(reason)


# ---- what is told, and what a person decides against it


def test_the_data_set_tells_what_came_from_corrections(lab: Lab) -> None:
    before = lab.prepared(corrected=False)
    lab.label_raw(of_part(before, "train"), "round", by="ben")
    lab.seen("a.tif", 200)
    lab.seen("b.tif", 201, blind=True)
    lab.seen("c.tif", 202, "", action="not_in_list")
    lab.seen("d.tif", 203, "cube")
    (lab.watched / "broken.tif.label.json").write_text("{")
    dataset = lab.prepared()
    text = summary(dataset)
    assert "corrections: 6 label files, labels of 5 micrographs by ada (4), ben (1)" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("class by a person")]
    assert rows == ["class by a person train validation test blind held back of the raw folder".split()]
    assert "note: corrections: in no class of the list, left out: 1" in text
    assert "note: corrections: of a class that the raw folder has not: 1 (d.tif (cube))" in text
    assert "note: corrections: not read: 1 (" in text
    page = write_contact_sheet(dataset).read_text()
    assert "correction: round blind by ada" in page
    assert "correction: class by ben, was rod" in page
    record = json.loads((dataset.root / "dataset.json").read_text())["corrections"]
    assert record["roots"] == [str(lab.watched)]
    assert record["people"] == {"ada": 4, "ben": 1}


def test_a_data_set_without_corrections_is_what_it_was(lab: Lab) -> None:
    before = lab.prepared(corrected=False)
    lab.seen("a.tif", 200)
    assert lab.prepared(corrected=False) == before
    assert before.corrections is None
    assert load_dataset(before.root) == before


def test_the_fingerprint_hangs_on_what_was_said_not_on_where_it_lies(lab: Lab, tmp_path: Path) -> None:
    lab.seen("a.tif", 200)
    first = lab.prepared()
    moved = lab.watched.rename(tmp_path / "elsewhere")
    again = replace(lab, watched=moved).prepared()
    assert again.fingerprint == first.fingerprint
    replace(lab, watched=moved, events=7).label("c" * 64, "b.tif")
    assert replace(lab, watched=moved).prepared().fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("part", "row", "expected"),
    [
        pytest.param("train", "keep,rod", "rod in train", id="a class on the sheet goes before a correction"),
        pytest.param("train", "drop,", "overruled: dropped", id="so does a drop"),
        pytest.param("train", "keep,", "round in train", id="a keep alone says nothing of the class"),
        pytest.param("test", "keep,", "rod in test", id="a keep leaves what is held out as it is"),
        pytest.param("test", "drop,", "overruled: dropped", id="and a drop takes it out"),
    ],
)
def test_the_contact_sheet_goes_before_corrections(lab: Lab, part: str, row: str, expected: str) -> None:
    source = of_part(lab.prepared(corrected=False), part)
    lab.label_raw(source, "round")
    path = lab.raw.parent / "overrides.csv"
    path.write_text(f"file,box,decision,label,by,note\n{source},,{row},,\n")
    assert fate(lab.prepared(overrides=read_overrides(path)), source) == expected


def test_a_newcomer_can_be_overruled_too(lab: Lab) -> None:
    names = [f"{at}.tif" for at in range(3)]
    contents = [lab.seen(name, 200 + at) for at, name in enumerate(names)]
    sources = [f"corrections/{content[:16]}/{name}" for content, name in zip(contents, names, strict=True)]
    path = lab.raw.parent / "overrides.csv"
    path.write_text(
        "file,box,decision,label,by,note\n"
        f"{sources[0]},,drop,,,\n{sources[1]},,keep,rod,,\n{sources[2]},,keep,,,\n"
    )
    dataset = lab.prepared(overrides=read_overrides(path), corrections_share=0.0)
    assert list(newcomers(dataset).values()) != []
    assert [fate(dataset, source) for source in sources] == [
        "overruled: dropped", "rod in train", "round in train",
    ]  # fmt: skip


def test_labels_in_the_raw_folder_itself(lab: Lab) -> None:
    """Whoever labels on a copy of the class folders has the label files beside the micrographs."""
    before = lab.prepared(corrected=False)
    source = of_part(before, "train")
    content = hashlib.sha256((lab.raw / source).read_bytes()).hexdigest()
    write_labels(lab.raw / source, event(1, label="round", content=content))
    dataset = lab.prepared(roots=[lab.raw])
    assert fate(dataset, source) == "round in train"
    assert newcomers(dataset) == {}


def every_content(dataset: DataSet) -> Mapping[str, int]:
    return Counter(crop.sha256 or "" for crop in dataset.kept)


def test_every_label_arrives_once(lab: Lab) -> None:
    contents = [lab.seen(f"{at}.tif", 200 + at) for at in range(10)]
    shutil.copytree(lab.watched, lab.watched / "backup")
    dataset = lab.prepared()
    found = every_content(dataset)
    assert [found[content] for content in contents] == [1] * 10
