"""The contact sheet: every crop is on it, nothing on it is markup, a rerun draws nothing twice."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from toys import picture

from edge_agent.preprocessing import Preprocessing
from trainer.preparing.contact_sheet import write_contact_sheet
from trainer.preparing.crops import DataSet, Order, prepare
from trainer.preparing.overrides import read_overrides
from trainer.preparing.quality import Measures
from trainer.preparing.screening import ScreeningRule
from trainer.preparing.split import PrepareError, SplitRule

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crop_table import Crop

MARKUP = '<img src=x onerror=alert(1)> "&amp; </script>'


@dataclass
class Page(HTMLParser):
    """What a browser would find in the page."""

    text: str
    cards: list[dict[str, str]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    state: dict[str, object] = field(default_factory=dict)
    script: str = ""
    style: str = ""
    policy: str = ""
    cells: list[str] = field(default_factory=list)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.inside = "state" if found.get("id") == "state" else tag
        if tag == "article":
            self.cards.append({name.removeprefix("data-"): value for name, value in found.items()})
        if tag == "img":
            self.pictures[self.cards[-1]["file"]] = found["src"]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "state":
            self.state = json.loads(data)
        elif self.inside == "script":
            self.script += data
        elif self.inside == "style":
            self.style += data
        elif self.inside == "td":
            self.cells.append(data)
        elif self.cards:
            file = self.cards[-1]["file"]
            self.words[file] = self.words.get(file, "") + data


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared_set(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """Two classes of four pictures, one copy, one damaged file, one excluded folder, a name full of markup."""
    raw = tmp_path_factory.mktemp("raw")
    for label in ("disc", "stripes"):
        (raw / label).mkdir()
        for seed in range(4):
            Image.fromarray(picture(label, seed)).save(raw / label / f"{seed}.png")
    Image.fromarray(picture("disc", 9)).save(raw / "disc" / f"{MARKUP.replace('/', '')}.png")
    Image.fromarray(picture("disc", 1)).save(raw / "disc" / "copy of 1.tif")
    (raw / "stripes" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (raw / "unsure").mkdir()
    Image.fromarray(picture("disc", 5)).save(raw / "unsure" / "5.png")
    return prepare(
        raw,
        tmp_path_factory.mktemp("dataset") / "set",
        Order(
            preprocessing=Preprocessing(input_px=64),
            split=SplitRule(test=0.25, validation=0),
            cache_px=64,
            screening=ScreeningRule(on=False),
            classes=("disc", "stripes"),
        ),
        workers=1,
    )


@pytest.fixture(scope="module")
def page(prepared_set: DataSet) -> Page:
    return read_page(write_contact_sheet(prepared_set))


def test_every_file_that_was_looked_at_has_a_card(page: Page, prepared_set: DataSet) -> None:
    assert {card["file"] for card in page.cards} == {
        crop.source for crop in prepared_set.crops if not crop.source.startswith("unsure/")
    }
    assert "1 files not looked at: class folder excluded: unsure" in page.text


def test_every_picture_is_there_and_shows_the_crop(page: Page, prepared_set: DataSet) -> None:
    by_source = {crop.source: crop for crop in prepared_set.crops}
    assert set(page.pictures) == {card["file"] for card in page.cards} - {"stripes/broken.png"}
    for source, relative in page.pictures.items():
        rows, columns = by_source[source].shape_px
        with Image.open(prepared_set.root / relative) as shown:
            assert shown.width / shown.height == pytest.approx(columns / rows, rel=0.03)
            with Image.open(prepared_set.raw / source) as original:
                small = original.resize(shown.size)
            seen = np.corrcoef(np.asarray(shown).ravel(), np.asarray(small).ravel())
        assert seen[0, 1] > 0.95


def test_a_file_without_pixels_says_why(page: Page) -> None:
    assert "no picture in this file" in page.words["stripes/broken.png"]
    assert "unreadable:" in page.words["stripes/broken.png"]
    assert next(card["keepable"] for card in page.cards if card["file"] == "stripes/broken.png") == "no"


def test_a_card_says_what_the_table_says(page: Page, prepared_set: DataSet) -> None:
    card = next(card for card in page.cards if card["file"] == "disc/2.png")
    crop = next(crop for crop in prepared_set.crops if crop.source == "disc/2.png")
    assert (card["kept"], card["part"], card["group"], card["box"]) == (
        "yes",
        crop.part,
        crop.group,
        "0 0 88 72",
    )
    assert "88 × 72 px" in page.words["disc/2.png"]


def test_crops_of_one_micrograph_are_told_apart(prepared_set: DataSet) -> None:
    whole = next(crop for crop in prepared_set.crops if crop.source == "disc/2.png")
    halves = [
        replace(whole, crop_id=str(x0), box_px=(x0, 0, x0 + 44, 72), source=f"disc/{x0}.png")
        for x0 in (0, 44)
    ]
    found = read_page(write_contact_sheet(replace(prepared_set, crops=(whole, *halves))))
    assert " at " not in found.words["disc/2.png"]
    assert "44 × 72 px · at 0, 0" in found.words["disc/0.png"]
    assert "44 × 72 px · at 44, 0" in found.words["disc/44.png"]


def test_names_never_become_markup(page: Page) -> None:
    name = f"disc/{MARKUP.replace('/', '')}.png"
    assert name in {card["file"] for card in page.cards}
    assert page.tags.count("img") == len(page.pictures)
    assert page.tags.count("script") == 2


def test_other_texts_never_become_markup(prepared_set: DataSet, tmp_path: Path) -> None:
    crops = tuple(
        replace(crop, label=MARKUP, group=MARKUP, near=MARKUP, note=MARKUP, reason=crop.reason and MARKUP)
        for crop in prepared_set.crops
    )
    overrides = tmp_path / "overrides.csv"
    overrides.write_text(
        f'file,decision,by,note\ndisc/1.png,drop,"{MARKUP.replace(chr(34), chr(39))}",</script><b>\n'
    )
    hostile = replace(prepared_set, crops=crops, labels=(MARKUP,), notes=(MARKUP,))

    found = read_page(write_contact_sheet(hostile, overrides=read_overrides(overrides)))

    assert found.state["labels"] == [MARKUP]
    assert found.tags.count("img") == len(found.pictures)
    assert found.tags.count("script") == 2
    assert "b" not in found.tags
    assert {card["near"] for card in found.cards} == {MARKUP}


def test_nothing_is_fetched_and_only_our_own_script_may_run(page: Page) -> None:
    for text, kind in ((page.script, "script"), (page.style, "style")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none'")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|url\(|@import""", page.text)


