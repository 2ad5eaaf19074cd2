"""The figure for a paper: what the agent sees and says, told apart, found again, fit to print."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from functools import partial
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
from edge_agent.model_bundle import UNKNOWN_DATASET, open_bundle
from trainer.exporting import cam_graph
from trainer.scoring import occlusion
from trainer.showing import explain as module
from trainer.showing import explain_maps, explain_page
from trainer.showing.explain import ExplainError, explain
from trainer.showing.explain_maps import map_maker
from trainer.showing.explain_page import Exhibit, Shade, draw_pages, letter, panel_mm
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
        shades=(a_shade(),),
        panel_pixel_nm=(0.5, 0.5),
        pixel_size_nm=(0.5, 0.5),
    )
    return replace(exhibit, **changes)


def a_shade(label: str = "disc", probability: float = 0.97, **changes: Any) -> Shade:
    shade = Shade(label, probability, np.full((40, 60, 3), 120, np.uint8), scale=4.25, absence="")
    return replace(shade, **changes)


def some_classes(count: int) -> tuple[Shade, ...]:
    return tuple(a_shade(f"class {index}", 1 / count) for index in range(count))


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
        micrograph = read_micrograph(dataset.raw / one.file)
        prediction = classifier.classify(micrograph)
        assert (one.answer, one.probability) == (prediction.label, round(prediction.probability, 4))
        assert one.decision == decide(prediction, micrograph, bundle.manifest).decision
        assert one.right == (one.label == prediction.label)
    assert {one.right for one in found.shown} == {True, False}


def test_the_panels_are_those_of_the_agents_figure(toy_bundle: Path, dataset: DataSet) -> None:
    classifier = Classifier(open_bundle(toy_bundle))
    crop = next(crop for crop in dataset.test if crop.shape_px == (72, 88))
    micrograph = read_micrograph(dataset.raw / crop.source)
    figure = draw_heatmap(micrograph, classifier.classify(micrograph), Decision("ungated", ()))
    whole = np.asarray(Image.open(io.BytesIO(figure)))
    longest = 494  # how wide two panels are on 1024 px
    maker = map_maker(classifier.bundle, "bundle", None)
    exhibit = module._exhibit(maker, crop, micrograph, longest / explain_page.PANEL_DPI * 25.4)
    rows, columns = exhibit.plain.shape[:2]
    places = [
        x
        for x in range(whole.shape[1] - columns + 1)
        for panel in (exhibit.plain, exhibit.shades[0].pixels)
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


# --- other maps -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with no map in its graph."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny-1", labels=LABELS, form="no map")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Occlusion maps of three places a side."""
    every = occlusion.occlude_every_class
    monkeypatch.setattr(explain_maps, "occlude_every_class", partial(every, cells=3))


