"""The self-test leaves no trace, says plainly what it saw, and fails where the agent could not be relied on."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from test_sidecar import CONTRACT

from edge_agent import selftest
from edge_agent.files import FileLayer
from edge_agent.output_places import OutputPlan
from edge_agent.selftest import TRIALS, Check, check_json, check_lines, run_selftest, summary_line
from edge_agent.shared_opening import windows_error
from edge_agent.sidecar import Sidecar, write_record
from edge_agent.status import AlreadyRunning, sole_agent
from edge_agent.trials import (
    agent_trials,
    company_trials,
    disk_trials,
    earlier_runs,
    event_trials,
    live_agent,
    writer_trials,
)
from edge_agent.trials.agent_trials import AGENT_TRIALS, END_TRIALS
from edge_agent.trials.company_trials import COMPANY_TRIALS
from edge_agent.trials.disk_trials import DISK_TRIALS
from edge_agent.trials.event_trials import EVENT_TRIALS
from edge_agent.trials.trial import Bench, Failed, Skipped, Trial, Warned, wait_until
from edge_agent.trials.writer_trials import WRITER_TRIALS
from edge_agent.watching.change_events import NativeHints
from edge_agent.watching.volumes import Volume

NAMED = {trial.name: trial for trial in TRIALS}


class SilentHints:
    """An event source that never says a word."""

    def start(self, folder, on_change, on_overflow):
        self.on_change, self.on_overflow = on_change, on_overflow

    def alive(self):
        return True

    def stop(self):
        pass


@pytest.fixture
def folder(tmp_path):
    """An acquisition folder with somebody's file in it."""
    place = tmp_path / "scope"
    place.mkdir()
    (place / "theirs.dm3").write_bytes(b"theirs")
    return place


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state of selftest"


@pytest.fixture
def bench(tmp_path):
    for name in ("bench", "bench state"):
        (tmp_path / name).mkdir()
    with ExitStack() as stack:
        yield Bench(
            tmp_path / "bench",
            tmp_path / "bench state",
            SilentHints,
            stack,
            burst_files=20,
            patience_seconds=0.05,
        )


