"""The report's section on maps: figures, charts, pictures, and what it says where they are missing."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from answered import Answered, answered
from test_report import made_page

from edge_agent.model_bundle import open_bundle
from trainer.exporting.bundle_writer import add_file
from trainer.scoring.evaluation import evaluate
from trainer.scoring.faithfulness import measure_faithfulness
from trainer.scoring.faithfulness_record import FAITHFULNESS
from trainer.scoring.map_verdicts import limits, sentences
from trainer.showing.faithfulness_section import faithfulness_section


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Five micrographs, one answered wrong, evaluated and measured with cam and occlusion; read only."""
    made = answered(tmp_path_factory.mktemp("section"), count=5, wrong=(1,))
    evaluate(made.bundle, made.data, "test")
    measure_faithfulness(made.bundle, made.data, "test", methods=("cam", "occlusion"))
    return made


@pytest.fixture
def made(shared: Answered, tmp_path: Path) -> Answered:
    """The same with a bundle to be changed."""
    return Answered(Path(shutil.copytree(shared.bundle, tmp_path / "bundle")), shared.data)


def test_the_section_holds_figures_charts_pictures_and_sentences(shared: Answered) -> None:
    steps: list[tuple[str, int, int]] = []
    seen = faithfulness_section(open_bundle(shared.bundle), shared.data, lambda *step: steps.append(step))
    assert seen.result is not None
    assert [title for title, _ in seen.rows] == ["cam", "occlusion", "bump in the middle", "noise"]
    assert seen.sentences == sentences(seen.result)
    assert seen.limits == limits(seen.result)
    assert not seen.pointed, "there were no masks"
    assert set(seen.charts) == {"deletion", "forgetting"}
    for svg in seen.charts.values():
        ElementTree.fromstring(svg)
    assert all(title in seen.charts["deletion"] for title, _ in seen.rows)
    assert "occlusion" not in seen.charts["forgetting"], "its weights were not drawn anew"
    assert [list(one.panels) for one in seen.drawn] == [["micrograph", "cam", "occlusion"]] * 5
    pictures = [uri for one in seen.drawn for uri in one.panels.values()]
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in pictures)
    assert len(set(pictures)) > 5, "maps are not the plain micrograph"
    assert steps[-1] == ("maps", 5, 5)


def test_the_section_stands_in_the_report(shared: Answered) -> None:
    page = made_page(shared, shared.data)
    assert "faithful" in page.ids
    assert "#faithful" in page.sources
    assert "Is the map faithful?" in page.text
    result = faithfulness_section(open_bundle(shared.bundle), None).result
    assert result is not None
    for sentence in (*sentences(result), *limits(result)):
        assert " ".join(sentence.split()) in page.text
    assert f"5 of 5 micrographs of the test part, in 3 groups; {result.right} answered right" in page.text
    assert "bump in the middle knows nothing" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_a_bundle_that_was_not_measured_says_how_to(tmp_path: Path) -> None:
    made = answered(tmp_path, count=2)
    evaluate(made.bundle, made.data, "test")
    page = made_page(made, made.data)
    assert "Not known: it was not measured; edge-trainer faithfulness BUNDLE DATASET does" in page.text


def test_a_record_that_cannot_be_read_is_no_reason_to_have_no_report(made: Answered) -> None:
    add_file(made.bundle, FAITHFULNESS, b"{}")
    seen = faithfulness_section(open_bundle(made.bundle), made.data)
    assert seen.result is None
    assert "not what this version reads" in seen.absence
    assert "Not known: " in made_page(made, made.data).text


def test_without_its_micrographs_there_are_figures_and_no_pictures(made: Answered, tmp_path: Path) -> None:
    bundle = open_bundle(made.bundle)
    assert faithfulness_section(bundle, None).pictures_absence == "the data set is not there"
    other = faithfulness_section(bundle, replace(made.data, fingerprint="other"))
    assert other.drawn == []
    assert other.pictures_absence.startswith("the maps were measured on another data set (")
    assert other.charts
    moved = replace(made.data, raw=Path(shutil.copytree(made.data.raw, tmp_path / "raw")))
    seen = faithfulness_section(bundle, made.data)
    gone = seen.drawn[2].example.file
    (moved.raw / gone).unlink()
    third = faithfulness_section(bundle, moved).drawn[2]
    assert third.panels == {}
    assert "No such file" in third.absence