@pytest.mark.usefixtures("unsaved")
def test_every_classs_map_is_shown_and_listed(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    found = explain(toy_bundle, dataset, tmp_path, count=2, map_of="every")

    assert found.map_of == "every"
    assert [(one.panel, one.map_of) for one in found.shown] == [
        (panel, label) for panel in "abcd" for label in LABELS
    ]
    classifier = Classifier(open_bundle(toy_bundle))
    for one in found.shown:
        seen = classifier.classify(read_micrograph(dataset.raw / one.file))
        assert one.answer == seen.label
        assert one.map_probability == round(seen.probabilities[LABELS.index(one.map_of)], 4)
    for panel in "abcd":  # one scale, where there is anything to draw
        assert len({one.evidence_scale for one in found.shown if one.panel == panel} - {None}) == 1
    assert found.caption.count("(a) disc: answered") == 1
    assert "for each class, with its probability above" in found.caption
    rows = list(csv.DictReader((tmp_path / "explain.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["map_of"] for row in rows] == [*LABELS] * 4


@pytest.mark.usefixtures("unsaved")
def test_a_named_classs_map_is_shown(
    toy_bundle: Path, dataset: DataSet, tmp_path: Path, written: list[str]
) -> None:
    found = explain(toy_bundle, dataset, tmp_path, map_of="stripes")

    assert {one.map_of for one in found.shown} == {"stripes"}
    assert "found in them for the class stripes (right; class activation map (CAM)" in found.caption
    others = [one for one in found.shown if one.answer == "disc"]
    assert sum("; map: stripes (" in words for words in written) == len(others)


def test_the_outline_on_the_micrograph_is_the_answers(toy_bundle: Path, dataset: DataSet) -> None:
    bundle = open_bundle(toy_bundle)
    for crop in dataset.test:
        micrograph = read_micrograph(dataset.raw / crop.source)
        every, own = (
            module._exhibit(map_maker(bundle, "bundle", of), crop, micrograph, 20.0) for of in ("every", None)
        )
        place = [shade.label for shade in every.shades].index(own.answer)
        if every.shades[place].scale == own.shades[0].scale:
            assert np.array_equal(every.plain, own.plain)
            assert np.array_equal(every.shades[place].pixels, own.shades[0].pixels)
            break
    else:
        pytest.fail("no micrograph whose answer has the strongest map")


@pytest.mark.usefixtures("unsaved", "quick")
@pytest.mark.parametrize(
    ("method", "reason"),
    [("bundle", "; the graph of this network computes no map)"), ("occlusion", " px)")],
)
def test_a_bundle_without_a_map_is_shown_by_occlusion(
    mapless: Path, method: Any, reason: str, dataset: DataSet, tmp_path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []
    found = explain(
        mapless, dataset, tmp_path, count=1, method=method, progress=lambda *call: calls.append(call)
    )

    assert (found.method, found.unit) == ("occlusion", "log-odds lost")
    assert found.settings.startswith("patches 4")
    assert (
        f"occlusion map: what the log-odds of the class lose where a place is hidden, {found.settings}"
        in (found.caption)
    )
    assert reason in found.caption
    assert ("hidden", 9, 9) in calls


@pytest.mark.usefixtures("unsaved", "quick")
def test_occlusion_gives_the_same_answers(
    toy_bundle: Path, mapless: Path, dataset: DataSet, tmp_path: Path
) -> None:
    own = explain(toy_bundle, dataset, tmp_path, count=1, method="occlusion", map_of="every")
    other = explain(mapless, dataset, tmp_path, count=1, map_of="every")
    answers = explain(toy_bundle, dataset, tmp_path, count=1)

    assert own.shown == other.shown
    assert {(one.panel, one.answer, one.probability) for one in own.shown} == {
        (one.panel, one.answer, one.probability) for one in answers.shown
    }
    assert "computes no map" not in own.caption


@pytest.mark.usefixtures("unsaved")
def test_another_map_of_the_same_graph(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    """Where the pooling averages, the derivative is the same at every place: Grad-CAM is CAM but for its offset."""
    found = explain(toy_bundle, dataset, tmp_path, count=1, method="gradcam")

    assert (found.method, found.unit) == ("gradcam", "")
    assert "(right; Grad-CAM, derived from the logit before the softmax)" in found.caption
    assert [one.answer for one in found.shown] == [
        one.answer for one in explain(toy_bundle, dataset, tmp_path, count=1).shown
    ]


def test_a_map_that_has_no_closed_form_is_refused(
    toy_bundle: Path, dataset: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise cam_graph.GraphError("the head attends to all places")

    monkeypatch.setattr(cam_graph, "by_method", refused)
    with pytest.raises(ExplainError) as told:
        explain(toy_bundle, dataset, tmp_path, method="hirescam")
    assert str(told.value) == (
        f"{toy_bundle}: has no map by HiResCAM (the head attends to all places); "
        "--method occlusion shows any network"
    )


def test_a_map_of_an_unknown_class_is_refused(toy_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    with pytest.raises(ExplainError) as told:
        explain(toy_bundle, dataset, tmp_path, map_of="cube")
    assert str(told.value) == (
        f"{toy_bundle}: knows no class 'cube'; it has disc, stripes (or every, for all of them)"
    )


# --- the page ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, ["disc", "✓ right", "answer: disc (97 %, accepted)", "0 – 4.2"], id="right"),
        pytest.param(
            {
                "answer": "stripes",
                "decision": "abstain",
                "reasons": ("low_confidence",),
                "probability": 0.5,
                "shades": (a_shade("stripes", 0.5),),
            },
            ["disc", "✗ wrong", "answer: stripes (50 %, abstained): low confidence"],
            id="wrong",
        ),
        pytest.param(
            {"decision": "ungated", "probability": 0.999},
            ["answer: disc (> 99 %, not gated)"],
            id="not gated",
        ),
        pytest.param(
            {"shades": (a_shade(scale=None, absence="no localised evidence for disc"),)},
            ["no localised evidence for disc"],
            id="no evidence",
        ),
        pytest.param(
            {"shades": (a_shade("stripes", 0.03),)},
            ["answer: disc (97 %, accepted); map: stripes (3 %)"],
            id="another class's map",
        ),
        pytest.param(
            {"shades": (a_shade(), a_shade("stripes", 0.001, scale=None, absence="no evidence for stripes"))},
            ["disc", "97 %", "0 – 4.2", "stripes", "< 1 %", "no evidence", "legend"],
            id="every class",
        ),
        pytest.param({"panel_pixel_nm": None}, ["not calibrated"], id="not calibrated"),
    ],
)
def test_words_of_a_pair(changes: dict[str, Any], words: list[str], written: list[str]) -> None:
    with figure_style():
        draw_pages([an_exhibit(**changes)], 2, "legend")
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
        (page,), bars = draw_pages([an_exhibit(panel_pixel_nm=pixel_nm)], 1, "")
    assert bars == [bar]
    drawn = [patch.get_width() for axes in page.axes for patch in axes.patches]
    assert drawn == ([] if pixel_nm is None else [20.0])


def test_long_names_stay_within_their_pair() -> None:
    long = "faceted platelets on holey carbon, as received " * 3
    exhibit = an_exhibit(label=long, answer=f"other {long}")
    with figure_style():
        (page,), _ = draw_pages([exhibit] * 4, 4, "")
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
    upright = np.zeros((60, 40, 3), np.uint8)
    tall = [an_exhibit(plain=upright, shades=(a_shade(pixels=upright),))] * 11
    with figure_style():
        pages, bars = draw_pages(tall, 2, "")
    heights = [page.get_size_inches()[1] * 25.4 for page in pages]
    assert len(pages) == 2
    assert max(heights) <= 240
    assert len(bars) == 11


def test_letters_go_on_after_z() -> None:
    assert [letter(index) for index in (0, 25, 26, 27, 52, 702)] == ["a", "z", "aa", "ab", "ba", "aaa"]


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_maps_of_every_class_stay_on_the_page_and_apart(columns: int, classes: int) -> None:
    exhibit = an_exhibit(answer="class 1", shades=some_classes(classes))
    with figure_style():
        (page,), bars = draw_pages([exhibit], columns, "legend")
        page.set_dpi(300)
        page.draw_without_rendering()

    boxes = [axes.get_position() for axes in page.axes if axes.images][:-1]  # the last one is the colour bar
    assert len(boxes) == 1 + classes
    assert bars == ["10 nm"]
    for index, one in enumerate(boxes):
        assert 0 < one.x0 < one.x1 <= 1
        assert 0 < one.y0 < one.y1 <= 1
        for other in boxes[index + 1 :]:
            assert one.x1 < other.x0 or other.x1 < one.x0 or one.y0 > other.y1 or other.y0 > one.y1
    bold = [text.get_text() for text in page.texts if text.get_fontweight() == "bold"]
    assert "class 1" in bold
    assert "class 0" not in bold


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_maps_of_classes_fill_the_width(columns: int, classes: int) -> None:
    across = min(2 * columns, 1 + classes)
    assert across * panel_mm(columns, classes) + (across - 1) * 2.5 + 2 == pytest.approx(180)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_pairs_fill_the_width(columns: int) -> None:
    pair = 2 * panel_mm(columns) + 1
    assert columns * pair + (columns - 1) * 5 + 2 == pytest.approx(180)


@pytest.mark.usefixtures("unsaved")
def test_the_caption_says_that_a_network_was_trained_elsewhere(
    toy_bundle: Path, dataset: DataSet, tmp_path: Path
) -> None:
    copy = tmp_path / "foreign"
    shutil.copytree(toy_bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"dataset_fingerprint": UNKNOWN_DATASET}))
    caption = explain(copy, dataset, tmp_path / "out", count=1, part="test", classes=["disc"]).caption
    assert "The network was trained elsewhere." in caption
