"""Doctor names what is wrong with a PC in lines with advice, and runs where nothing else does."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from edge_agent.diagnosing import agent_checks, doctor, folder_checks, installation, mounts, pc_checks
from edge_agent.diagnosing.agent_checks import Running, Settings
from edge_agent.diagnosing.apart import Ended, how_it_died, run_python
from edge_agent.diagnosing.diagnosis import (
    NOT_VERIFIED,
    Line,
    as_json,
    fail,
    from_json,
    marked,
    ok,
    summary_of,
    text_of,
)
from edge_agent.diagnosing.folder_checks import Asked, Inside, folder_lines
from edge_agent.diagnosing.windows_facts import PF_AVX, PF_AVX2, RealWindows, sleep_minutes_in
from edge_agent.model_names import shipped_models
from edge_agent.status import sole_agent
from edge_agent.watching.volumes import Volume

REPOSITORY = Path(__file__).resolve().parents[2]
needs_posix = pytest.mark.skipif(os.name == "nt", reason="rights and signals of POSIX")
NOT_ROOT = hasattr(os, "geteuid") and os.geteuid() != 0


class FakeWindows:
    """Windows as a test wants it."""

    def __init__(self, **answers):
        self.answers = answers

    def __getattr__(self, name):
        answer = self.answers.get(name)
        return answer if callable(answer) else lambda *arguments: answer


def verdicts(lines):
    return {line.check: line.verdict for line in lines}


def run_module(module, *arguments, path=(), **environment):
    """Run a module in a process of its own, with folders before this installation."""
    places = os.pathsep.join([*map(str, path), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, encoding="utf-8", timeout=100, env=os.environ | {"PYTHONPATH": places} | environment,
    )  # fmt: skip


def broken(folder, name, code):
    """Put a package into a folder that hides the installed one."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    return folder


# --- a line


def test_a_line_says_what_was_seen_and_what_to_do():
    assert text_of(ok("memory", "8 GiB")) == ["ok    memory: 8 GiB"]
    assert text_of(fail("memory", "none", "buy some")) == ["fail  memory: none", "        -> buy some"]
    assert summary_of([ok("a", "b"), ok("a", "b"), fail("a", "b", "c")]) == "3 checks: 2 ok, 1 fail"
    assert from_json(as_json(fail("a", "b", "c"))) == fail("a", "b", "c")


def test_on_windows_every_line_says_that_nobody_saw_it_there():
    assert marked(ok("a", "b"), "linux") == ok("a", "b")
    assert marked(ok("a", "b"), "win32") == Line("a", "ok", "b", None, NOT_VERIFIED)
    assert text_of(marked(ok("a", "b"), "win32")) == ["ok    a: b  [not verified on Windows]"]


# --- processes apart


@needs_posix
@pytest.mark.parametrize(
    ("code", "why"),
    [
        pytest.param("raise SystemExit(3)", "exit code 3", id="by itself"),
        pytest.param("1 / 0", "ZeroDivisionError: division by zero", id="traceback"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "the process was ended by SIGILL (this processor lacks what the library was built for)",
            id="illegal instruction",
        ),
        pytest.param("import os; os.abort()", "the process was ended by SIGABRT", id="crash"),
    ],
)  # fmt: skip
def test_whatever_dies_apart_is_told(code, why):
    end = run_python(code, seconds=30)
    assert (end.well, end.why) == (False, why)


def test_what_does_not_end_is_ended():
    end = run_python("import time; time.sleep(100)", seconds=0.5)
    assert (end.code, end.why) == (None, "did not end in time")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xC000001D, "illegal instruction"), (-1073741795, "illegal instruction"), (0xC0000135, "a DLL that was"),
        (-int(signal.SIGTERM), "SIGTERM"), (1, None), (0, None),
    ],
)  # fmt: skip
def test_exit_codes_in_words(code, words):
    told = how_it_died(code)
    assert told is None if words is None else words in told


# --- the PC


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        pytest.param({"version": (3, 11, 7)}, "ok", "Python 3.11.7, 64 bit", id="as it should be"),
        pytest.param({"version": (3, 10, 1)}, "fail", "install Python 3.11 or newer", id="too old"),
        pytest.param({"bits": 32}, "fail", "install a 64-bit Python", id="32 bit"),
    ],
)
def test_python(facts, verdict, words):
    line = pc_checks.python_lines(**({"version": (3, 12, 0), "bits": 64, "place": "/opt/python"} | facts))[0]
    assert line.verdict == verdict
    assert words in line.seen + (line.advice or "")