@pytest.fixture
def quick(monkeypatch):
    """No waits for the benefit of slow disks."""
    monkeypatch.setattr(event_trials, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(event_trials, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(disk_trials, "_TIME_SECONDS", 0.1)


def run(trial, bench):
    """Return verdict and detail of one trial."""
    return selftest._verdict(trial, bench)


# --- the whole


@pytest.mark.timeout(200)
def test_everything_is_tried_on_this_pc_and_nothing_is_left(folder, state, tiny):
    checks = list(run_selftest(folder, state=state, model=str(tiny), burst_files=200))

    assert [check.name for check in checks] == [*NAMED, "cleared up"]
    assert [check for check in checks if check.verdict == "failed"] == []
    passed = {check.name for check in checks if check.verdict == "passed"}
    assert passed >= {
        trial.name for trial in (*WRITER_TRIALS, *AGENT_TRIALS, *COMPANY_TRIALS, *END_TRIALS)
    } - {"agent starts"}
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]
    assert (folder / "theirs.dm3").read_bytes() == b"theirs"
    assert list(state.iterdir()) == []


def test_it_has_about_thirty_checks_with_names_and_advice():
    assert len(NAMED) == len(TRIALS) >= 20
    for trial in TRIALS:
        assert trial.meaning.endswith(".")
        assert trial.remedy.endswith(".")


def test_no_parser_enters_its_process():
    code = (
        "import sys, edge_agent.selftest\n"
        "print(*{'numpy', 'onnxruntime', 'ncempy', 'PIL'} & sys.modules.keys())"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(selftest.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("act", "verdict", "detail"),
    [
        pytest.param(lambda bench: "seen", "passed", "seen", id="passed"),
        pytest.param(Failed("seen"), "failed", "seen", id="failed"),
        pytest.param(Warned("seen"), "warning", "seen", id="warning"),
        pytest.param(Skipped("seen"), "skipped", "seen", id="skipped"),
        pytest.param(
            PermissionError(13, "Permission denied", "/d/a"),
            "failed",
            "/d/a: Permission denied",
            id="system's error",
        ),
        pytest.param(KeyError("x"), "failed", "unforeseen KeyError: 'x'", id="a fault of ours"),
    ],
)
def test_each_trial_comes_to_a_verdict(folder, state, act, verdict, detail):
    def raise_it(bench):
        raise act

    trial = Trial("a trial", "It means this.", "Do that.", raise_it if isinstance(act, Exception) else act)
    first, last = run_selftest(folder, state=state, trials=[trial])

    assert (first.name, first.verdict, first.detail) == ("a trial", verdict, detail)
    assert first.remedy == ("Do that." if verdict in ("failed", "warning") else None)
    assert last.verdict == "passed"


def test_a_failure_does_not_keep_the_others_from_being_tried(folder, state):
    def fail(bench):
        raise Failed("no")

    trials = [Trial("one", "M.", "R.", fail), Trial("two", "M.", "R.", lambda bench: "yes")]
    assert [check.verdict for check in run_selftest(folder, state=state, trials=trials)] == [
        "failed",
        "passed",
        "passed",
    ]


def make_a_mess(bench: Bench) -> str:
    deep = bench.place("deep") / "er"
    deep.mkdir()
    (deep / "file").write_bytes(b"1")
    (deep / "link").symlink_to(bench.folder.parent)
    (bench.state / "file").write_bytes(b"1")
    return "made"


def interrupt(bench: Bench) -> str:
    make_a_mess(bench)
    raise KeyboardInterrupt


MESS = Trial("mess", "M.", "R.", make_a_mess)


def test_nothing_is_left_when_it_is_interrupted(folder, state):
    with pytest.raises(KeyboardInterrupt):
        list(run_selftest(folder, state=state, trials=[Trial("interrupted", "M.", "R.", interrupt)]))
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]
    assert list(state.iterdir()) == []


def test_nothing_is_left_when_nobody_wants_to_hear_the_rest(folder, state):
    checks = run_selftest(folder, state=state, trials=[MESS, MESS])
    next(checks)
    assert len(list(folder.iterdir())) == 2
    checks.close()
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]


def test_what_a_trial_left_open_is_ended_before_the_folder_is_removed(folder, state):
    told = []

    def open_something(bench):
        bench.open.callback(lambda: told.append(bench.folder.is_dir()))
        return "open"

    list(run_selftest(folder, state=state, trials=[Trial("opens", "M.", "R.", open_something)]))
    assert told == [True]


def test_a_folder_that_cannot_be_removed_is_named(folder, state, monkeypatch):
    monkeypatch.setattr(selftest, "_REMOVING_SECONDS", 0.3)
    monkeypatch.setattr(selftest, "_remove_once", lambda path: None)
    *_, last = run_selftest(folder, state=state, trials=[])

    (own,) = folder.glob("scopewatch-selftest-to-be-deleted-*")
    assert last.verdict == "failed"
    assert str(own) in last.detail
    assert last.remedy == "Delete it by hand."


def test_files_that_an_antivirus_still_holds_are_waited_for(folder, state, monkeypatch):
    refusals = [windows_error(32, "x")] * 3
    remove_once = selftest._remove_once

    def refuse_at_first(path):
        if refusals:
            raise refusals.pop()
        remove_once(path)

    monkeypatch.setattr(selftest, "_remove_once", refuse_at_first)
    *_, last = run_selftest(folder, state=state, trials=[MESS])
    assert last.verdict == "passed"
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]


def test_it_does_not_run_beside_an_agent(folder, state, tmp_path):
    with sole_agent(tmp_path / "other state", [folder]), pytest.raises(AlreadyRunning, match="stop it"):
        list(run_selftest(folder, state=state, trials=[MESS]))
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]
    assert list(state.iterdir()) == []


