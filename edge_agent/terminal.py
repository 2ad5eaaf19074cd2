"""What a person reads on a terminal: one line a file, counts, progress; safe whatever the names contain.

Only this module knows how a finding is put into words. Nothing here is meant to be parsed: that is `--json`.
"""

from __future__ import annotations

import select
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TextIO

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edge_agent.sidecar import Finding
    from edge_agent.status import AgentStatus, DiskStatus, DriftStatus, FolderStatus, LastFile
    from edge_agent.tidy import Untidy

_LOOK_SECONDS: Final = 0.2
_PLAIN_PROGRESS_SECONDS: Final = 30.0
_WORDS: Final = {
    "not_an_image": "not an image",
    "unreadable": "UNREADABLE",
    "refused": "REFUSED",
    "failed": "FAILED",
    "crashed": "FAILED",
    "interrupted": "POSTPONED",
    "quarantined": "QUARANTINED",
}
_DECIDED: Final = {"accept": "accepted", "abstain": "no answer"}
_ALWAYS_COUNTED: Final = ("classified", "not_an_image", "unreadable", "quarantined")


def wait_for_enter(is_over: Callable[[], bool]) -> None:
    """Wait until a person presses Enter, or `is_over`."""
    while not is_over():
        if sys.platform == "win32":
            import msvcrt

            if msvcrt.kbhit() and msvcrt.getwch() in "\r\n":
                return
            time.sleep(_LOOK_SECONDS)
        elif select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            sys.stdin.readline()
            return


def printable(text: str) -> str:
    r"""Return `text` with what could steer a terminal or hide in it (ESC, newline, bidi marks) as \x1b."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def say(text: str, stream: TextIO | None = None) -> None:
    """Print one line, escaped, at once; a reader that went away (`| head`) is no reason to stop working."""
    stream = sys.stdout if stream is None else stream
    if stream is None:  # pythonw and a Windows service have no terminal
        return
    try:
        stream.write(printable(text) + "\n")
        stream.flush()
    except UnicodeEncodeError:
        stream.write(ascii(text)[1:-1] + "\n")
        stream.flush()
    except OSError:
        pass


def finding_text(finding: Finding) -> str:
    """Return what was found, without the file's name."""
    if finding.outcome != "classified" or finding.label is None:
        word = _WORDS.get(finding.outcome, finding.outcome)
        return f"{word}: {finding.reason}" if finding.reason else word
    return f"{_answer_text(finding)}  {finding.milliseconds:.0f} ms"


def _answer_text(finding: Finding) -> str:
    """An answer leads with its label, an abstention with its reasons."""
    answer, decided = (
        f"{finding.label}{_probability_text(finding.probability)}",
        _DECIDED.get(finding.decision or "", finding.decision),
    )
    if finding.decision != "abstain":
        return f"{answer}  {decided}" if decided else answer
    because = ", ".join(map(_words, finding.reasons)) or "no reason was kept"
    return f"{decided}: {because} (leans to {answer})"


def _probability_text(probability: float | None) -> str:
    """Two digits; what would round to 1.00 is not certain."""
    if probability is None:
        return ""
    return " > 0.99" if probability >= 0.995 else f" {probability:.2f}"


def finding_line(finding: Finding, name: Path | str) -> str:
    """Return one line for a file."""
    return f"{name}  {finding_text(finding)}"


class Counted(Protocol):
    """What is told of a `Tally`: the module that keeps it stands above this one."""

    outcomes: Counter[str]
    decisions: Counter[str]
    labels: Counter[str]
    reasons: Counter[str]


def counts_text(tally: Counted) -> str:
    """Return for example `5 classified (3 accepted: 2 round, 1 rod; 2 without an answer: 2 novel), 1 failed`."""
    parts = []
    for outcome in sorted(tally.outcomes, key=lambda key: (key != "classified", key)):
        text = f"{tally.outcomes[outcome]} {_WORDS.get(outcome, outcome).lower()}"
        parts.append(f"{text} ({_decisions_text(tally)})" if outcome == "classified" else text)
    return ", ".join(parts) or "none"


def _decisions_text(tally: Counted) -> str:
    """Answers with their labels, then the abstentions with their reasons, of which one can have several."""
    decided, parts = tally.decisions, []
    answered = [
        f"{decided[key]} {_DECIDED.get(key, key)}"
        for key in sorted(decided)
        if decided[key] and key != "abstain"
    ]
    if answered:
        labels = ", ".join(f"{count} {label}" for label, count in tally.labels.most_common())
        parts.append(f"{', '.join(answered)}: {labels}")
    if decided["abstain"]:
        parts.append(f"{decided['abstain']} without an answer: {reasons_text(tally.reasons)}")
    return "; ".join(parts)


def reasons_text(counts: Counter[str]) -> str:
    """Return for example `2 low confidence, 1 novel`."""
    return ", ".join(f"{count} {_words(name)}" for name, count in counts.most_common())


