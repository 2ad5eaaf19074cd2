"""What a person reads: every finding in words, and nothing from a file name ever steers the terminal."""

from __future__ import annotations

import io
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import terminal
from edge_agent.batch import Tally
from edge_agent.sidecar import Finding
from edge_agent.status import AgentStatus, ConfigStatus, DriftStatus, LastFile, WorkerStatus
from edge_agent.terminal import (
    counts_text,
    finding_line,
    finding_text,
    printable,
    progress,
    say,
    status_lines,
)

PATH = Path("/d/a.dm3")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain Å 粒子 😀.dm3", "plain Å 粒子 😀.dm3", id="harmless"),
        pytest.param("a\x1b[2J.dm3", "a\\x1b[2J.dm3", id="escape sequence"),
        pytest.param("a\r\nb\tc", "a\\r\\nb\\tc", id="line breaks and tabs"),
        pytest.param("gnp.\u202e3md", "gnp.\\u202e3md", id="right-to-left override"),
        pytest.param("caf\udce9", "caf\\udce9", id="no UTF-8"),
        pytest.param("\x9b31m", "\\x9b31m", id="C1 control"),
    ],
)
def test_nothing_in_a_name_steers_the_terminal(text, shown):
    assert printable(text) == shown


@given(st.text())
def test_what_is_printed_is_always_printable_and_encodable(text):
    shown = printable(text)

    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        pytest.param(
            Finding(
                PATH, "classified", label="round", probability=0.974, decision="ungated", milliseconds=212.4
            ),
            "round 0.97  ungated  212 ms",
            id="without thresholds",
        ),
        pytest.param(
            Finding(PATH, "classified", label="round", probability=0.974, decision="accept"),
            "round 0.97  accepted  0 ms",
            id="accepted",
        ),
        pytest.param(
            Finding(
                PATH,
                "classified",
                label="rod",
                probability=0.5,
                decision="abstain",
                reasons=("blank", "novel"),
            ),
            "no answer: blank, novel (leans to rod 0.50)  0 ms",
            id="abstained",
        ),
        pytest.param(
            Finding(
                PATH,
                "classified",
                label="round",
                probability=0.561,
                decision="abstain",
                reasons=("pixel_size_out_of_range", "low_confidence"),
                milliseconds=99.9,
            ),
            "no answer: pixel size out of range, low confidence (leans to round 0.56)  100 ms",
            id="reasons in words",
        ),
        pytest.param(
            Finding(PATH, "classified", label="my_class", probability=0.9, decision="abstain"),
            "no answer: no reason was kept (leans to my_class 0.90)  0 ms",
            id="abstained, nobody says why",
        ),
        pytest.param(
            Finding(PATH, "classified", label="rod", probability=0.9995, decision="accept"),
            "rod > 0.99  accepted  0 ms",
            id="never quite certain",
        ),
        pytest.param(Finding(PATH, "not_an_image", "a spectrum"), "not an image: a spectrum", id="no image"),
        pytest.param(Finding(PATH, "unreadable", "cut off"), "UNREADABLE: cut off", id="unreadable"),
        pytest.param(Finding(PATH, "crashed", "SIGSEGV"), "FAILED: SIGSEGV", id="crashed"),
        pytest.param(Finding(PATH, "interrupted", "slow"), "POSTPONED: slow", id="postponed"),
        pytest.param(Finding(PATH, "quarantined", "3 deaths"), "QUARANTINED: 3 deaths", id="quarantined"),
        pytest.param(Finding(PATH, "vanished"), "vanished", id="without a reason"),
    ],
)
def test_a_finding_in_words(finding, text):
    assert finding_text(finding) == text
    assert finding_line(finding, PATH) == f"/d/a.dm3  {text}"


def answered(decision: str, label: str, *reasons: str) -> Finding:
    return Finding(PATH, "classified", label=label, probability=0.5, decision=decision, reasons=reasons)


