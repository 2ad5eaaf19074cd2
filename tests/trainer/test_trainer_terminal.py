"""What a person reads: epochs, figures, progress."""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime

import pytest
import trusted

from trainer import terminal
from trainer.fitting.run_folder import Epoch
from trainer.scoring.evaluation import Evaluation, Scored, figures

LABELS = ("disc", "stripes", "neither")


def scored(label: str, predicted: str, **more: object) -> Scored:
    entry = Scored(
        file=f"{label}.png", group=label, label=label, predicted=predicted, probability=1, decision="ungated"
    )
    return entry.model_copy(update=more)


@pytest.mark.parametrize(
    ("epoch", "text"),
    [
        pytest.param(
            Epoch("head", 1, 0.51234, None, None), "head epoch 1: loss 0.5123", id="no validation part"
        ),
        pytest.param(
            Epoch("fine-tuning", 2, 0.25, 0.125, 0.9),
            "fine-tuning epoch 2: loss 0.2500, validation loss 0.1250, class-balanced accuracy 0.900",
            id="with one",
        ),
    ],
)
def test_an_epoch_is_a_line(epoch: Epoch, text: str) -> None:
    assert terminal.epoch_line(epoch) == text


def test_figures_are_a_table() -> None:
    entries = [scored("disc", "disc"), scored("disc", "stripes"), scored("stripes", "stripes")]
    lines = terminal.figures_table(figures(entries, LABELS, 0)).splitlines()
    assert lines[0].startswith(
        "3 micrographs in 2 groups; class-balanced accuracy 0.750 (95 % interval by group "
    )
    assert [line.split() for line in lines[1:5]] == [
        ["class", "count", "precision", "recall", "F1", "answered:", "disc,", "stripes,", "neither"],
        ["disc", "2", "1.000", "0.500", "0.667", "1", "1", "0"],
        ["stripes", "1", "0.500", "1.000", "0.667", "0", "1", "0"],
        ["neither", "0", "-", "-", "-", "0", "0", "0"],
    ]


def test_what_abstaining_buys_stands_below_the_table() -> None:
    entries = [
        scored("disc", "disc", group="a", decision="accept"),
        scored("disc", "disc", group="b", decision="accept"),
        scored("disc", "stripes", group="c", decision="accept"),
        scored("disc", "stripes", group="d", decision="abstain", reasons=("blurred", "novel")),
    ]
    assert terminal.figures_table(figures(entries, LABELS, 0)).splitlines()[-4:] == [
        "calibration error 0.408 (95 % interval by group 0.000 to 1.000), debiased",
        "accepted: 3 of 4 (75 %); accuracy 0.667 (95 % interval by group 0.000 to 1.000)",
        "abstained: blurred 1, novel 1",
        "the surest 80 %: accuracy 0.625 (95 % interval by group 0.000 to 1.000)",
    ]


def test_without_thresholds_nothing_is_said_of_accepted_ones() -> None:
    lines = terminal.figures_table(figures([scored("disc", "disc")], LABELS, 0)).splitlines()
    assert [line for line in lines if line.startswith(("accepted", "abstained"))] == []
    assert lines[-1].startswith("the surest 80 %: accuracy 1.000 (")


def test_the_map_is_held_against_chance() -> None:
    seen = {"peak_on_particle": True, "energy_on_particles": 0.75, "chance": 0.25, "particle_share": 0.125}
    text = terminal.figures_table(figures([scored("disc", "disc", **seen)], LABELS, 0))
    assert text.splitlines()[-1] == (
        "map: peak on a particle in 1.00 of 1 correct answers (chance 0.25), 0.75 of the evidence on particles "
        "(0.12 of the area)"
    )


def test_warnings_and_unread_files_are_not_left_out() -> None:
    entries = (scored("disc", "disc"),)
    result = Evaluation(
        bundle="toy-1",
        model_sha256="0",
        dataset_fingerprint="0",
        part="test",
        made=datetime(2026, 1, 1, tzinfo=UTC),
        labels=LABELS,
        figures=figures(entries, LABELS, 0),
        warnings=("leak between parts: group 'a'",),
        unreadable={"disc/a.dm3": "is empty"},
        predictions=entries,
    )
    lines = terminal.evaluation_text(result).splitlines()
    assert lines[0] == "toy-1 on test"
    assert lines[-2:] == ["warning: leak between parts: group 'a'", "not read: disc/a.dm3: is empty"]


class Terminal(io.StringIO):
    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize("tty", [False, True], ids=["a file", "a terminal"])
def test_progress_is_shown_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal(tty=tty))
    stderr = sys.stderr
    with terminal.progress() as shown:
        for done in (1, 2, 3):
            shown("augmented views", done, 3)
    written = stderr.getvalue()  # type: ignore[attr-defined]
    assert ("augmented views" in written) == tty
    assert tty or written == ""


def test_limits_and_what_they_cost_are_told_in_lines() -> None:
    record = trusted.trust_record()
    kinds = tuple(
        kind.model_copy(update={"kind": name}) for kind, name in zip(record.strangers, "abcd", strict=True)
    )
    shown = record.model_copy(update={"strangers": kinds})
    lines = terminal.trust_text(shown).splitlines()
    assert lines[0] == "measured on five grouped folds of made-up answers"
    assert lines[1].startswith("temperature 1.7: calibration error 0.")
    assert lines[1].count("(95 % interval by group 0.") == 2
    assert lines[2] == "limits: probability 0.460, novelty 1.000"
    assert lines[3].startswith("accepted: ")
    assert lines[4] == "strangers  abstained        AUROC of novelty, of confidence, of both"
    assert lines[5] == f"a          {f'{kinds[0].abstained} of 60':17}0.970  0.710  0.980"
    assert lines[-1] == "note: The made-up micrographs all come from one made-up microscope."


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param({"novelty": None}, "limits: probability 0.460, no novelty", id="no novelty"),
        pytest.param(
            {"tile_disagreement": 0.25},
            "limits: probability 0.460, novelty 1.000, disagreement of tiles 0.250",
            id="tiles",
        ),
    ],
)
def test_limits_are_told_as_they_are(changes: dict[str, float | None], text: str) -> None:
    record = trusted.trust_record()
    moved = record.model_copy(update={"thresholds": {**record.thresholds, **changes}})
    assert terminal.trust_text(moved).splitlines()[2] == text


def test_what_is_not_known_of_calibration_is_no_zero() -> None:
    record = trusted.trust_record()
    nothing = {"debiased_error": None, "debiased_error_interval": None}
    unknown = record.model_copy(update={"before": record.before.model_copy(update=nothing)})
    assert "calibration error not known before, 0." in terminal.trust_text(unknown)