def test_a_folder_that_is_not_there_is_not_made(tmp_path, state):
    with pytest.raises(FileNotFoundError):
        list(run_selftest(tmp_path / "none", state=state, trials=[MESS]))
    assert not (tmp_path / "none").exists()
    assert list(state.iterdir()) == []


# --- what a killed run left


def left_by(folder, state, **changes):
    """Both folders of a run whose process is gone, unless told otherwise."""
    name = f"{earlier_runs.NAME}-0123abcd"
    run = earlier_runs.this_run(folder / name, state / name)
    for place in (run.folder, run.state):
        (place / "deep").mkdir(parents=True)
        (place / "deep" / "file").write_bytes(b"1")
    earlier_runs.note(replace(run, **({"pid": 2**22 + 1} | changes)))
    return run


def test_what_a_killed_run_left_is_named_and_removed_by_the_next(folder, state):
    run = left_by(folder, state)
    first, last = run_selftest(folder, state=state, trials=[])

    assert (first.name, first.verdict) == ("killed run cleared up", "passed")
    assert first.detail == f"removed {run.folder}, {run.state}"
    assert last.verdict == "passed"
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]
    assert list(state.iterdir()) == []


def test_it_is_found_by_its_state_when_the_next_run_is_elsewhere(folder, state, tmp_path):
    left_by(folder, state)
    (tmp_path / "elsewhere").mkdir()
    list(run_selftest(tmp_path / "elsewhere", state=state, trials=[]))
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"pid": os.getpid()}, [], id="it still runs"),
        pytest.param({"host": "another PC"}, ["other self-tests"], id="another PC's"),
    ],
)
def test_what_may_still_be_in_use_stays(folder, state, changes, told):
    run = left_by(folder, state, **changes)
    *names, _ = [check.name for check in run_selftest(folder, state=state, trials=[])]
    assert names == told
    assert (run.folder / "deep" / "file").exists()


@pytest.mark.parametrize(
    "record", [None, b"half", b'{"folder": "/etc", "state": "/etc", "host": "", "pid": 1, "started": 0}']
)
def test_a_folder_without_a_record_of_ours_is_named_and_stays(folder, state, record):
    place = folder / f"{earlier_runs.NAME}-x"
    place.mkdir()
    if record is not None:
        (place / earlier_runs.RECORD).write_bytes(record)
    first, _ = run_selftest(folder, state=state, trials=[])
    assert (first.name, first.verdict, str(place) in first.detail) == ("other self-tests", "warning", True)
    assert place.is_dir()


KILLED_RUN = """
import sys, time
from pathlib import Path
from edge_agent.selftest import TRIALS, run_selftest
starts = [trial for trial in TRIALS if trial.name == "agent starts"]
checks = run_selftest(Path(sys.argv[1]), state=Path(sys.argv[2]), model=sys.argv[3], trials=starts)
print(next(checks).verdict, flush=True)
time.sleep(100)
"""