@pytest.mark.parametrize(
    ("changeable_by", "is_service", "verdict", "words"),
    [
        pytest.param(None, True, "ok", "fit for a system service", id="an administrator's"),
        pytest.param("user 1000", False, "ok", "not for a system service", id="a user's, no service"),
        pytest.param(
            "user 1000", True, "warn", "runs with the service's rights", id="a user's, and a service"
        ),
    ],
)
def test_where_python_lies(changeable_by, is_service, verdict, words):
    line = pc_checks.python_lines(changeable_by=changeable_by, is_service=is_service)[1]
    assert (line.verdict, words in line.seen) == (verdict, True)


@needs_posix
def test_who_can_change_a_place(tmp_path):
    assert pc_checks.who_can_change(Path("/usr")) is None
    assert pc_checks.who_can_change(Path("/nowhere/at/all")) is None
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    assert pc_checks.who_can_change(place) is not None
    profile = Path("/c/Users/somebody")
    assert pc_checks.who_can_change(profile / "venv", platform_name="win32", home=profile) == "user somebody"
    assert pc_checks.who_can_change(Path("/c/Program Files"), platform_name="win32", home=profile) is None


@pytest.mark.parametrize(
    ("machine", "flags", "verdict", "words"),
    [
        pytest.param("x86_64", {"avx", "avx2"}, "ok", "AVX and AVX2", id="usual"),
        pytest.param("AMD64", {"avx"}, "warn", "without AVX2", id="old"),
        pytest.param("x86_64", {"sse4_2"}, "fail", "without AVX", id="too old"),
        pytest.param("x86_64", None, "skip", "does not say", id="unknown"),
        pytest.param("aarch64", None, "ok", "no further features", id="ARM"),
        pytest.param("i686", {"avx"}, "fail", "i686", id="32 bit"),
        pytest.param("", None, "fail", "unknown", id="no name"),
    ],
)
def test_processor(machine, flags, verdict, words):
    line = pc_checks.processor_lines(machine, 4, lambda: flags)[0]
    assert (line.verdict, words in line.seen) == (verdict, True)


@pytest.mark.parametrize(
    ("features", "verdict"),
    [({PF_AVX, PF_AVX2}, "ok"), ({PF_AVX}, "warn"), (set(), "fail"), (None, "skip")],
)
def test_processor_as_windows_tells_it(features, verdict):
    windows = FakeWindows(has_feature=lambda number: None if features is None else number in features)
    assert pc_checks.processor_lines("AMD64", 4, windows=windows)[0].verdict == verdict


def test_a_single_core_is_worth_a_word():
    assert pc_checks.processor_lines("aarch64", 1)[1].verdict == "warn"
    assert pc_checks.processor_lines("aarch64", None)[1].verdict == "ok"


