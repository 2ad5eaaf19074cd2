"""The report's section on abstaining: limits in words, what they cost and buy, what it says without a record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from answered import Answered, answered
from test_report import made_page
from trusted import trust_record

from edge_agent.decision import REASONS
from edge_agent.model_bundle import MANIFEST, open_bundle
from trainer.exporting.bundle_writer import add_file
from trainer.scoring.evaluation import evaluate, read_evaluation
from trainer.showing.trust_section import TrustSection, trust_section
from trainer.trusting.trust_record import TRUST, TrustError, read_trust

GATES = {
    "thresholds": {"confidence": 0.34, "novelty": None, "tile_disagreement": 0.2, "acceptance": 0.9},
    "training_ranges": {
        "pixel_size_nm": [0.2, 0.6],
        "voltage_kv": [200, 200],
        "polarity": ["bright on dark", "dark on bright"],
        "all_calibrated": True,
    },
    "guards": {"least_sharpness": 0.25},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """Twelve micrographs, two answered wrong, by a bundle without thresholds; read only."""
    made = answered(tmp_path_factory.mktemp("plain"), count=12, wrong=(1, 5))
    evaluate(made.bundle, made.data, "test")
    return made


@pytest.fixture(scope="module")
def gated(plain: Answered, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    """The same with thresholds, ranges and a record of what they rest on; read only."""
    bundle = Path(shutil.copytree(plain.bundle, tmp_path_factory.mktemp("gated") / "bundle"))
    manifest = bundle / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | GATES))
    add_file(bundle, TRUST, trust_record().model_dump_json(by_alias=True).encode())
    evaluate(bundle, plain.data, "test")
    return Answered(bundle, plain.data)


def section(made: Answered) -> TrustSection:
    bundle = open_bundle(made.bundle)
    return trust_section(bundle, read_evaluation(bundle).figures, "test")


def test_the_record_is_read_as_it_was_written(gated: Answered) -> None:
    assert read_trust(open_bundle(gated.bundle)) == trust_record()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(b"{}", "made: Field required", id="empty"),
        pytest.param(b'{"schema": "scopewatch.trust/2"}', "schema: Input should be", id="another version"),
        pytest.param(b"\xff", "the whole file: Invalid JSON", id="no text"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(
    plain: Answered, tmp_path: Path, content: bytes, text: str
) -> None:
    bundle = Path(shutil.copytree(plain.bundle, tmp_path / "bundle"))
    add_file(bundle, TRUST, content)
    with pytest.raises(TrustError) as caught:
        read_trust(open_bundle(bundle))
    assert str(caught.value).startswith(f"{bundle / TRUST}: not what this version reads ({text}")
    assert str(caught.value).endswith("make the bundle again")
    assert "\n" not in str(caught.value)
    seen = section(Answered(bundle, plain.data))
    assert seen.record is None
    assert seen.absence == str(caught.value), "no reason to have no report"


def test_every_reason_is_either_limited_or_named_as_not_judged(gated: Answered, plain: Answered) -> None:
    for made in (gated, plain):
        seen = section(made)
        assert {*(one.reason for one in seen.limits), *seen.not_judged} == set(REASONS)
        assert all(one.meaning == REASONS[one.reason] for one in seen.limits)


def test_limits_are_the_manifest_s_and_counts_the_evaluation_s(gated: Answered) -> None:
    figures = read_evaluation(open_bundle(gated.bundle)).figures
    assert figures.reasons, "pixel sizes lie outside"
    seen = {one.reason: (one.limit, one.stopped) for one in section(gated).limits}
    assert {reason: limit for reason, (limit, _) in seen.items()} == {
        "too_small": "fewer than 32 px on the shorter side",
        "blank": "always",
        "saturated": "more than 25 % of the pixels",
        "uncalibrated": "always",
        "pixel_size_out_of_range": "outside 0.2 to 0.6 nm by more than a factor of 1.5",
        "voltage_out_of_range": "other than 200 kV by more than a factor of 1.1",
        "polarity_unlike_training": "other than bright on dark or dark on bright",
        "blurred": "sharpness below 0.25",
        "tiles_disagree": "disagreement above 0.2",
        "low_confidence": "probability below 0.34",
    }
    assert {reason: stopped for reason, (_, stopped) in seen.items() if stopped} == figures.reasons


def test_the_sentences_say_what_it_costs_buys_and_misses(gated: Answered) -> None:
    figures, seen = read_evaluation(open_bundle(gated.bundle)).figures, section(gated)
    assert figures.accepted is not None
    assert 0 < figures.accepted.micrographs < 12
    assert seen.sentences[0].startswith(
        f"On the test part it answered {figures.accepted.micrographs} of 12 ("
    )
    assert seen.sentences[1].startswith("Of all answers on that part the surest 80 % are right in ")
    assert seen.sentences[2].startswith(
        "Temperature and limits rest on 240 held-out micrographs in 120 groups (five grouped folds of made-up "
    )
    assert (
        "89 % of them are answered at these limits (90 % was asked for), 70 % of those rightly."
        in seen.sentences
    )
    assert seen.sentences[-1].startswith("Not every stranger is refused: of oxide coatings (SEM) 37 of 60.")
    assert seen.strangers[0].kind == "oxide coatings (SEM)", "the worst first"
    assert set(seen.charts) == {"risk coverage", "temperature", "novelty", "strangers"}


def test_without_thresholds_or_record_it_says_so(plain: Answered) -> None:
    seen = section(plain)
    assert seen.sentences[0].startswith("It carries no operating point: ")
    assert seen.absence.startswith("the bundle carries no trust.json")
    assert set(seen.charts) == {"risk coverage"}
    assert "operating point" not in seen.charts["risk coverage"]
    assert {"novel", "low_confidence", "blurred"} <= set(seen.not_judged)


def test_where_nothing_is_accepted_there_is_no_accuracy(plain: Answered) -> None:
    bundle = open_bundle(plain.bundle)
    figures = read_evaluation(bundle).figures
    manifest = bundle.manifest.model_validate({**bundle.manifest.model_dump(by_alias=True), **GATES})
    nothing = {"micrographs": 0, "coverage": 0.0, "accuracy": None, "interval": (0.0, 1.0)}
    known = figures.model_validate({**figures.model_dump(), "accepted": nothing})
    seen = trust_section(
        type(bundle)(bundle.path, manifest, bundle.model_bytes, bundle.sha256), known, "test"
    )
    assert seen.sentences[0] == "On the test part it answered none of 12: its limits do not fit them."


@pytest.mark.parametrize("which", ["gated", "plain"])
def test_the_section_stands_in_the_report(which: str, request: pytest.FixtureRequest) -> None:
    made: Answered = request.getfixturevalue(which)
    page, seen = made_page(made, made.data), section(made)
    assert "trust" in page.ids
    assert "#trust" in page.sources
    assert len(page.ids) == len(set(page.ids))
    for sentence in seen.sentences:
        assert " ".join(sentence.split()) in page.text
    assert "debiased (root mean square, less what scatter gives)" in page.text
    assert ("accepted answers" in page.text) == (which == "gated")
    assert ("Not judged, as this bundle carries no limit for it: " + ", ".join(seen.not_judged)) in page.text
    if which == "gated":
        assert "The made-up micrographs all come from one made-up microscope." in page.text
        assert "where it can tell them; When it abstains says how often it cannot." in page.text
    else:
        assert "What its limits rest on is not known: the bundle carries no trust.json" in page.text