@pytest.mark.skipif(os.name == "nt", reason="kills by a POSIX signal")
def test_a_self_test_that_is_killed_takes_its_agent_with_it(folder, state, tiny):
    command = (sys.executable, "-c", KILLED_RUN, str(folder), str(state), str(tiny))
    environment = os.environ | {"PYTHONPATH": str(Path(selftest.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        said = process.stdout.readline().strip()
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert said == "passed"
    assert len(children) >= 2
    assert wait_until(lambda: not any(agent_trials._lives(child) for child in children), 10.0) is not None
    assert len(list(folder.iterdir())) == 2

    checks = list(run_selftest(folder, state=state, trials=[]))
    assert [check.name for check in checks] == ["killed run cleared up", "cleared up"]
    assert [path.name for path in folder.rglob("*")] == ["theirs.dm3"]


# --- words

ADVICE = ["           It means this.", "           -> Do that."]


@pytest.mark.parametrize(
    ("verdict", "lines"),
    [
        pytest.param("passed", ["passed   scan: seen"], id="passed"),
        pytest.param("skipped", ["skipped  scan: seen"], id="skipped"),
        pytest.param("warning", ["WARNING  scan: seen", *ADVICE], id="warning"),
        pytest.param("failed", ["FAILED   scan: seen", *ADVICE], id="failed"),
    ],
)
def test_a_verdict_in_words(verdict, lines):
    assert check_lines(Check("scan", verdict, "seen", 1.0, "It means this.", "Do that.")) == lines


def test_a_verdict_as_json():
    assert json.loads(check_json(Check("scan", "passed", "sé", 1.23456, "M.", None))) == {
        "name": "scan", "verdict": "passed", "detail": "sé", "seconds": 1.235, "meaning": "M.", "remedy": None,
    }  # fmt: skip


def test_the_sum_of_all_verdicts():
    verdicts = ("passed", "passed", "warning", "failed")
    checks = [Check("x", verdict, "", 2.0, "", None) for verdict in verdicts]
    assert summary_line(checks) == "4 checks in 8 s: 2 passed, 1 failed, 1 warning"


# --- writers


@pytest.mark.parametrize("name", [trial.name for trial in WRITER_TRIALS])
def test_writers_are_not_disturbed_here(bench, name):
    assert run(NAMED[name], bench)[0] == "passed"


def test_a_writer_that_gets_an_error_fails_the_trial(bench):
    def refuse(path):
        raise PermissionError(13, "The process cannot access the file")

    trial = Trial("x", "M.", "R.", writer_trials._writer_trial("renamed", refuse))
    assert run(trial, bench) == ("failed", "the writer got an error: The process cannot access the file")


def refuse_replaces(monkeypatch, *, every, code):
    """Windows refuses one replacement in so many, as it does while another program has the file open."""
    calls = []
    replace = FileLayer.replace

    def refuse_now_and_then(layer, source, target):
        calls.append(1)
        if len(calls) % every == 0:
            raise windows_error(code, str(target))
        replace(layer, source, target)

    monkeypatch.setattr(FileLayer, "replace", refuse_now_and_then)


def test_refusals_of_an_antivirus_are_counted(bench, monkeypatch):
    refuse_replaces(monkeypatch, every=25, code=5)
    verdict, detail = run(NAMED["many replaces"], bench)
    assert verdict == "passed"
    assert detail.startswith("200 files replaced, 8 refusals by an antivirus or indexer waited out")


def test_a_target_that_stays_held_fails_the_trial(bench, monkeypatch):
    def refuse(layer, source, target):
        raise windows_error(32, str(target))

    monkeypatch.setattr(FileLayer, "replace", refuse)
    monkeypatch.setattr(FileLayer, "pause", lambda layer, seconds: None)
    verdict, detail = run(NAMED["another program holds the target"], bench)
    assert (verdict, "WinError 32" in detail) == ("failed", True)
    assert [path.name for path in (bench.folder / "held").iterdir()] == ["record.part"]


def test_a_scanner_that_holds_new_outputs_is_waited_out(bench, monkeypatch):
    refuse_replaces(monkeypatch, every=10, code=32)
    verdict, detail = run(NAMED["scanner on new outputs"], bench)
    assert verdict == "passed"
    assert detail.startswith("100 outputs written while a scanner opened ")
    assert ", 11 refusals waited out, " in detail


def test_outputs_that_a_scanner_mixes_up_fail(bench, monkeypatch):
    monkeypatch.setattr(
        writer_trials, "write_durably", lambda path, content, layer: path.write_bytes(b"other")
    )
    assert run(NAMED["scanner on new outputs"], bench) == (
        "failed",
        "0.json holds something else than was written",
    )


# --- the disk


@pytest.mark.parametrize("name", [trial.name for trial in DISK_TRIALS])
def test_this_disk_is_understood(bench, name, monkeypatch):
    monkeypatch.setattr(disk_trials, "AgentConfig", lambda: NoFloor())
    assert run(NAMED[name], bench)[0] in ("passed", "warning")


class NoFloor:
    free_space_floor_mib, quiet_seconds, share_quiet_seconds = 0, 1.0, 3.0


def test_a_disk_without_room_fails(bench, monkeypatch):
    floor = type("Floor", (NoFloor,), {"free_space_floor_mib": 10**9})
    monkeypatch.setattr(disk_trials, "AgentConfig", floor)
    verdict, detail = run(NAMED["free space"], bench)
    assert verdict == "failed"
    assert "less than the 1000000000 MiB" in detail


def on_share(*names):
    return lambda folder: Volume(is_share=folder.name in names)


@pytest.mark.parametrize(
    ("names", "verdict", "part"),
    [
        pytest.param((), "passed", "taken for a local disk: files are read 1 s after", id="local"),
        pytest.param(("bench",), "passed", "taken for a share: files are read 3 s after", id="share"),
        pytest.param(("bench state",), "failed", "the agent's state lies on a share", id="state on a share"),
    ],
)
def test_the_kind_of_disk_is_told(bench, monkeypatch, names, verdict, part):
    monkeypatch.setattr(disk_trials, "volume_of", on_share(*names))
    found = run(NAMED["kind of disk"], bench)
    assert found[0] == verdict
    assert part in found[1]


@pytest.mark.parametrize(
    ("number", "verdict"), [(errno.EINVAL, "warning"), (errno.ENOTSUP, "warning"), (errno.EIO, "failed")]
)
def test_a_folder_that_cannot_be_forced_to_disk(bench, monkeypatch, number, verdict):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_trials.os, "fsync", refuse)
    assert run(NAMED["folder forced to disk"], bench)[0] == verdict


def test_names_that_the_system_shortens_are_told(bench, monkeypatch):
    real_open = os.open

    def drop_trailing_dot(path, flags):
        return real_open(path.with_name(path.name.rstrip(". ")), flags)

    monkeypatch.setattr(disk_trials.os, "open", drop_trailing_dot)
    monkeypatch.setattr(disk_trials, "open_shared", lambda path: path.open("rb"))
    assert run(NAMED["odd names"], bench) == (
        "passed",
        "6 of 8 kinds of names kept as given; a dot at the end: changed to 'ends with a dot'; "
        "a space at the end: changed to 'ends with a space'",
    )


def test_a_name_that_is_listed_and_cannot_be_opened_fails(bench, monkeypatch):
    def refuse(path):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(disk_trials, "open_shared", refuse)
    verdict, detail = run(NAMED["odd names"], bench)
    assert (verdict, detail) == (
        "failed",
        "'particle 😀.part' is listed and cannot be opened: No such file or directory",
    )


def test_names_that_are_refused_or_taken_are_told(bench, monkeypatch):
    def refuse(path, flags):
        raise OSError(errno.EILSEQ, "Invalid or incomplete multibyte")

    monkeypatch.setattr(disk_trials.os, "open", refuse)
    verdict, detail = run(NAMED["odd names"], bench)
    assert verdict == "passed"
    assert detail.startswith("0 of 8 kinds of names kept as given; an emoji: refused by the system (Invalid")


def test_short_names_are_a_warning(bench, monkeypatch):
    def refuse(path):
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    monkeypatch.setattr(Path, "touch", refuse)
    assert run(NAMED["long names"], bench) == (
        "warning",
        "names of 255 characters are not possible here: File name too long",
    )


class Insensitive(type(Path())):
    """A folder in which upper and lower case are the same."""

    def __truediv__(self, name):
        return super().__truediv__(name.casefold())


@pytest.mark.parametrize(
    ("kind", "part"), [(Path, "two files here"), (Insensitive, "the same file here")], ids=["two", "one"]
)
def test_upper_and_lower_case(bench, tmp_path, kind, part):
    bench = Bench(kind(bench.folder), bench.state, SilentHints, bench.open)
    verdict, detail = run(NAMED["upper and lower case"], bench)
    assert verdict == "passed"
    assert part in detail


@pytest.mark.parametrize(
    ("kept_ns", "unit"),
    [
        pytest.param(1_700_000_001_123_456_789, "1 ns", id="ext4, btrfs, xfs"),
        pytest.param(1_700_000_001_123_456_700, "100 ns", id="NTFS"),
        pytest.param(1_700_000_001_123_456_000, "1 µs", id="HFS and some servers"),
        pytest.param(1_700_000_001_120_000_000, "1 ms", id="exFAT"),
        pytest.param(1_700_000_001_000_000_000, "1 s", id="NFS 2"),
        pytest.param(1_700_000_000_000_000_000, "2 s", id="FAT"),
    ],
)
def test_how_fine_times_are_kept(kept_ns, unit):
    assert disk_trials._duration_text(disk_trials._unit_ns(kept_ns, 1_700_000_001_123_456_789)) == unit


def test_a_disk_that_keeps_whole_seconds_is_a_warning(bench, monkeypatch):
    utime = os.utime
    monkeypatch.setattr(disk_trials.os, "utime", lambda path, ns: utime(path, (ns[0] // 10**9,) * 2))
    verdict, detail = run(NAMED["file times"], bench)
    assert verdict == "warning"
    assert detail.startswith("kept to 1 s; a second write shows after ")


def test_a_time_that_stands_still_fails(bench, quick, monkeypatch):
    write_bytes = Path.write_bytes

    def write_without_time(path, data):
        write_bytes(path, data)
        os.utime(path, (1000, 1000))

    monkeypatch.setattr(Path, "write_bytes", write_without_time)
    verdict, detail = run(NAMED["file times"], bench)
    assert verdict == "failed"
    assert "s behind; a file that is written again for 0.1 s keeps its time" in detail


# --- change events


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("change events", "no event within 0.05 s for created, changed, renamed, in a new folder"),
        ("our own sidecar as a signal", "no event within 0.05 s"),
        ("burst of files", "20 files made, events for 0 of them, no overflow told"),
    ],
)
def test_events_that_do_not_arrive_are_a_warning(bench, quick, name, part):
    verdict, detail = run(NAMED[name], bench)
    assert verdict == "warning"
    assert part in detail


@pytest.mark.parametrize("name", ["change events", "our own sidecar as a signal", "burst of files"])
def test_events_that_arrive(bench, name):
    heard = Bench(bench.folder, bench.state, NativeHints, bench.open, burst_files=20)
    assert run(NAMED[name], heard)[0] == "passed"


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("change events", "warning"),
        ("our own sidecar as a signal", "warning"),
        ("burst of files", "warning"),
        ("folders inside while we watch", "skipped"),
    ],
)
def test_a_system_without_events(bench, quick, name, verdict):
    class Refusing(SilentHints):
        def start(self, folder, on_change, on_overflow):
            raise OSError(28, "inotify watch limit reached")

    refused = Bench(bench.folder, bench.state, Refusing, bench.open, burst_files=20)
    assert run(NAMED[name], refused) == (
        verdict,
        "the system gives no events here: inotify watch limit reached",
    )


def test_an_overflow_is_told(bench, quick):
    class Overflowing(SilentHints):
        def start(self, folder, on_change, on_overflow):
            on_overflow()

    overflowing = Bench(bench.folder, bench.state, Overflowing, bench.open, burst_files=20)
    assert run(NAMED["burst of files"], overflowing) == (
        "warning",
        "20 files made, events for 0 of them, 1 overflows told",
    )


def test_folders_that_cannot_be_renamed_while_watched_fail(bench, quick, monkeypatch):
    def refuse(path, target):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "rename", refuse)
    assert run(NAMED["folders inside while we watch"], bench) == ("failed", "refused: Access is denied")