def test_flags_come_from_the_first_processor(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx\n\nprocessor : 1\nflags : fpu\n")
    assert pc_checks.features_on_linux(file) == {"fpu", "avx"}
    assert pc_checks.features_on_linux(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("memory", "verdict"),
    [((16000, 9000), "ok"), ((16000, 500), "fail"), ((6000, 4000), "warn"), (None, "skip")],
)
def test_memory(memory, verdict):
    assert pc_checks.memory_line(memory, 4096).verdict == verdict


def test_memory_of_linux(tmp_path):
    file = tmp_path / "meminfo"
    file.write_text("MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n")
    assert pc_checks.memory_on_linux(file) == (16, 8)
    file.write_text("MemTotal: nonsense\n")
    assert pc_checks.memory_on_linux(file) is None


@pytest.mark.parametrize(("free", "verdict"), [(5000, "ok"), (1500, "warn"), (1000, "fail"), (None, "skip")])
def test_disks(tmp_path, free, verdict):
    assert pc_checks.disk_line("outputs", tmp_path, 1024, lambda folder: free).verdict == verdict


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    assert pc_checks.free_space_mib(tmp_path / "a" / "b") == pytest.approx(
        pc_checks.free_space_mib(tmp_path), abs=64
    )


@pytest.mark.parametrize(
    ("has", "needed", "verdict"),
    [
        (("glibc", "2.36"), (2, 28), "ok"), (("glibc", "2.17"), (2, 28), "fail"),
        (("glibc", "2.36"), None, "ok"), (("", ""), (2, 28), "fail"),
    ],
)  # fmt: skip
def test_c_library(has, needed, verdict):
    assert pc_checks.glibc_line(has, needed).verdict == verdict


@pytest.mark.parametrize(
    ("versions", "verdict", "words"),
    [
        pytest.param(
            {"msvcp140.dll": (14, 44, 0), "vcruntime140_1.dll": (14, 44, 0)}, "ok", "14.44", id="new"
        ),
        pytest.param(
            {"msvcp140.dll": (14, 38, 0), "vcruntime140_1.dll": (14, 44, 0)}, "fail", "needs 14.40", id="old"
        ),
        pytest.param(
            {"msvcp140.dll": (14, 44, 0)}, "fail", "vcruntime140_1.dll cannot be loaded", id="one missing"
        ),
        pytest.param({}, "fail", "msvcp140.dll and vcruntime140_1.dll cannot", id="none"),
    ],
)
def test_vc_runtime(versions, verdict, words):
    line = pc_checks.runtime_line(FakeWindows(dll_version=versions.get))
    assert (line.verdict, words in line.seen) == (verdict, True)


def test_packages_are_imported_each_apart():
    ends = {"a": Ended(0, "", ""), "b_module": Ended(-4, "", ""), "c": Ended(None, "", "")}
    lines = pc_checks.package_lines(
        {"a": "1.0", "b": "2.0", "c": "3.0"}.get,
        ends.__getitem__,
        {"a": "a", "b": "b_module", "c": "c", "d": "d"},
    )
    assert [(line.check, line.verdict) for line in lines] == [
        ("packages", "ok"), ("packages missing", "fail"), ("package b", "fail"), ("package c", "fail"),
    ]  # fmt: skip
    assert lines[0].seen == "1 can be imported: a 1.0"
    assert "SIGILL" in lines[2].seen
    assert "did not end in time" in lines[3].seen


def test_every_dependency_of_the_agent_is_looked_at():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    needed = {
        line.split(";")[0].split(">")[0].split("~")[0].split("=")[0].strip()
        for line in project["dependencies"]
    }
    assert set(installation.DEPENDENCIES) | set(installation.WINDOWS_DEPENDENCIES) == needed
    assert set(pc_checks.needed_modules("win32")) == needed


DAY = 86400.0


@pytest.mark.parametrize(
    ("now", "verdict"), [(100 * DAY, "ok"), (99.5 * DAY, "ok"), (50 * DAY, "fail"), (9000 * DAY, "warn")]
)
def test_clock(now, verdict):
    line = pc_checks.clock_line(now, 100 * DAY)
    assert line.verdict == verdict
    assert "UTC" in line.seen


@pytest.mark.parametrize(
    ("realtime", "verdict", "words"),
    [(True, "ok", "is on"), (False, "ok", "is off"), (None, "skip", "cannot be read")],
)
def test_antivirus_exclusions_are_named(realtime, verdict, words):
    windows = FakeWindows(realtime_protection=realtime)
    line = pc_checks.antivirus_line(Path("/state"), [Path("/scope")], "/python", windows)
    assert (line.verdict, words in line.seen) == (verdict, True)
    for asked in ("folder /state", f"/scope{os.sep}*.json and *.heatmap.png", "process /python"):
        assert asked in line.advice


@pytest.mark.parametrize(("minutes", "verdict"), [(0, "ok"), (30, "warn"), (None, "skip")])
def test_sleep(minutes, verdict):
    assert pc_checks.power_line(FakeWindows(sleep_minutes=minutes)).verdict == verdict
    assert pc_checks.power_line(None).verdict == "skip"


@pytest.mark.parametrize(
    ("report", "minutes"),
    [
        ("Index der aktuellen Wechselstromeinstellung: 0x00000708\n  Gleichstrom: 0x00000384\n", 30),
        ("AC Power Setting Index: 0x00000000\nDC: 0x00000384\n", 0),
        ("powercfg is not recognized", None),
    ],
)
def test_powercfg_is_read_in_any_language(report, minutes):
    assert sleep_minutes_in(report) == minutes


@needs_posix
def test_windows_has_no_facts_elsewhere():
    real = RealWindows()
    facts = [real.has_feature(39), real.memory_mib(), real.dll_version("msvcp140"), real.drive_kind("E:"),
             real.share_of("E:"), real.long_paths(), real.realtime_protection()]  # fmt: skip
    assert facts == [None] * len(facts)


# --- a folder


def asked(folder, **answers):
    usual = {"volume": lambda path: Volume(), "heard": lambda own: 0.01, "windows": None}
    return Asked(folder, **(usual | answers))


def test_a_sound_folder_and_not_a_trace_in_it(tmp_path):
    (tmp_path / "a.dm3").write_bytes(b"theirs")
    before = (tmp_path / "a.dm3").stat()
    lines = list(folder_lines(asked(tmp_path)))

    assert {line.verdict for line in lines} <= {"ok", "skip"}
    assert "1 micrographs in 1 folders; as " in lines[1].seen
    assert [path.name for path in tmp_path.iterdir()] == ["a.dm3"]
    after = (tmp_path / "a.dm3").stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    )