def test_a_rerun_draws_nothing_again_and_clears_up(prepared_set: DataSet) -> None:
    folder = write_contact_sheet(prepared_set).parent / "contact_sheet"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    (folder / ("0" * 32 + ".jpg")).write_bytes(b"of a crop that is gone")
    (folder / ".1234.tmp").write_bytes(b"of a run that was killed")
    (folder / "note.txt").write_text("somebody's own")
    calls: list[tuple[int, int]] = []

    write_contact_sheet(prepared_set, progress=lambda _, done, total: calls.append((done, total)))

    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert after.pop("note.txt")
    assert after == before
    assert len(before) == 9  # a copy shares the picture of its original
    assert calls[0] == (10, 11)
    assert calls[-1] == (11, 11)


def test_an_interrupted_sheet_goes_on(prepared_set: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    (root / "cache").symlink_to(prepared_set.root / "cache", target_is_directory=True)
    moved = replace(prepared_set, root=root)

    def interrupt(_: str, done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_contact_sheet(moved, progress=interrupt)
    drawn = len(list((root / "contact_sheet").iterdir()))
    assert drawn >= 3
    assert not (root / "contact_sheet.html").exists()
    first: list[int] = []
    write_contact_sheet(moved, progress=lambda _, done, total: first.append(done))
    assert first[0] >= drawn
    assert (root / "contact_sheet.html").is_file()


def test_a_source_that_changed_since_is_not_shown(prepared_set: DataSet, tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    crops = tuple(
        replace(crop, sha256="0" * 64, cached="") if crop.source == "disc/2.png" else crop
        for crop in prepared_set.crops
        if crop.source in ("disc/2.png", "disc/copy of 1.tif")
    )
    found = read_page(write_contact_sheet(replace(prepared_set, root=root, crops=crops)))
    assert "was changed since prepare" in found.words["disc/2.png"]
    assert list(found.pictures) == ["disc/copy of 1.tif"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(prepared_set: DataSet, tmp_path: Path) -> None:
    (tmp_path / "contact_sheet").write_text("in the way")
    with pytest.raises(PrepareError, match=r"the contact sheet cannot be written .*--no-contact-sheet"):
        write_contact_sheet(replace(prepared_set, root=tmp_path))


def measured(crop: Crop, sharpness: float) -> Crop:
    values = dict.fromkeys(Measures.__dataclass_fields__, 1.0)
    return replace(crop, measures=Measures(**{**values, "sharpness": sharpness}))


def test_doubtful_crops_come_first(prepared_set: DataSet, tmp_path: Path) -> None:
    one = next(crop for crop in prepared_set.crops if crop.kept)
    crops = [
        measured(replace(one, crop_id=f"ordinary {index}", source=f"disc/{index}.png"), 1 + 0.05 * index)
        for index in range(9)
    ]
    crops += [
        measured(replace(one, crop_id="unusual", source="disc/u.png"), 9.0),
        replace(one, crop_id="flagged", source="disc/f.png", note="burnt-in scale bar"),
        replace(one, crop_id="cluster", source="disc/n.png", near="tilt 1"),
        replace(one, crop_id="copy", source="disc/c.png", kept=False, reason="duplicate content: of 1.png"),
        measured(
            replace(one, crop_id="blurred", source="disc/b.png", kept=False, reason="blurred: 0.1"), 0.0
        ),
        measured(replace(one, crop_id="nearly", source="disc/m.png", kept=False, reason="blurred: 0.9"), 0.9),
        replace(one, crop_id="decided", source="disc/d.png"),
    ]
    overrides = tmp_path / "overrides.csv"
    overrides.write_text("file,decision\ndisc/d.png,keep\n")
    found = read_page(
        write_contact_sheet(
            replace(prepared_set, crops=tuple(crops), labels=("disc",)), overrides=read_overrides(overrides)
        )
    )
    order = [card["id"] for card in found.cards]
    assert order[:6] == ["nearly", "blurred", "decided", "flagged", "cluster", "unusual"]
    assert order[-1] == "copy"
    assert [card["id"] for card in found.cards if card["unusual"]] == ["blurred", "unusual"]
    assert "unusual: sharpness" in found.words["disc/u.png"]
    assert next(card["values"] for card in found.cards if card["id"] == "flagged") == ""


def test_counts_by_class_and_reason(page: Page, prepared_set: DataSet) -> None:
    train = {label: sum(crop.label == label for crop in prepared_set.train) for label in prepared_set.labels}
    test = {label: sum(crop.label == label for crop in prepared_set.test) for label in prepared_set.labels}
    kept, gone = {"disc": 5, "stripes": 4}, {"disc": 1, "stripes": 1}
    by_class = [
        [str(count) for count in (train[label], 0, test[label], kept[label], gone[label])]
        for label in ("disc", "stripes")
    ]
    together = [str(count) for count in (sum(train.values()), 0, sum(test.values()), 9, 2)]
    by_reason = [["1", "0", "1"], ["0", "1", "1"]]
    assert page.cells == [cell for row in (*by_class, together, *by_reason) for cell in row]


def test_overrides_in_force_are_shown_and_those_about_other_files_kept(
    prepared_set: DataSet, tmp_path: Path
) -> None:
    overrides = tmp_path / "overrides.csv"
    overrides.write_text(
        "file,box,decision,label,by,note\ndisc/1.png,,keep,stripes,TM,lines\nother/x.png,1 2 3 4,drop,,TM,\n"
    )
    found = read_page(write_contact_sheet(prepared_set, overrides=read_overrides(overrides)))
    crop = next(crop for crop in prepared_set.crops if crop.source == "disc/1.png")
    decided = {"decision": "keep", "label": "stripes", "by": "TM", "note": "lines"}
    assert found.state["decided"] == {crop.crop_id: decided}
    assert found.state["others"] == [["other/x.png", "1 2 3 4", "drop", "", "TM", ""]]
    assert found.state["fingerprint"] == prepared_set.fingerprint