def test_the_scan_finds_what_events_left_out(bench, quick):
    scan = next(trial for trial in EVENT_TRIALS if trial.name == "scan")
    assert run(scan, bench)[0] == "skipped"
    run(NAMED["burst of files"], bench)
    verdict, detail = run(scan, bench)
    assert (verdict, detail.startswith("20 files looked over in ")) == ("passed", True)


def test_a_scan_that_overlooks_files_fails(bench, quick, monkeypatch):
    run(NAMED["burst of files"], bench)
    monkeypatch.setattr(event_trials, "regular_stamp", lambda path: None if "00007" in path else path)
    assert run(NAMED["scan"], bench) == ("failed", "19 of 20 files were found")


def test_a_slow_disk_gets_fewer_files(bench, quick, monkeypatch):
    monkeypatch.setattr(event_trials, "_MAKING_SECONDS", -1.0)
    assert run(NAMED["burst of files"], bench) == ("passed", "0 files made, events for all of them")


# --- the agent


def test_an_agent_that_cannot_start_says_why_and_the_rest_is_skipped(bench, tmp_path):
    bench = Bench(bench.folder, bench.state, SilentHints, bench.open, model=str(tmp_path / "none"))
    found = {
        trial.name: run(trial, bench)
        for trial in (*AGENT_TRIALS, *COMPANY_TRIALS, *END_TRIALS)
        if trial.name not in ("agent killed", "memory limit")
    }

    for name, words in (("model", ""), ("agent starts", "the agent ended with exit code 2: ")):
        verdict, detail = found.pop(name)
        assert verdict == "failed"
        assert detail.startswith(words)
        assert "neither a folder nor a shipped model" in detail
    assert set(found.values()) == {("skipped", "the agent does not run")}
    assert len(found) == 10