@pytest.mark.parametrize(
    ("findings", "text"),
    [
        pytest.param([], "none", id="nothing"),
        pytest.param([Finding(PATH, "not_an_image")], "1 not an image", id="one"),
        pytest.param(
            [
                Finding(PATH, "unreadable"),
                Finding(PATH, "not_an_image"),
                answered("ungated", "my_rod"),
                answered("ungated", "round"),
                answered("ungated", "round"),
            ],
            "3 classified (3 ungated: 2 round, 1 my_rod), 1 not an image, 1 unreadable",
            id="classified first",
        ),
        pytest.param(
            [
                answered("accept", "round"),
                answered("abstain", "round", "novel"),
                answered("abstain", "rod", "low_confidence", "novel"),
            ],
            "3 classified (1 accepted: 1 round; 2 without an answer: 2 novel, 1 low confidence)",
            id="an abstention is counted by its reasons, not by its label",
        ),
        pytest.param(
            [answered("abstain", "round", "blank")],
            "1 classified (1 without an answer: 1 blank)",
            id="no answer at all",
        ),
    ],
)
def test_counts_in_words(findings, text):
    tally = Tally()
    for finding in findings:
        tally.add(finding)

    assert counts_text(tally) == text


def seen(quantity, day, files, below=0, above=0, *, mean=0.2, usual=(0.05, 0.25), left=False):
    return DriftStatus(
        quantity=quantity,
        day=date(2026, 5, day),
        files=files,
        mean=mean,
        standard_deviation=0.01,
        below=below,
        above=above,
        usual=usual,
        left=left,
    )


def numbers(drift):
    return AgentStatus(
        version="0.5.0",
        pid=1,
        started=datetime(2026, 5, 4, tzinfo=UTC),
        updated=datetime(2026, 5, 4, 1, tzinfo=UTC),
        state="/state",
        folders=(),
        output=None,
        disks=(),
        paused=None,
        model=None,
        worker=WorkerStatus(pid=None, starts=0, deaths=0, recycled=0, interrupted=0, trouble=None),
        seen=0,
        waiting=0,
        oldest_waiting_seconds=None,
        done={},
        since_start={},
        decided={},
        incomplete=0,
        stalled=0,
        failing=0,
        orphaned=0,
        scans=0,
        last_scan_seconds=None,
        journal="kept",
        last=None,
        troubles=(),
        drift=drift,
    )


CONTRAST_LEFT = "contrast: 18 of 25 files of 2026-05-03 above the usual 0.05 to 0.25, mean 0.41"


@pytest.mark.parametrize(
    ("drift", "lines"),
    [
        pytest.param([], ["drift         no files yet"], id="no files"),
        pytest.param(
            [
                seen("contrast", 4, 3, left=None),
                seen("pixel_size_nm", 4, 2, mean=0.12345, usual=None, left=None),
            ],
            ["drift         too few files yet; 3 files of 2026-05-04: contrast 0.2, pixel size nm 0.123"],
            id="few files",
        ),
        pytest.param(
            [seen("contrast", 4, 30, usual=None, left=None)],
            ["drift         the model knows no usual range; 30 files of 2026-05-04: contrast 0.2"],
            id="nothing known",
        ),
        pytest.param(
            [seen("contrast", 4, 30, 2), seen("contrast", 3, 30, 2, mean=0.1)],
            ["drift         none; 30 files of 2026-05-04: contrast 0.2"],
            id="as usual",
        ),
        pytest.param(
            [seen("confidence", 3, 25), seen("contrast", 3, 25, 0, 18, mean=0.41, left=True)],
            [f"DRIFT         {CONTRAST_LEFT}"],
            id="one has left",
        ),
        pytest.param(
            [seen("contrast", 4, 5, left=None), seen("contrast", 3, 25, 0, 18, mean=0.41, left=True)],
            [f"DRIFT         {CONTRAST_LEFT}"],
            id="yesterday, and today is too young",
        ),
        pytest.param(
            [seen("contrast", 4, 25), seen("contrast", 3, 25, 0, 18, mean=0.41, left=True)],
            ["drift         none; 25 files of 2026-05-04: contrast 0.2"],
            id="yesterday, but not today",
        ),
        pytest.param(
            [
                seen("confidence", 4, 20, 20, usual=(0.8, 1.0), mean=0.3, left=True),
                seen("contrast", 3, 25, 0, 18, mean=0.41, left=True),
            ],
            [
                "DRIFT         confidence: 20 of 20 files of 2026-05-04 below the usual 0.8 to 1, mean 0.3",
                f"DRIFT         {CONTRAST_LEFT}",
            ],
            id="two have left",
        ),
    ],
)
def test_drift_is_a_line_for_each_quantity_that_has_left_and_else_one_line(drift, lines):
    shown = status_lines(numbers(tuple(drift)))

    assert [line for line in shown if line.lower().startswith("drift")] == lines


