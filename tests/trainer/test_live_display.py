"""What is seen of a training run: on terminals of every size, without colours, and where there is no terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from trainer.fitting.live_display import LiveDisplay, PlainLines, training_display
from trainer.fitting.run_folder import Epoch
from trainer.fitting.steps import Step

THREE = ("faceted", "rod", "round")
TWELVE = (
    "nanoparticles on lacey carbon, agglomerated", "rods", "Å lattice", "石墨烯", "films", "fibres", "[bold]sponge",
    "biological", "tips", "patterned surface", "MEMS devices and electrodes", "powder",
)  # fmt: skip


def history(labels: tuple[str, ...]) -> list[Epoch]:
    """Three epochs, the second the best; the first class is answered as the last one time in four."""
    rows = [[12 if row == column else 0 for column in range(len(labels))] for row in range(len(labels))]
    rows[0][-1] = 4
    confusion = tuple(map(tuple, rows))
    return [
        Epoch("head", 1, 1.0, 0.9, 0.5, confusion=confusion),
        Epoch("fine-tuning", 1, 0.5, 0.4, 0.75, confusion=confusion),
        Epoch("fine-tuning", 2, 0.25, 0.6, 0.7, confusion=confusion),
    ]


def display(labels: tuple[str, ...] = THREE) -> LiveDisplay:
    """In the third epoch of ten, 12 of 30 steps done, at 2.5 steps a second."""
    times = iter([0.0, 4.0])
    shown = LiveDisplay(labels, history(labels), clock=lambda: next(times))
    shown.watched(Step("fine-tuning", 3, 10, 2, 30, 0.3))
    shown.watched(Step("fine-tuning", 3, 10, 12, 30, 0.2))
    return shown


def drawn(shown: LiveDisplay, width: int = 80, height: int = 24, **more: object) -> list[str]:
    console = Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, record=True, **more
    )  # type: ignore[arg-type]
    console.print(shown)
    return console.export_text().splitlines()


def test_a_terminal_shows_stage_rate_curves_best_epoch_and_confusion() -> None:
    text = [line.rstrip() for line in drawn(display())]
    assert text[0].startswith("fine-tuning, epoch 3 of 10 ━")
    assert text[0].endswith("12/30")
    assert text[1] == "2.5 steps/s, left: epoch 0:00:07, stage 0:01:31"
    assert text[2:6] == [
        "loss                     0.2500  █▃▁",
        "validation loss          0.6000  █▁▄",
        "class-balanced accuracy  0.7000  ▁█▇",
        "lowest validation loss   0.4000   ▲ fine-tuning epoch 1",
    ]
    assert text[6:] == [
        "row: what it is, column: answer (validation, fine-tuning epoch 2)",
        "           right    1  2  3",
        "1 faceted    75%   12  ·  4",
        "2 rod       100%    · 12  ·",
        "3 round     100%    ·  · 12",
    ]


@pytest.mark.parametrize(
    "labels", [pytest.param(THREE, id="3 classes"), pytest.param(TWELVE, id="12 classes")]
)
@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [8, 14, 24, 60])
def test_it_fits_terminals_of_every_size(labels: tuple[str, ...], width: int, height: int) -> None:
    text = drawn(display(labels), width, height)
    assert len(text) <= height
    assert all(len(line) <= width for line in text)
    assert "4" in " ".join(text[6:]), "the mistake is told, in the table or in a list"


def test_twelve_classes_with_long_names_fit_a_usual_terminal() -> None:
    text = [line.rstrip() for line in drawn(display(TWELVE))]
    assert text[7].split() == ["right", *map(str, range(1, 13))]
    assert text[8] == " 1 nanoparticles on lac…   75%   12" + "  ·" * 10 + "  4"
    assert text[14].startswith(" 7 [bold]sponge "), "a name is no markup"
    assert len(text) == 20


def test_where_the_table_does_not_fit_the_largest_mistakes_are_listed() -> None:
    text = [line.rstrip() for line in drawn(display(TWELVE), width=40, height=12)]
    assert text[6:] == [
        "largest mistakes (validation, fine-tuning",
        "4 x nanoparticles on lacey carbon, aggl…",
    ] or text[6:] == ["largest mistakes (validation, fine-tuni…", "4 x nanoparticles on lacey carbon, aggl…"]


def test_without_colours_right_answers_are_bold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=80, height=24).print(display())
    assert "\x1b[1m 12\x1b[0m" in file.getvalue()
    assert "38;" not in file.getvalue()
    assert "48;" not in file.getvalue()


def test_work_before_the_first_step_is_a_bar_and_old_epochs_are_replaced() -> None:
    shown = LiveDisplay(THREE, history(THREE))
    shown.progress("augmented views", 30, 247)
    shown.told(Epoch("fine-tuning", 2, 0.2, 0.3, 0.9))
    text = [line.rstrip() for line in drawn(shown)]
    assert text[0].startswith("augmented views ")
    assert text[0].endswith("30/247")
    assert "lowest validation loss   0.3000    ▲ fine-tuning epoch 2" in text
    assert LiveDisplay(THREE, []).__rich_console__ is not None
    assert drawn(LiveDisplay(THREE, [])) == []


def test_without_a_terminal_there_is_a_line_an_epoch_and_one_each_half_minute() -> None:
    now, said = [0.0], []
    lines = PlainLines(said.append, clock=lambda: now[0])
    for seconds, news in (
        (0, lambda: lines.progress("augmented views", 1, 9)),
        (29, lambda: lines.progress("augmented views", 2, 9)),
        (31, lambda: lines.progress("augmented views", 3, 9)),
        (40, lambda: lines.watched(Step("head", 1, 2, 1, 9, 0.5))),
        (62, lambda: lines.watched(Step("head", 1, 2, 5, 9, 0.25))),
        (63, lambda: lines.told(Epoch("head", 1, 0.5, None, None))),
        (92, lambda: lines.watched(Step("head", 2, 2, 5, 9, 0.25))),
    ):
        now[0] = seconds
        news()
    assert said == [
        "augmented views: 3 of 9",
        "head epoch 1 of 2: 5 of 9 steps, loss 0.2500, 0.182 steps/s, left: epoch 0:00:22, stage 0:01:12",
        "head epoch 1: loss 0.5000",
    ]


def test_lines_go_to_a_console_that_is_no_terminal() -> None:
    file = io.StringIO()
    with training_display(("[red]", "b"), console=Console(file=file)) as shown:
        shown.told(Epoch("[red]", 1, 0.5, 0.25, 0.75))
    assert (
        file.getvalue()
        == "[red] epoch 1: loss 0.5000, validation loss 0.2500, class-balanced accuracy 0.750\n"
    )


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:]
from test_live_display import THREE, history
from trainer.fitting.live_display import training_display
from trainer.fitting.steps import Step
with training_display(THREE, history(THREE)[:1]) as shown:
    shown.watched(Step("fine-tuning", 1, 10, 12, 30, 0.2))
    for epoch in history(THREE)[1:]:
        shown.told(epoch)
print("done")
"""


def test_a_real_terminal_gets_the_picture_on_stderr_and_nothing_else() -> None:
    here = Path(__file__).parent
    controller, terminal = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(here.parent.parent), str(here)],
            stdout=subprocess.PIPE,
            stderr=terminal,
            env=environment,
            timeout=60,
            check=True,
        )
        seen = os.read(controller, 1 << 16).decode()
    finally:
        os.close(terminal)
        os.close(controller)
    assert done.stdout == b"done\n"
    assert "fine-tuning, epoch 1 of 10" in seen
    assert "lowest validation loss" in seen
    assert seen.rstrip().endswith("\x1b[?25h"), "the cursor is back"