def finish(folder: Path, **changes: object) -> Path:
    """A micrograph with the outputs that the agent leaves, and fitting hashes."""
    source = folder / "a.dm3"
    source.write_bytes(b"pixels")
    place = OutputPlan().place(source)
    place.heatmap.write_bytes(b"PNG")
    record = Sidecar.model_validate(CONTRACT)
    digest = agent_trials.hashlib.sha256
    record = record.model_copy(
        update={
            "source": record.source.model_copy(update={"sha256": digest(b"pixels").hexdigest()}),
            "cam": record.cam.model_copy(update={"heatmap_sha256": digest(b"PNG").hexdigest()}),
        }
        | changes
    )
    write_record(place, record)
    return source


def test_an_answer_with_right_hashes_counts(tmp_path):
    assert agent_trials.answer_of(finish(tmp_path)) == "classified as round, heatmap and hashes right"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param("a.dm3", "a.dm3 is not the file whose SHA-256 stands in the sidecar", id="micrograph"),
        pytest.param("a.dm3.heatmap.png", "a.dm3.heatmap.png is not the file whose SHA-256", id="heatmap"),
        pytest.param("a.dm3.json", "a.dm3.json is no valid sidecar", id="sidecar"),
    ],
)
def test_an_answer_that_does_not_fit_fails(tmp_path, spoil, words):
    source = finish(tmp_path)
    (tmp_path / spoil).write_bytes(b"something else")
    with pytest.raises(Failed, match=words):
        agent_trials.answer_of(source)