def status_lines(numbers: AgentStatus) -> list[str]:
    """Return what `edge-agent status` prints."""
    model, worker = numbers.model, numbers.worker
    counted = {outcome: numbers.done.get(outcome, 0) for outcome in _ALWAYS_COUNTED} | numbers.done
    lines = [
        f"running       since {numbers.started:%Y-%m-%d %H:%M:%S} UTC, process {numbers.pid}, {numbers.version}",
        f"model         {f'{model.name} {model.version}' if model else 'NOT LOADED'}",
        *_around_lines(numbers),
        *(f"folder        {_folder_text(folder)}" for folder in numbers.folders),
        *(f"disk          {_disk_text(disk)}" for disk in numbers.disks),
        f"seen          {numbers.seen}",
        f"waiting       {numbers.waiting}{_age_text(numbers.oldest_waiting_seconds)}",
        *(f"{_words(outcome):<14}{count}" for outcome, count in counted.items()),
        f"since start   {_decided_text(numbers.decided)}",
        f"stalled       {numbers.stalled}",
        f"failing       {numbers.failing}",
        f"orphaned      {numbers.orphaned}{'  (see `edge-agent tidy`)' if numbers.orphaned else ''}",
        *_drift_lines(numbers.drift),
    ]
    if numbers.paused is not None:
        lines.append(f"PAUSED        {numbers.paused}")
    if worker.trouble is not None:
        lines.append(f"worker        {worker.trouble}")
    if numbers.last is not None:
        lines.append(f"last file     {_last_text(numbers.last)}")
    lines += [f"trouble       {item.path}  {item.outcome}: {item.reason}" for item in numbers.troubles]
    return lines


def _around_lines(numbers: AgentStatus) -> list[str]:
    """What is said of the agent as a whole: its model, instrument, page and configuration."""
    lines = []
    if numbers.model_note is not None:
        lines.append(f"MODEL NOTE    {numbers.model_note}")
    if numbers.instrument is not None:
        lines.append(f"instrument    {numbers.instrument}")
    if numbers.page is not None:
        lines.append(f"page          {numbers.page}")
    config = numbers.config
    if config is None:
        return lines
    lines.append(
        f"config        {config.file or 'no file'}, in force since {config.since:%Y-%m-%d %H:%M:%S} UTC"
    )
    refused = () if config.refused is None else config.refused.splitlines()
    return lines + [f"EDIT REFUSED  {line}" for line in refused]


def _decided_text(decided: dict[str, int]) -> str:
    """Return for example `3 accepted, 1 no answer`."""
    keys = sorted(decided, key=lambda key: (key == "abstain", key))
    return ", ".join(f"{decided[key]} {_DECIDED.get(key, key)}" for key in keys) or "none classified"


def _last_text(last: LastFile) -> str:
    """An abstention names no label: whoever glances at it would take the label for an answer."""
    answer = last.label or _words(last.outcome)
    if last.decision == "abstain":
        answer = _DECIDED["abstain"]
    return f"{last.path}  {answer}, {last.finished:%H:%M:%S} UTC"


def untidy_lines(untidy: Untidy) -> list[str]:
    """Return what `edge-agent tidy` found."""
    lines = [f"{path}: passed over: {reason}" for path, reason in untidy.passed_over]
    for orphan in untidy.orphans:
        lines += [str(path) for path in (orphan.sidecar, orphan.heatmap) if path is not None]
    lines += [str(path) for path in untidy.abandoned]
    heatmaps = sum(orphan.heatmap is not None for orphan in untidy.orphans)
    lines.append(
        f"{len(untidy.orphans)} sidecars and {heatmaps} heatmaps without their micrograph, "
        f"{len(untidy.abandoned)} temporary files older than a day"
    )
    return lines


def _words(outcome: str) -> str:
    return outcome.replace("_", " ")


def _folder_text(folder: FolderStatus) -> str:
    share = " (share)" if folder.share else ""
    return f"{folder.path}{share}  {'present' if folder.present else 'MISSING'}, events {folder.events}"


def _disk_text(disk: DiskStatus) -> str:
    low = "  LOW: nothing is written there" if disk.low else ""
    return f"{disk.folder}  {disk.free_mib / 1024:.1f} GiB free{low}"


def _drift_lines(drift: tuple[DriftStatus, ...]) -> list[str]:
    """One line for each quantity that has left its usual range by its latest day that can be judged, else one."""
    latest: dict[str, DriftStatus] = {}
    for number in drift:
        if number.left is not None:
            latest.setdefault(number.quantity, number)
    left = [f"DRIFT         {_left_text(number)}" for number in latest.values() if number.left]
    if left or not drift:
        return left or ["drift         no files yet"]
    day = [number for number in drift if number.day == drift[0].day]
    means = ", ".join(f"{_words(number.quantity)} {number.mean:.3g}" for number in day)
    is_unknown = all(number.usual is None for number in day)
    verdict = "none" if latest else "the model knows no usual range" if is_unknown else "too few files yet"
    return [f"drift         {verdict}; {max(number.files for number in day)} files of {day[0].day}: {means}"]


def _left_text(number: DriftStatus) -> str:
    count, side = max((number.below, "below"), (number.above, "above"))
    usual = "" if number.usual is None else f" {number.usual[0]:.3g} to {number.usual[1]:.3g}"
    return (
        f"{_words(number.quantity)}: {count} of {number.files} files of {number.day} {side} the usual{usual}, "
        f"mean {number.mean:.3g}"
    )


def _age_text(seconds: float | None) -> str:
    return "" if seconds is None else f", the oldest for {seconds:.0f} s"


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each of `total` steps.

    A bar where stderr is a terminal; otherwise a plain line on stderr every 30 s.
    """
    if sys.stderr.isatty():
        with _bar(total, what) as advance:
            yield advance
        return
    done, spoken = 0, time.monotonic()

    def advance_plainly() -> None:
        nonlocal done, spoken
        done += 1
        if time.monotonic() - spoken >= _PLAIN_PROGRESS_SECONDS:
            spoken = time.monotonic()
            say(f"{done} of {total} {what}", sys.stderr)

    yield advance_plainly


@contextmanager
def _bar(total: int, what: str) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Lines on stdout pass above the bar, but only when they go to the same terminal and not into a file.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
