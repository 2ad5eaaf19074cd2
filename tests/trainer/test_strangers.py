"""Strangers: what becomes of them, kind by kind, and of files that are no pictures."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from toys import picture

from edge_agent.model_bundle import open_bundle
from edge_agent.simulated_strangers import STRANGERS
from trainer.scoring.evaluation import sources_of
from trainer.trusting import strangers as module
from trainer.trusting.fitted import Fitted, fit
from trainer.trusting.held_out import held_out_part, learnt, observer_of
from trainer.trusting.operating_point import Goal
from trainer.trusting.strangers import Strangers, auroc, measured_strangers
from trainer.trusting.trust_record import TrustError

if TYPE_CHECKING:
    from pathlib import Path

    from limited import Limited

    from trainer.trusting.observing import Observer
    from trainer.trusting.trust_record import StrangerKind


def silent(*_: object) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def observer(limited: Limited) -> Observer:
    return observer_of(open_bundle(limited.bare))


@pytest.fixture(scope="module")
def fitted(limited: Limited, observer: Observer) -> Fitted:
    lesson = learnt(observer, limited.dataset, sources_of(limited.dataset.train), silent)
    held = held_out_part(observer, lesson, limited.dataset, "validation", silent)
    return fit(open_bundle(limited.bare).manifest, lesson, held, Goal())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SIDE_PX", 128)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two kinds, one of them in folders below, a picture outside any, and files that are none of it."""
    root = tmp_path / "lab strangers"
    for name in ("ice/a.png", "ice/grid 3/b.TIF", "ice/grid 3/deep/c.png", "carbon/d.png", "e.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture("stripes", len(name))).save(root / name)
    shutil.copy(root / "e.png", root / "ice" / "a.png.heatmap.png")
    shutil.copy(root / "e.png", root / "ice" / ".hidden.png")
    (root / "ice" / "a.png.json").write_text("{}")
    (root / "ice" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more than that")
    (root / "carbon" / "text.dm3").write_text("this is no micrograph, and long enough to say so")
    return root


def kinds(found: tuple[StrangerKind, ...]) -> dict[str, int]:
    return {one.kind: one.pictures for one in found}


# --- a folder of the lab's own --------------------------------------------------------------------


def test_each_sub_folder_is_a_kind_and_what_is_no_picture_is_noted(
    observer: Observer, fitted: Fitted, folder: Path
) -> None:
    steps: list[tuple[str, int, int]] = []
    found, unread = measured_strangers(
        observer, fitted, Strangers(folder, drawn=0), 0, lambda *step: steps.append(step)
    )
    assert kinds(found) == {"carbon": 1, "ice": 3, "lab strangers": 1}
    assert {one.source for one in found} == {"given"}
    assert len(unread) == 2
    assert all(one.startswith("stranger not read, so never classified: ") for one in unread)
    assert [re.findall(r"text\.dm3|broken\.png", one)[0] for one in unread] == ["text.dm3", "broken.png"]
    assert steps[0] == ("strangers", 0, 7)
    assert steps[-1] == ("strangers", 7, 7)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(lambda root: None, "no folder of strangers here; give one with a sub-folder", id="none"),
        pytest.param(lambda root: root.mkdir(), r"holds no pictures \(\.dm3, \.dm4, \.jpeg", id="empty"),
        pytest.param(lambda root: root.write_text(""), "no folder of strangers here", id="a file"),
    ],
)
def test_a_folder_without_pictures_is_an_error(
    observer: Observer, fitted: Fitted, tmp_path: Path, make: object, text: str
) -> None:
    make(tmp_path / "s")  # type: ignore[operator]
    with pytest.raises(TrustError, match=text):
        measured_strangers(observer, fitted, Strangers(tmp_path / "s", drawn=0), 0, silent)


def test_good_pictures_in_the_folder_are_accepted_like_others(
    observer: Observer, fitted: Fitted, limited: Limited, tmp_path: Path
) -> None:
    for source in sources_of(limited.dataset.test):
        (tmp_path / "s" / "good").mkdir(parents=True, exist_ok=True)
        name = source.file.replace("/", " ")
        shutil.copy(limited.dataset.raw / source.file, tmp_path / "s" / "good" / name)
    ((good,), _) = measured_strangers(observer, fitted, Strangers(tmp_path / "s", drawn=0), 0, silent)
    assert good.abstained <= 0.25 * good.pictures
    assert good.novelty_auroc is not None
    assert good.combined_auroc is not None
    assert 0.2 < good.novelty_auroc < 0.8
    assert 0.2 < good.combined_auroc < 0.8


# --- simulated ones -------------------------------------------------------------------------------


def test_every_simulated_kind_is_drawn_anew_by_the_seed(observer: Observer, fitted: Fitted) -> None:
    one, again, other = (
        measured_strangers(observer, fitted, Strangers(drawn=1), seed, silent)[0] for seed in (1, 1, 2)
    )
    assert kinds(one) == dict.fromkeys(STRANGERS, 1)
    assert one == again
    assert [kind.confidence for kind in one] != [kind.confidence for kind in other]


def test_what_is_recorded_of_a_kind_is_what_the_agent_decides(limited: Limited) -> None:
    for kind in limited.record.strangers:
        assert len(kind.confidence) == len(kind.novelty) == len(kind.guards) == kind.pictures == 2
        assert kind.abstained <= kind.pictures
        assert sum(map(bool, kind.guards)) <= kind.abstained
        for reason in {reason for why in kind.guards for reason in why}:
            assert kind.reasons[reason] == sum(reason in why for why in kind.guards)
        assert kind.tile_disagreement == ()
    blank = next(kind for kind in limited.record.strangers if kind.kind == "blank")
    assert (blank.abstained, blank.reasons["blank"], blank.combined_auroc) == (2, 2, 1.0)


def test_none_drawn_and_none_given_is_no_strangers(observer: Observer, fitted: Fitted) -> None:
    assert measured_strangers(observer, fitted, Strangers(drawn=0), 0, silent) == ((), ())


# --- area under the ROC curve ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_area_is_scikit_learn_s_ties_and_all(seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    good, strange = random.integers(0, levels, 60), random.integers(0, levels, 25) + levels // 5
    truth = np.repeat([0, 1], [60, 25])
    expected = roc_auc_score(truth, np.concatenate([good, strange]))
    assert auroc(list(good), list(strange)) == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("good", "strange", "expected"),
    [
        pytest.param([1, 2], [3, 4], 1.0, id="all above"),
        pytest.param([3, 4], [1, 2], 0.0, id="all below"),
        pytest.param([1, 1], [1], 0.5, id="all equal"),
        pytest.param([1, None], [2], None, id="one is not known"),
        pytest.param([1], [None], None, id="of a stranger"),
        pytest.param([], [1], None, id="nothing to compare with"),
        pytest.param([1], [], None, id="no stranger"),
    ],
)
def test_areas_at_the_ends(
    good: list[float | None], strange: list[float | None], expected: float | None
) -> None:
    assert auroc(good, strange) == expected
