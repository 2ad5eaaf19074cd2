"""The run folder: whose it is, what it says, and how a damaged one is refused."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from trainer.fitting.provenance import session
from trainer.fitting.run_folder import (
    Epoch,
    Recipe,
    RunError,
    RunRecord,
    claim,
    note_session,
    read_history,
    read_record,
    versions,
    write_history,
)

if TYPE_CHECKING:
    from pathlib import Path

RECORD = RunRecord(
    recipe=Recipe(),
    seed=3,
    dataset="/data",
    dataset_fingerprint="f" * 64,
    labels=("rod", "round"),
    part={"train": 5, "validation": 1, "test": 2},
    held_out=("a", "b"),
    versions={"python": "3.11"},
    hardware="a PC",
)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    claim(tmp_path / "deep" / "run", RECORD)
    assert read_record(tmp_path / "deep" / "run") == RECORD


def test_the_same_run_may_be_claimed_again_on_another_machine(tmp_path: Path) -> None:
    claim(tmp_path / "run", RECORD)
    claim(
        tmp_path / "run",
        RECORD.model_copy(update={"hardware": "another", "versions": {}, "dataset": "/moved"}),
    )
    assert read_record(tmp_path / "run") == RECORD


@pytest.mark.parametrize(
    ("resume", "there", "said"),
    [
        pytest.param(None, False, None, id="begins"),
        pytest.param(None, True, None, id="goes on"),
        pytest.param(True, True, None, id="goes on as asked"),
        pytest.param(False, False, None, id="begins as asked"),
        pytest.param(
            True, False, r"no run to resume here \(no run\.json\); leave --resume out", id="nothing there"
        ),
        pytest.param(False, True, "holds a run already; give another --run folder", id="something there"),
    ],
)
def test_resuming_can_be_asked_for_or_forbidden(
    tmp_path: Path, resume: bool | None, there: bool, said: str | None
) -> None:
    if there:
        claim(tmp_path / "run", RECORD)
    with pytest.raises(RunError, match=said) if said else contextlib.nullcontext():
        claim(tmp_path / "run", RECORD, resume=resume)
    assert (tmp_path / "run" / "run.json").exists() == (there or said is None)


def test_sessions_of_a_run_are_noted_one_after_the_other(tmp_path: Path) -> None:
    first, second = session({"python": "3.11"}), session({"python": "3.12"})
    second = second.model_copy(update={"started": "2999-01-01T00:00:00.000+00:00"})
    claim(tmp_path, RECORD.model_copy(update={"sessions": (first,)}))
    note_session(tmp_path, first)
    note_session(tmp_path, second)
    note_session(tmp_path, second, finished=True)
    seen = read_record(tmp_path)
    assert [(one.started, one.finished) for one in seen.sessions] == [
        (first.started, False),
        (second.started, True),
    ]
    assert seen.sessions[0].seconds >= 0
    assert RECORD.seconds is None
    assert seen.model_copy(update={"sessions": ()}) == RECORD


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        pytest.param("recipe", Recipe(epochs=99), "recipe", id="recipe"),
        pytest.param("seed", 4, "seed", id="seed"),
        pytest.param("dataset_fingerprint", "0" * 64, "dataset fingerprint", id="data"),
        pytest.param("labels", ("rod", "cube"), "labels", id="labels"),
        pytest.param("held_out", (), "held out", id="fold"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(
    tmp_path: Path, field: str, value: object, named: str
) -> None:
    claim(tmp_path / "run", RECORD)
    with pytest.raises(RunError) as caught:
        claim(tmp_path / "run", RECORD.model_copy(update={field: value}))
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: holds a run with another {named}; give another --run folder, or remove this one"
    )
    assert read_record(tmp_path / "run") == RECORD


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(RunError, match="not empty and not a run folder; give another --run folder"):
        claim(tmp_path, RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_without_a_run_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json here; give the folder of a run"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"{}", id="empty object"),
        pytest.param(
            json.dumps({**RECORD.model_dump(), "format": "scopewatch.run/9"}).encode(), id="later version"
        ),
    ],
)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json: not a record of a run that this version reads") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_history_round_trip(tmp_path: Path) -> None:
    told = {"learning_rate": 1e-3, "training_accuracy": 0.75, "confusion": ((3, 0), (1, 12))}
    spent = {"seconds": 2.5, "steps_per_second": 8.0, "input_wait_share": 0.01}
    lines = (Epoch("head", 1, 0.5, None, None), Epoch("fine-tuning", 1, 0.25, 0.125, 1.0, **told, **spent))
    assert read_history(tmp_path) == ()
    write_history(tmp_path, lines)
    assert read_history(tmp_path) == lines
    assert read_history(tmp_path)[1].seconds == 2.5
    text = (tmp_path / "history.csv").read_text().splitlines()
    assert text[1:] == ["head,1,0.5,,,,,,,,", "fine-tuning,1,0.25,0.125,1.0,0.001,0.75,3 0;1 12,2.5,8.0,0.01"]


def test_the_history_of_an_older_version_is_read(tmp_path: Path) -> None:
    columns = "stage,epoch,loss,validation_loss,validation_balanced_accuracy"
    (tmp_path / "history.csv").write_text(f"{columns}\nhead,1,0.5,,\nfine-tuning,1,0.25,0.125,1.0\n")
    assert read_history(tmp_path) == (
        Epoch("head", 1, 0.5, None, None),
        Epoch("fine-tuning", 1, 0.25, 0.125, 1.0),
    )


def test_epochs_are_equal_however_long_they_took() -> None:
    epoch = Epoch("head", 1, 0.5, None, None, seconds=1.0)
    assert epoch == replace(epoch, seconds=2.0, steps_per_second=3.0, input_wait_share=0.5)
    assert epoch != replace(epoch, learning_rate=0.1)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a,b\n1,2\n", id="other columns"),
        pytest.param(
            "stage,epoch,loss,validation_loss,validation_balanced_accuracy\nhead,one,2,,\n", id="no number"
        ),
        pytest.param("stage,epoch,loss,validation_loss,validation_balanced_accuracy\nhead,1\n", id="cut off"),
    ],
)
def test_a_damaged_history_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(RunError, match=r"history\.csv: not a history that this version reads"):
        read_history(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": -1},
        {"batch": 0},
        {"learning_rate": 0},
        {"dropout": 1.0},
        {"keep": "first"},
        {"epoch": 3},
        {"head_width": -1},
        {"optimizer": "adam"},
    ],
    ids=str,
)
def test_a_senseless_recipe_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(changes)


def test_versions_name_what_decides_a_result() -> None:
    assert {"python", "tensorflow", "keras", "onnxruntime", "numpy"} <= versions().keys()