@pytest.mark.parametrize(
    ("decided", "line"),
    [
        pytest.param({}, "since start   none classified", id="nothing yet"),
        pytest.param({"ungated": 4}, "since start   4 ungated", id="no limits"),
        pytest.param(
            {"accept": 3, "abstain": 1}, "since start   3 accepted, 1 no answer", id="answers and abstentions"
        ),
    ],
)
def test_what_was_classified_is_split_by_its_decision(decided, line):
    shown = status_lines(numbers(()).model_copy(update={"decided": decided}))

    assert [text for text in shown if text.startswith("since start")] == [line]


@pytest.mark.parametrize(
    ("outcome", "label", "decision", "said"),
    [
        ("classified", "round", "accept", "round"),
        ("classified", "round", "ungated", "round"),
        ("classified", "round", "abstain", "no answer"),
        ("not_an_image", None, None, "not an image"),
    ],
)
def test_the_last_file_is_shown_with_its_answer_or_without_one(outcome, label, decision, said):
    last = LastFile(
        path="a.dm3",
        outcome=outcome,
        label=label,
        probability=None if label is None else 0.9,
        decision=decision,
        finished=datetime(2026, 5, 4, 1, 2, 3, tzinfo=UTC),
    )

    shown = status_lines(numbers(()).model_copy(update={"last": last}))

    assert [line for line in shown if line.startswith("last file")] == [
        f"last file     a.dm3  {said}, 01:02:03 UTC"
    ]


def test_a_program_without_a_terminal_says_nothing_and_goes_on(monkeypatch):
    """The interpreter without a window, and a Windows service, have neither stdout nor stderr."""
    monkeypatch.setattr(sys, "stdout", None)
    say("one file")
    say("still working", stream := io.StringIO())
    assert stream.getvalue() == "still working\n"


def test_a_reader_that_went_away_stops_nothing():
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    say("anyone?", Gone())
    say("still working", stream := io.StringIO())

    assert stream.getvalue() == "still working\n"


def test_a_console_that_cannot_show_a_letter_gets_its_escape():
    raw = io.BytesIO()

    with io.TextIOWrapper(raw, encoding="cp1252", write_through=True) as console:
        say("粒.dm3", console)
        shown = raw.getvalue()

    assert shown == b"\\u7c92.dm3\n"


def test_without_a_terminal_progress_is_a_plain_line_now_and_then(capsys, monkeypatch):
    now = iter([0.0, 10.0, 31.0, 31.0, 40.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))

    with progress(3, "files") as advance:
        for _ in range(3):
            advance()

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "2 of 3 files\n")


def test_on_a_terminal_progress_is_a_bar_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    with progress(2, "files") as advance:
        advance()
        advance()

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2/2" in captured.err


SINCE = datetime(2026, 5, 4, 11, 0, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        pytest.param({}, [], id="nobody says anything"),
        pytest.param(
            {"config": ConfigStatus(file=None, since=SINCE, refused=None)},
            ["config        no file, in force since 2026-05-04 11:00:05 UTC"],
            id="command line only",
        ),
        pytest.param(
            {
                "config": ConfigStatus(
                    file="/a.toml", since=SINCE, refused="/a.toml:3: x: no\n/a.toml:4: y: no"
                ),
                "page": "http://127.0.0.1:8747/",
                "model_note": "a 1 answers instead of b 2: SHA-256 differs",
                "instrument": "Titan 3",
            },
            [
                "MODEL NOTE    a 1 answers instead of b 2: SHA-256 differs",
                "instrument    Titan 3",
                "page          http://127.0.0.1:8747/",
                "config        /a.toml, in force since 2026-05-04 11:00:05 UTC",
                "EDIT REFUSED  /a.toml:3: x: no",
                "EDIT REFUSED  /a.toml:4: y: no",
            ],
            id="all there is",
        ),
    ],
)
def test_what_stands_around_the_agent_is_shown(said, lines):
    shown = status_lines(numbers(()).model_copy(update=said))
    assert shown[2 : 2 + len(lines)] == lines
    assert shown[2 + len(lines)].startswith("seen")