def test_the_real_edges_on_this_pc(tmp_path):
    lines = list(folder_lines(Asked(tmp_path)))
    assert "fail" not in verdicts(lines).values()
    assert "local disk" in lines[0].seen or "share" in lines[0].seen


@pytest.mark.parametrize(
    ("make", "verdict", "words"),
    [
        pytest.param(lambda path: None, "warn", "No such file", id="missing"),
        pytest.param(lambda path: path.write_bytes(b""), "fail", "Not a directory", id="a file"),
    ],
)
def test_a_folder_that_cannot_be_listed(tmp_path, make, verdict, words):
    make(tmp_path / "scope")
    line = list(folder_lines(asked(tmp_path / "scope")))[-1]
    assert (line.check, line.verdict, words in line.seen) == ("folder listed", verdict, True)


@needs_posix
@pytest.mark.skipif(not NOT_ROOT, reason="root may do everything")
def test_rights_that_are_missing_name_the_account(tmp_path):
    (tmp_path / "a.dm3").write_bytes(b"theirs")
    (tmp_path / "a.dm3").chmod(0)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        lines = {line.check: line for line in folder_lines(asked(tmp_path))}
    finally:
        tmp_path.chmod(0o700)
    assert lines["file read"].verdict == lines["outputs written"].verdict == "fail"
    assert folder_checks.account() in lines["outputs written"].advice