def test_an_answer_that_is_no_label_fails(tmp_path):
    source = finish(tmp_path, outcome="not_an_image", reason="a spectrum", prediction=None, cam=None)
    with pytest.raises(Failed, match="not_an_image: a spectrum"):
        agent_trials.answer_of(source)


def test_a_memory_limit_that_does_not_hold_fails(bench, monkeypatch):
    generous = agent_trials._HUNGRY.replace("limit_memory(", "limit_memory(100 * ")
    monkeypatch.setattr(agent_trials, "_HUNGRY", generous)
    assert run(NAMED["memory limit"], bench) == ("failed", "a process limited to 256 MiB was given 1024 MiB")


def test_a_command_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(live_agent, "COMMAND_SECONDS", 0.2)
    monkeypatch.setattr(live_agent, "EDGE_AGENT", "import time; time.sleep(60)")
    with pytest.raises(Failed, match=r"`edge-agent simulate` did not end within 0\.2 s"):
        live_agent.command("simulate")


def test_waiting_tells_how_long_it_took_or_that_it_was_in_vain():
    answers = iter([False, False, True])
    assert wait_until(lambda: next(answers), 5.0) is not None
    assert wait_until(lambda: False, 0.05) is None


# --- the agent in daily life


class Standing:
    """A process that runs for ever."""

    def poll(self):
        return None


