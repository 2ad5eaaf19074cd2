"""The figure for a paper: what the agent sees and says, told apart, found again, fit to print."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from bundles import tiny_bundle
from PIL import Image
from toys import LABELS, picture

from edge_agent.classifier import Classifier
from edge_agent.decision import Decision, decide
from edge_agent.heatmap import draw_heatmap
from edge_agent.micrograph import read_micrograph
from edge_agent.model_bundle import open_bundle
from trainer.showing import explain as module
from trainer.showing import explain_page
from trainer.showing.explain import ExplainError, explain
from trainer.showing.explain_page import Exhibit, draw_pages, letter, panel_mm
from trainer.showing.micrograph_panels import figure_style

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.preparing.crops import DataSet


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network that knows the toys' classes: it is right as often as wrong."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny-1", labels=LABELS)


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures out, where a test is about what stands beside them: embedding fonts takes a second."""
    monkeypatch.setattr(module, "save_png", lambda *_: None)
    monkeypatch.setattr(module, "save_pdf", lambda *_: None)


def an_exhibit(**changes: Any) -> Exhibit:
    exhibit = Exhibit(
        file="disc/a.png",
        label="disc",
        part="test",
        sha256="ab" * 32,
        answer="disc",
        probability=0.97,
        decision="accept",
        reasons=(),
        plain=np.full((40, 60, 3), 90, np.uint8),
        covered=np.full((40, 60, 3), 120, np.uint8),
        panel_pixel_nm=(0.5, 0.5),
        pixel_size_nm=(0.5, 0.5),
        evidence_scale=4.25,
        absence="",
    )
    return replace(exhibit, **changes)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All words on the pages."""
    words: list[str] = []
    for name in ("write", "write_in"):
        write = getattr(explain_page, name)

        def noted(page: Any, at: Any, text: str, write: Any = write, **style: Any) -> None:
            words.append(text)
            write(page, at, text, **style)

        monkeypatch.setattr(explain_page, name, noted)
    return words


@pytest.fixture(scope="module")
def made(
    toy_bundle: Path, dataset: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[module.Explanation, Path, list[tuple[str, int, int]]]:
    """A figure of two micrographs a class, its folder, and the progress that was told; read only."""
    out, calls = tmp_path_factory.mktemp("figure") / "a" / "b", []
    return explain(toy_bundle, dataset, out, progress=lambda *call: calls.append(call)), out, calls


def test_everything_is_written_and_found_again(
    made: tuple[module.Explanation, Path, list[tuple[str, int, int]]], dataset: DataSet
) -> None:
    found, out, calls = made
    assert sorted(path.name for path in out.iterdir()) == [
        "explain.csv", "explain.json", "explain.pdf", "explain.png", "explain.txt",
    ]  # fmt: skip
    assert calls[-1] == ("classified", 4, 4)
    assert [one.panel for one in found.shown] == ["a", "b", "c", "d"]
    assert [one.label for one in found.shown] == ["disc", "disc", "stripes", "stripes"]
    test_part = {crop.source: crop.sha256 for crop in dataset.test}
    assert {one.file: one.sha256 for one in found.shown}.items() <= test_part.items()
    rows = list(csv.DictReader((out / "explain.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [
        (row["panel"], row["file"], row["answer"], float(row["probability"]), row["sha256"]) for row in rows
    ] == [(one.panel, one.file, one.answer, one.probability, one.sha256) for one in found.shown]
    assert json.loads((out / "explain.json").read_bytes())["schema"] == "scopewatch.explanation/1"
    assert module.Explanation.model_validate_json((out / "explain.json").read_bytes()) == found
    assert (out / "explain.txt").read_text(encoding="utf-8") == found.caption + "\n"


@pytest.mark.usefixtures("unsaved")
def test_the_answers_are_the_agents(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    bundle = open_bundle(toy_bundle)
    classifier = Classifier(bundle)
    found = explain(toy_bundle, dataset, tmp_path, count=3)
    for one in found.shown:
        prediction = classifier.classify(read_micrograph(dataset.raw / one.file))
        assert (one.answer, one.probability) == (prediction.label, round(prediction.probability, 4))
        assert one.decision == decide(prediction, bundle.manifest).decision
        assert one.right == (one.label == prediction.label)
    assert {one.right for one in found.shown} == {True, False}


def test_the_panels_are_those_of_the_agents_figure(toy_bundle: Path, dataset: DataSet) -> None:
    classifier = Classifier(open_bundle(toy_bundle))
    crop = next(crop for crop in dataset.test if crop.shape_px == (72, 88))
    micrograph = read_micrograph(dataset.raw / crop.source)
    figure = draw_heatmap(micrograph, classifier.classify(micrograph), Decision("ungated", ()))
    whole = np.asarray(Image.open(io.BytesIO(figure)))
    longest = 494  # how wide two panels are on 1024 px
    exhibit = module._exhibit(classifier, crop, micrograph, longest / explain_page.PANEL_DPI * 25.4)
    rows, columns = exhibit.plain.shape[:2]
    places = [
        x
        for x in range(whole.shape[1] - columns + 1)
        for panel in (exhibit.plain, exhibit.covered)
        if np.array_equal(whole[12 : 12 + rows, x : x + columns], panel)
    ]
    assert len(places) == 2


def test_the_picture_is_two_columns_of_a_journal_wide(made: tuple[Any, Path, Any]) -> None:
    _, out, _ = made
    with Image.open(out / "explain.png") as shown:
        assert abs(shown.width - 180 / 25.4 * 300) < 2
        assert shown.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    pdf = (out / "explain.pdf").read_bytes()
    width, height = map(float, re.search(rb"MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf).groups())
    assert width / 72 * 25.4 == pytest.approx(180, abs=0.1)
    assert height / 72 * 25.4 < 235
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf


def test_equal_choices_give_equal_figures(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    first, again = (
        explain(toy_bundle, dataset, tmp_path / name, count=1, columns=4, seed=4) for name in ("1", "2")
    )
    assert first.shown == again.shown
    for name in ("explain.png", "explain.pdf", "explain.csv", "explain.txt"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


@pytest.mark.usefixtures("unsaved")
def test_another_seed_draws_others(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    drawn = {
        tuple(one.file for one in explain(toy_bundle, dataset, tmp_path, count=1, seed=seed).shown)
        for seed in range(6)
    }
    assert len(drawn) > 1


@pytest.mark.usefixtures("unsaved")
def test_micrographs_chosen_by_name(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    files = [dataset.train[3].source, dataset.test[0].source]
    found = explain(toy_bundle, dataset, tmp_path, files=[*files, files[0]])
    assert [one.file for one in found.shown] == files
    assert (found.chosen, found.part) == ("by name", "test, train")
    assert "were chosen by hand" in found.caption


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize(
    ("fingerprint_is_the_data_sets", "part", "told"),
    [
        pytest.param(
            True, "train", "Micrographs of the train part were used to fit the network.", id="trained on"
        ),
        pytest.param(True, "test", None, id="held out"),
        pytest.param(False, "test", "The network was trained on another data set.", id="another data set"),
    ],
)
def test_the_caption_says_what_the_network_had_seen(
    fingerprint_is_the_data_sets: bool,
    part: Any,
    told: str | None,
    toy_bundle: Path,
    dataset: DataSet,
    tmp_path: Path,
) -> None:
    seen = replace(dataset, fingerprint="none") if fingerprint_is_the_data_sets else dataset
    caption = explain(toy_bundle, seen, tmp_path, count=1, part=part, classes=["disc"]).caption
    assert ("network was trained" in caption or "fit the network" in caption) == (told is not None)
    assert told is None or told in caption
    assert f"({'a'}) disc: answered" in caption
    assert f"of the {part} part of the data set and were drawn at random in each class (seed 0)" in caption


@pytest.fixture
def own_raw(dataset: DataSet, tmp_path: Path) -> DataSet:
    """The data set with raw files of its own, to be damaged."""
    return replace(dataset, raw=shutil.copytree(dataset.raw, tmp_path / "raw"))


@pytest.mark.usefixtures("unsaved")
def test_what_cannot_be_read_any_more_is_replaced_and_named(
    toy_bundle: Path, own_raw: DataSet, tmp_path: Path
) -> None:
    before = explain(toy_bundle, own_raw, tmp_path / "1", count=2, classes=["disc"])
    gone, changed = (one.file for one in before.shown)
    (own_raw.raw / gone).unlink()
    Image.fromarray(picture("disc", 99)).save(own_raw.raw / changed)

    after = explain(toy_bundle, own_raw, tmp_path / "2", count=2, classes=["disc"])

    assert set(after.skipped) == {gone, changed}
    assert "No such file" in after.skipped[gone]
    assert "was changed since edge-trainer prepare" in after.skipped[changed]
    assert len(after.shown) == 2
    assert not {one.file for one in after.shown} & {gone, changed}


def test_nothing_is_written_where_nothing_can_be_read(
    toy_bundle: Path, own_raw: DataSet, tmp_path: Path
) -> None:
    shutil.rmtree(own_raw.raw)
    with pytest.raises(ExplainError, match="none of the micrographs can be read"):
        explain(toy_bundle, own_raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        pytest.param({"files": ["a/gone.tif"]}, "has no kept micrograph a/gone.tif", id="unknown file"),
        pytest.param({"classes": ["cube"]}, "has no class 'cube'; it has disc, stripes", id="unknown class"),
        pytest.param({"count": 0}, "0 micrographs a class were asked for", id="none"),
        pytest.param({"columns": 5}, "5 columns were asked for; 1 to 4", id="too many columns"),
    ],
)
def test_what_cannot_be_shown_is_said(
    asked: dict[str, Any], told: str, toy_bundle: Path, dataset: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(ExplainError, match=told):
        explain(toy_bundle, dataset, tmp_path, **asked)


def test_a_part_without_micrographs_is_said(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    only_train = replace(dataset, crops=dataset.train)
    with pytest.raises(ExplainError, match="has no micrograph of disc, stripes in the part test"):
        explain(toy_bundle, only_train, tmp_path)


def test_a_bundle_that_does_not_know_the_classes(dataset: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match="does not know the classes disc, stripes"):
        explain(tiny_bundle(tmp_path / "other-1"), dataset, tmp_path)


# --- the page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, ["disc", "✓ right", "answer: disc (97 %, accepted)", "0 – 4.2"], id="right"),
        pytest.param(
            {"answer": "stripes", "decision": "abstain", "reasons": ("low_confidence",), "probability": 0.5},
            ["disc", "✗ wrong", "answer: stripes (50 %, abstained): low confidence"],
            id="wrong",
        ),
        pytest.param(
            {"decision": "ungated", "probability": 0.999},
            ["answer: disc (> 99 %, not gated)"],
            id="not gated",
        ),
        pytest.param(
            {"evidence_scale": None, "absence": "no localised evidence for disc"},
            ["no localised evidence for disc"],
            id="no evidence",
        ),
        pytest.param({"panel_pixel_nm": None}, ["not calibrated"], id="not calibrated"),
    ],
)
def test_words_of_a_pair(changes: dict[str, Any], words: list[str], written: list[str]) -> None:
    with figure_style():
        draw_pages([an_exhibit(**changes)], 2)
    assert set(words) <= set(written)


@pytest.mark.parametrize(
    ("pixel_nm", "bar"),
    [
        pytest.param((0.5, 0.5), "10 nm", id="nm"),
        pytest.param((50.0, 50.0), "1 µm", id="µm"),
        pytest.param((0.25, 0.5), "10 nm horizontally", id="anisotropic"),
        pytest.param(None, "", id="unknown"),
    ],
)
def test_the_scale_bar_is_round_and_as_long_as_it_says(pixel_nm: Any, bar: str) -> None:
    with figure_style():
        (page,), bars = draw_pages([an_exhibit(panel_pixel_nm=pixel_nm)], 1)
    assert bars == [bar]
    drawn = [patch.get_width() for axes in page.axes for patch in axes.patches]
    assert drawn == ([] if pixel_nm is None else [20.0])


def test_long_names_stay_within_their_pair() -> None:
    long = "faceted platelets on holey carbon, as received " * 3
    exhibit = an_exhibit(label=long, answer=f"other {long}")
    with figure_style():
        (page,), _ = draw_pages([exhibit] * 4, 4)
        page.set_dpi(300)
        page.draw_without_rendering()
    pair = 2 * panel_mm(4) + 1
    heads = [text for text in page.texts if "…" in text.get_text()]
    assert len(heads) == 8
    for text in heads:
        box = text.get_window_extent()
        assert (box.x1 - box.x0) / 300 * 25.4 <= 1.005 * pair


def test_pages_of_an_earlier_figure_go(
    toy_bundle: Path, dataset: DataSet, tmp_path: Path, unsaved: None
) -> None:
    (tmp_path / "explain-2.png").write_bytes(b"old")
    (tmp_path / "other.png").write_bytes(b"mine")
    explain(toy_bundle, dataset, tmp_path, count=1)
    assert [path.name for path in tmp_path.glob("*.png")] == ["other.png"]


def test_pages_end_where_a_journals_page_does() -> None:
    tall = [an_exhibit(plain=np.zeros((60, 40, 3), np.uint8), covered=np.zeros((60, 40, 3), np.uint8))] * 11
    with figure_style():
        pages, bars = draw_pages(tall, 2)
    heights = [page.get_size_inches()[1] * 25.4 for page in pages]
    assert len(pages) == 2
    assert max(heights) <= 240
    assert len(bars) == 11


def test_letters_go_on_after_z() -> None:
    assert [letter(index) for index in (0, 25, 26, 27, 52, 702)] == ["a", "z", "aa", "ab", "ba", "aaa"]


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_pairs_fill_the_width(columns: int) -> None:
    pair = 2 * panel_mm(columns) + 1
    assert columns * pair + (columns - 1) * 5 + 2 == pytest.approx(180)