def test_a_read_only_folder_is_told(tmp_path, monkeypatch):
    def refuse(path, *rest, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    line = {line.check: line for line in folder_lines(asked(tmp_path))}["outputs written"]
    assert (line.verdict, "Read-only file system" in line.seen) == ("fail", True)
    assert "set `output` to another folder" in line.advice


def test_a_file_that_may_not_be_read_is_told_with_the_account(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.dm3").write_bytes(b"theirs")
    monkeypatch.setattr(folder_checks, "open_shared", refuse)
    monkeypatch.setattr(folder_checks.getpass, "getuser", lambda: "LocalService")
    line = {line.check: line for line in folder_lines(asked(tmp_path))}["file read"]
    assert (line.verdict, line.seen) == ("fail", f"{tmp_path / 'a.dm3'}: Permission denied; as LocalService")
    assert line.advice == "give LocalService the right to read the files in it"


@pytest.mark.parametrize(
    ("error", "verdict", "words"),
    [
        (ImportError("No module named 'watchdog'"), "skip", "cannot be tried: No module named 'watchdog'"),
        (
            OSError(28, "No space left on device"),
            "warn",
            "the system gives none here: No space left on device",
        ),
    ],
)
def test_events_that_cannot_be_had(tmp_path, error, verdict, words):
    def refuse(own):
        raise error

    line = {line.check: line for line in folder_lines(asked(tmp_path, heard=refuse))}["change events"]
    assert (line.verdict, line.seen) == (verdict, words)


def test_outputs_elsewhere_leave_the_folder_untouched(tmp_path):
    scope, output = tmp_path / "scope", tmp_path / "out"
    scope.mkdir()
    output.mkdir()
    os.utime(scope, (1, 1))
    lines = verdicts(folder_lines(asked(scope, output=output)))
    assert (lines["outputs written"], lines["change events"]) == ("ok", "skip")
    assert scope.stat().st_mtime == 1
    assert list(output.iterdir()) == []


def test_an_output_folder_that_is_not_there_can_be_made_or_not(tmp_path):
    line = {line.check: line for line in folder_lines(asked(tmp_path, output=tmp_path / "a" / "b"))}[
        "outputs written"
    ]
    assert (line.verdict, "can be made" in line.seen) == ("ok", True)
    assert not (tmp_path / "a").exists()


def test_what_a_killed_doctor_left_is_removed_by_the_next(tmp_path):
    old, young = tmp_path / f"{folder_checks.OWN}old", tmp_path / f"{folder_checks.OWN}young"
    for place in (old, young):
        (place / "in").mkdir(parents=True)
    os.utime(old, (time.time() - 7200,) * 2)
    list(folder_lines(asked(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


@pytest.mark.parametrize(
    ("answers", "check", "verdict", "words"),
    [
        pytest.param({"volume": lambda path: Volume(True)}, "kind of disk", "ok", "read 3 s after", id="share"),
        pytest.param({"heard": lambda own: None}, "change events", "warn", "none within 5 s", id="no events"),
        pytest.param({"now": lambda: time.time() - 100}, "clock of the disk", "warn", "100 s ahead", id="ahead"),
        pytest.param({"now": lambda: time.time() + 100}, "clock of the disk", "warn", "100 s behind", id="behind"),
        pytest.param({"windows": FakeWindows(long_paths=False)}, "long paths", "ok", "is not set", id="short"),
        pytest.param({"windows": FakeWindows(long_paths=True)}, "long paths", "ok", "is set", id="long paths"),
    ],
)  # fmt: skip
def test_what_a_folder_can_be_like(tmp_path, answers, check, verdict, words):
    line = {line.check: line for line in folder_lines(asked(tmp_path, **answers))}[check]
    assert (line.verdict, words in line.seen) == (verdict, True)


class DrivePath(type(Path())):
    """A path that has a drive letter on every system."""

    drive = "Z:"


@pytest.mark.parametrize(
    ("share", "words"), [("\\\\server\\scope", "\\\\server\\scope"), (None, "\\\\server\\share")]
)
def test_a_mapped_drive_is_named_with_its_share(tmp_path, share, words):
    windows = FakeWindows(drive_kind=4, share_of=share)
    lines = list(folder_checks.drive_lines(asked(DrivePath(tmp_path), windows=windows)))
    assert (lines[1].check, lines[1].verdict) == ("mapped drive", "warn")
    assert words in lines[1].advice
    assert "a service does not have it" in lines[1].seen


def test_names_without_room_are_counted(tmp_path):
    inside = folder_checks.look_inside(asked(tmp_path))
    assert folder_checks.names_line(tmp_path, inside).verdict == "ok"
    (tmp_path / f"{'n' * 246}.dm3").write_bytes(b"")
    inside = folder_checks.look_inside(asked(tmp_path))
    line = folder_checks.names_line(tmp_path, inside)
    assert (inside.too_long, line.verdict) == (1, "warn")


@pytest.mark.parametrize(("limit", "verdict"), [("8192\n", "ok"), ("100\n", "warn"), ("no number", "skip")])
def test_watches_are_compared_with_folders(tmp_path, limit, verdict):
    file = tmp_path / "max_user_watches"
    file.write_text(limit)
    assert folder_checks.watch_line(tmp_path, Inside(folders=80), file).verdict == verdict


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("/mnt/scope/a", "cifs at /mnt/scope"), ("/mnt/scopes", "ext4 at /"), ("/mnt/over/x", "tmpfs at /mnt/over"),
    ],
)  # fmt: skip
@needs_posix
def test_the_disk_is_named(folder, told):
    Mount = mounts._Mount
    found = [
        Mount("/", "ext4", ""),
        Mount("/mnt/over", "ext4", ""),
        Mount("/mnt/over", "tmpfs", ""),
        Mount("/mnt/scope", "cifs", ""),
    ]
    assert mounts.disk_text(Path(folder), found) == told
    assert mounts.disk_text(Path(folder), []) == ""


def test_mounts_are_read_without_psutil(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(
        "36 35 98:0 / / rw,noatime master:1 - ext4 /dev/root rw\n"
        "37 36 0:45 / /mnt/my\\040scope rw - cifs //server/scope rw\nshort\n"
    )
    found = mounts.mounts_on_linux(file)
    assert [(mount.mountpoint, mount.fstype) for mount in found] == [("/", "ext4"), ("/mnt/my scope", "cifs")]
    windows = FakeWindows(drive_kind=lambda root: {"C:\\": 3, "Z:\\": 4}.get(root, 1))
    assert [(m.mountpoint, m.opts) for m in mounts.mounts_on_windows(windows)] == [
        ("C:\\", ""),
        ("Z:\\", "remote"),
    ]


# --- the agent


def configured(tmp_path, text):
    file = tmp_path / "agent.toml"
    file.write_text(text, "utf-8")
    return agent_checks.settings_of(file, ())


def test_a_sound_configuration_is_taken(tmp_path):
    settings, line = configured(tmp_path, 'folders = ["scope"]\noutput = "out"\n[page]\nport = 1234\n')
    assert (line.verdict, settings.page_port) == ("ok", 1234)
    assert (settings.folders, settings.output) == ((tmp_path / "scope",), tmp_path / "out")


def test_a_faulty_configuration_is_told_and_read_as_far_as_it_can_be(tmp_path):
    settings, line = configured(tmp_path, 'folders = ["scope"]\nstate = "st"\nquiet_secnds = 3\n')
    assert (line.verdict, "quiet_secnds: there is no such key" in line.seen) == ("fail", True)
    assert (settings.folders, settings.state) == ((tmp_path / "scope",), tmp_path / "st")


@pytest.mark.parametrize(
    "text", ["folders = [", "\0", 'folders = 3\nstate = ["x"]\n', 'folders = [3, "a"]\n']
)
def test_no_configuration_ends_doctor(tmp_path, text):
    settings, line = configured(tmp_path, text)
    assert line.verdict == "fail"
    assert settings.state.is_absolute()


def test_where_the_agents_code_cannot_run_the_file_is_still_read(tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text('folders = ["scope"]\n')
    settings, line = agent_checks.settings_of(
        file, (), lambda code, arguments: Ended(1, "", "ImportError: no pydantic")
    )
    assert (line.verdict, "no pydantic" in line.seen) == ("skip", True)
    assert settings.folders == (tmp_path / "scope",)


@pytest.mark.parametrize(
    ("environment", "platform", "place"),
    [
        ({"SCOPEWATCH_STATE": "/s"}, "linux", Path("/s")),
        ({"XDG_STATE_HOME": "/x"}, "linux", Path("/x/scopewatch")),
        ({}, "linux", Path.home() / ".local/state/scopewatch"),
        ({"LOCALAPPDATA": "/l"}, "win32", Path("/l/scopewatch")),
        ({}, "darwin", Path.home() / "Library/Application Support/scopewatch"),
    ],
)
def test_the_usual_state_folder_is_that_of_platformdirs(environment, platform, place):
    assert agent_checks.usual_state(environment, platform) == place


def test_the_usual_configuration_is_found_as_the_agent_finds_it(tmp_path):
    file = tmp_path / "scopewatch" / "agent.toml"
    file.parent.mkdir()
    file.write_text("")
    found = agent_checks.usual_config
    assert found({"SCOPEWATCH_CONFIG": "/c.toml", "XDG_CONFIG_HOME": str(tmp_path)}, "linux") == Path(
        "/c.toml"
    )
    assert found({"SCOPEWATCH_CONFIG": "", "XDG_CONFIG_HOME": str(tmp_path)}, "linux") is None
    assert found({"XDG_CONFIG_HOME": str(tmp_path)}, "linux") == file
    assert found({"LOCALAPPDATA": "/none", "PROGRAMDATA": str(tmp_path)}, "win32") == file


def test_a_running_agent_is_seen_by_its_lock(tmp_path):
    assert agent_checks.running_agent(tmp_path / "none").running is False
    with sole_agent(tmp_path, []):
        seen = agent_checks.running_agent(tmp_path)
    assert (seen.running, seen.unreadable is not None) == (True, True)


@pytest.mark.parametrize(
    ("running", "verdict", "words"),
    [
        (Running(False), "ok", "none holds"),
        (Running(True, 7, "1.0"), "ok", "process 7, version 1.0"),
        (Running(True, 7, "0.9"), "warn", "runs version 0.9, installed is 1.0"),
        (Running(True, unreadable="cannot be read"), "warn", "cannot be read"),
        (Running(why_unknown="no pydantic"), "skip", "no pydantic"),
    ],
)
def test_the_running_agent_in_words(tmp_path, running, verdict, words):
    line = agent_checks.running_line(running, tmp_path, "1.0")
    assert (line.verdict, words in line.seen) == (verdict, True)


@pytest.mark.parametrize(
    ("enabled", "port", "free", "running", "verdict", "words"),
    [
        (True, 8747, True, Running(False), "ok", "is free"),
        (True, 8747, False, Running(True), "ok", "is held, as it should be"),
        (True, 8747, False, Running(False), "warn", "held by another.exe (process 7)"),
        (True, 0, False, Running(False), "ok", "any free one"),
        (False, 8747, False, Running(False), "skip", "switched off"),
    ],
)
def test_the_pages_port(enabled, port, free, running, verdict, words):
    line = agent_checks.port_line(
        enabled, port, running, lambda number: free, lambda number: "another.exe (process 7)"
    )
    assert (line.verdict, words in line.seen) == (verdict, True)


def test_a_port_that_is_held_is_named_with_its_holder():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert not agent_checks.port_is_free(port)
        assert f"(process {os.getpid()})" in agent_checks.port_line(True, port, Running(False)).seen
    assert agent_checks.port_is_free(port)


@pytest.mark.parametrize(
    ("end", "verdict", "words"),
    [
        (
            Ended(0, "a: b 1, every file as its manifest says\ngolden replay passed\n", ""),
            "ok",
            "golden replay passed",
        ),
        (Ended(1, "", "edge-agent: model.onnx: SHA-256 is wrong\n"), "fail", "SHA-256 is wrong"),
        (Ended(-4, "", ""), "fail", "SIGILL"),
        (Ended(None, "", ""), "fail", "did not end in time"),
    ],
)
def test_the_model(end, verdict, words):
    line = agent_checks.model_line("m", lambda options: end)
    assert (line.verdict, words in line.seen) == (verdict, True)


def test_the_model_is_that_of_the_configuration_that_was_named(tmp_path, tiny, monkeypatch):
    broken, sound = tmp_path / "broken.toml", tmp_path / "sound.toml"
    broken.write_text("qiet_seconds = 1\n")
    sound.write_text(f"model = {json.dumps(str(tiny))}\n")
    monkeypatch.setenv("SCOPEWATCH_CONFIG", str(broken))
    line = agent_checks.model_line(None, config=sound)
    assert (line.verdict, str(tiny) in line.seen, "toml" in line.seen) == ("ok", True, False)


def test_a_faulty_configuration_is_not_held_against_the_model(tmp_path, tiny, monkeypatch):
    broken = tmp_path / "broken.toml"
    broken.write_text("qiet_seconds = 1\n")
    monkeypatch.setenv("SCOPEWATCH_CONFIG", str(broken))
    assert agent_checks.model_line(str(tiny)).verdict == "ok"


def test_a_damaged_model_fails(tmp_path, tiny):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.onnx").write_bytes(b"\0" + (tiny / "model.onnx").read_bytes()[1:])
    assert agent_checks.model_line(str(tiny)).verdict == "ok"
    line = agent_checks.model_line(str(tmp_path))
    assert (line.verdict, "SHA-256" in line.seen) == ("fail", True)


@pytest.mark.parametrize(
    ("answers", "verdict", "is_system"),
    [
        pytest.param({(): "LoadState=loaded\nActiveState=active\n"}, "ok", True, id="system service"),
        pytest.param(
            {("--user",): "LoadState=loaded\nActiveState=inactive\n"}, "ok", False, id="user service"
        ),
        pytest.param({(): "LoadState=loaded\nActiveState=failed\n"}, "fail", True, id="failed"),
        pytest.param({(): "LoadState=not-found\nActiveState=inactive\n"}, "skip", False, id="none"),
        pytest.param({}, "skip", False, id="no systemd"),
    ],
)
def test_services_of_systemd(answers, verdict, is_system):
    def run(command):
        options = tuple(item for item in command if item == "--user")
        return Ended(0, answers[options], "") if options in answers else Ended(1, "", "no bus")

    line, seen = agent_checks.service_line("linux", run)
    assert (line.verdict, seen) == (verdict, is_system)


@pytest.mark.parametrize(
    ("end", "verdict", "is_system"),
    [
        (Ended(0, "STATE : 4  RUNNING", ""), "ok", True), (Ended(0, "STATE : 1  STOPPED", ""), "ok", True),
        (Ended(1060, "", ""), "skip", False), (Ended(127, "", "no sc.exe"), "skip", False),
    ],
)  # fmt: skip
def test_services_of_windows(end, verdict, is_system):
    line, seen = agent_checks.service_line("win32", lambda command: end)
    assert (line.verdict, seen) == (verdict, is_system)


def test_the_state_folder_has_to_be_writable(tmp_path):
    assert agent_checks.state_line(tmp_path).verdict == "ok"
    assert agent_checks.state_line_here(tmp_path / "new" / "one").verdict == "ok"
    (tmp_path / "file").write_bytes(b"")
    assert agent_checks.state_line_here(tmp_path / "file").verdict == "fail"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- the whole


def test_the_checks_of_a_windows_pc(tmp_path, monkeypatch):
    facts = FakeWindows(
        memory_mib=(16000, 8000), has_feature=True, dll_version=lambda name: (14, 44, 0), sleep_minutes=30,
        realtime_protection=True,
    )  # fmt: skip
    monkeypatch.setattr(doctor, "RealWindows", lambda: facts)
    monkeypatch.setattr(doctor.pc_checks, "package_lines", lambda: [])
    monkeypatch.setattr(sys, "platform", "win32")
    settings = Settings(folders=(tmp_path,), state=tmp_path)
    lines = [line for name, check in doctor._pc_checks(settings) for line in doctor._safely(name, check)]
    monkeypatch.undo()

    told = verdicts(lines)
    assert (
        told | {"VC++ runtime": "ok", "processor": "ok", "memory": "ok", "sleep": "warn", "antivirus": "ok"}
        == told
    )
    assert "C library" not in told


def test_a_check_that_fails_in_itself_is_a_line():
    def check():
        yield ok("a", "b")
        raise KeyError("x")

    lines = list(doctor._safely("thing", check))
    assert [line.verdict for line in lines] == ["ok", "fail"]
    assert "the check itself failed: KeyError: 'x'" in lines[1].seen


def test_a_disk_that_hangs_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(pc_checks, "_ASK_DISK", "import time; time.sleep(100)")
    monkeypatch.setattr(agent_checks, "_ASK_STATE", "import time; time.sleep(100)")
    assert pc_checks.free_space_mib(tmp_path, seconds=0.3) is None
    line = agent_checks.state_line(tmp_path, seconds=0.3)
    assert (line.verdict, line.seen) == ("fail", f"{tmp_path}: did not end in time")


@needs_posix
def test_a_folder_that_hangs_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_FOLDER_PROGRAM", "import time; time.sleep(100)")
    (line,) = doctor.folder_lines_apart(tmp_path, Settings(), seconds=0.5)
    assert (line.verdict, "did not answer within 0.5 s" in line.seen) == ("fail", True)


def test_doctor_on_this_pc(tmp_path, tiny):
    (tmp_path / "scope").mkdir()
    (tmp_path / "agent.toml").write_text(f'folders = ["scope"]\nstate = "state"\nmodel = "{tiny}"\n')
    done = run_module("edge_agent", "doctor", "--config", tmp_path / "agent.toml", "--json")

    report = json.loads(done.stdout)
    lines = [from_json(line) for line in report["lines"]]
    assert report["schema_name"] == "scopewatch.doctor/1"
    assert done.returncode == int(any(line.verdict == "fail" for line in lines)), done.stderr
    assert {line.check for line in lines} >= {
        "python", "processor", "memory", "packages", "clock", "antivirus", "sleep", "configuration",
        "running agent", "port of the page", "model", "service", "kind of disk", "folder listed",
        "outputs written", "long names",
    }  # fmt: skip
    assert (
        verdicts(lines)["packages"] == verdicts(lines)["model"] == verdicts(lines)["outputs written"] == "ok"
    )
    assert all(line.advice for line in lines if line.verdict in ("warn", "fail"))
    assert not (tmp_path / "state").exists()


BROKEN = 'raise ImportError("DLL load failed while importing it: The specified module could not be found.")'


@pytest.mark.parametrize("package", ["typer", "pydantic"])
def test_a_broken_package_is_one_line_and_doctor_still_runs(tmp_path, package):
    hidden = broken(tmp_path / "first", package, BROKEN)
    done = run_module("edge_agent", "status", path=[hidden], SCOPEWATCH_STATE=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"edge-agent: this installation is broken: {package}: DLL load failed")
    assert line.endswith("`edge-agent doctor` says what is wrong and what to do")

    doctored = run_module("edge_agent.diagnosing.doctor", path=[hidden], SCOPEWATCH_STATE=str(tmp_path))
    assert doctored.returncode == 1
    assert f"fail  package {package}: " in doctored.stdout
    assert "DLL load failed" in doctored.stdout
    assert doctored.stderr == ""


@needs_posix
def test_a_package_that_kills_its_process_is_a_line(tmp_path):
    hidden = broken(
        tmp_path / "first", "onnxruntime", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    )
    done = run_module("edge_agent", "doctor", path=[hidden], SCOPEWATCH_STATE=str(tmp_path))
    assert done.returncode == 1
    assert "fail  package onnxruntime: " in done.stdout
    assert "ended by SIGILL (this processor lacks what the library was built for)" in done.stdout


def test_doctor_imports_nothing_but_the_standard_library():
    code = (
        "import sys, edge_agent.diagnosing.doctor, edge_agent.diagnosing.support, edge_agent.__main__\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*sorted(names - set(sys.stdlib_module_names) - {'edge_agent', '__main__', '__mp_main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", ["edge_agent", "edge_agent.cli"])
def test_versions(module):
    done = run_module(module, "--version")
    from edge_agent import __version__

    lines = dict(
        line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if not line.startswith("Python")
    )
    assert done.returncode == 0
    assert lines["scopewatch"] == __version__
    assert lines["onnxruntime"] == installation.version_of("onnxruntime")
    assert lines["default model"] == shipped_models()[-1].name


@pytest.mark.parametrize("module", ["edge_agent", "edge_agent.cli"])
def test_a_wrong_option_is_one_line(module):
    done = run_module(module, "doctor", "--nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "edge-agent doctor: unrecognized arguments: --nope (see edge-agent doctor --help)\n"