@pytest.fixture
def living(bench, tmp_path):
    """An agent that is there, and does nothing; its heartbeat is of now."""
    for name in ("agent folder", "agent state"):
        (tmp_path / name).mkdir()
    agent = live_agent.LiveAgent(
        Standing(), tmp_path / "agent folder", tmp_path / "agent state", tmp_path / "words"
    )
    bench.shared[live_agent.LIVE] = agent
    (agent.state / "agent.log").write_bytes(b"{}\n{}\n")
    beat = {"time": datetime.now(UTC).isoformat(), "state": "idle"}
    (agent.state / "heartbeat.json").write_text(json.dumps(beat))
    return agent


def test_log_and_heartbeat_of_a_healthy_agent(bench, living):
    verdict, detail = run(NAMED["log and heartbeat"], bench)
    assert verdict == "passed"
    assert detail.startswith("2 lines in the log; the heartbeat is ") and detail.endswith(
        " s old and says idle"
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("agent.log", "", "nothing is written to agent.log in the state folder", id="empty log"),
        pytest.param("heartbeat.json", "{", "heartbeat.json cannot be read: ", id="half a heartbeat"),
        pytest.param("heartbeat.json", "{}", "heartbeat.json cannot be read: 'time'", id="no time"),
        pytest.param(
            "heartbeat.json",
            '{"time": "2020-01-01T00:00:00Z", "state": "idle"}',
            "heartbeat.json is ",
            id="old",
        ),
    ],
)
def test_an_agent_that_gives_no_sign_fails(bench, living, name, content, words):
    (living.state / name).write_text(content)
    verdict, detail = run(NAMED["log and heartbeat"], bench)
    assert (verdict, detail.startswith(words)) == ("failed", True)


def test_a_writer_that_gets_an_error_beside_the_agent_fails(bench, living, monkeypatch):
    (living.folder / "in-place").mkdir()
    (living.folder / "in-place" / "a.dm3").write_bytes(b"micrograph")

    def refuse(path):
        raise PermissionError(13, "The process cannot access the file")

    monkeypatch.setattr(company_trials, "_STEP_SECONDS", 0.0)
    monkeypatch.setattr(company_trials, "_ACTS", (refuse,))
    verdict, detail = run(NAMED["busy writer beside the agent"], bench)
    assert verdict == "failed"
    assert detail.startswith("the writer got an error at its file ")
    assert detail.endswith(": The process cannot access the file")


@pytest.mark.parametrize("name", ["busy writer beside the agent", "folder moved in", "asleep and awake"])
def test_without_a_micrograph_there_is_nothing_to_try(bench, living, name):
    assert run(NAMED[name], bench) == ("skipped", "there is no micrograph to save again")


def test_files_that_are_never_answered_fail(bench, living, monkeypatch):
    (living.folder / "in-place").mkdir()
    (living.folder / "in-place" / "a.dm3").write_bytes(b"micrograph")
    monkeypatch.setattr(company_trials, "ANSWER_SECONDS", 0.1)
    assert run(NAMED["folder moved in"], bench) == ("failed", "3 of 3 files have no sidecar after 0.1 s")


@pytest.mark.parametrize(
    ("name", "words"),
    [(".scopewatch-worker-0a.tmp", "halves are left: "), ("a.dm3.json", "a.dm3.json is no valid")],
)
def test_halves_that_a_stop_leaves_fail(tmp_path, name, words, monkeypatch):
    (tmp_path / name).write_bytes(b"half")
    monkeypatch.setattr(agent_trials, "is_our_temporary", lambda path: path.name.endswith(".tmp"))
    with pytest.raises(Failed, match=words):
        agent_trials._require_whole(tmp_path)
