"""The archive for whoever helps: everything of use is in it, no planted name is, whatever state the agent is in."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import unicodedata
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from edge_agent.diagnosing import support
from edge_agent.diagnosing.support import SupportFailed, Wanted, write_support
from edge_agent.diagnosing.vocabulary import canonical

REPOSITORY = Path(__file__).resolve().parents[2]
PERSON, PC, PROJECT, SAMPLE = (
    "qwendolin",
    "TEM-KELLER-07",
    "Müßiggang & Söhne",
    "Zwölf Boxkämpfer, round 5 nm",
)
SECRETS = ("hunter2hunter2", "glpat-Zx81", "Vorzimmer", "4711.example.org", "Prof. Zanzibar")
PLANTED = (PERSON, PC, PROJECT, SAMPLE, *SECRETS, "Boxkämpfer", "Söhne", "Zanzibar", "example.org")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A PC with a person, a host name, a folder of micrographs and a state folder, all with names in them."""
    home = tmp_path / PERSON
    for variable in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(variable, PERSON)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(support.socket, "gethostname", lambda: PC)
    scope, state = home / PROJECT, home / "state"
    scope.mkdir(parents=True)
    (scope / f"{SAMPLE}.dm3").write_bytes(b"micrograph")
    (scope / f"{SAMPLE}.dm3.json").write_bytes(b"sidecar")
    state.mkdir()
    (home / "agent.toml").write_text(
        f"# for {PERSON} of {SECRETS[2]}\n"
        f'folders = ["{PROJECT}"]\nstate = "state"\n[instrument]\nname = "{SECRETS[4]}"\n'
        f'[events]\nwebhook_url = "https://{PERSON}:{SECRETS[0]}@{SECRETS[3]}/T?key={SECRETS[1]}"\n',
        "utf-8",
    )
    return home


def written(place, **wanted):
    """Write an archive, and return its members as text."""
    output = place / "out.zip"
    write_support(Wanted(output, place / "agent.toml", **{"doctor": False} | wanted))
    with zipfile.ZipFile(output) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def spellings(text):
    forms = {
        unicodedata.normalize(form, case)
        for form in ("NFC", "NFD")
        for case in (text, text.upper(), text.lower())
    }
    forms |= {quote(form) for form in forms} | {quote(form, safe="") for form in forms}
    return forms | {json.dumps(form)[1:-1] for form in forms}


def planted_lines(scope):
    """Log lines, of both kinds, with every planted name in every spelling."""
    for path in (
        f"{scope}/{SAMPLE}.dm3",
        f"C:\\Users\\{PERSON}\\{PROJECT}\\{SAMPLE}.dm3",
        f"\\\\{PC}\\{PROJECT}\\{SAMPLE}.dm3",
    ):
        for form in spellings(path):
            yield f"2026-11-30 10:00:00,123 WARNING {form}: cannot be read: Permission denied"
            yield json.dumps(
                {"time": "2026-11-30T10:00:00.123Z", "level": "INFO", "message": f"{form} gone", "file": form}
            )
    for text in (*SECRETS, f"{PERSON}@{SECRETS[3]}", f"password={SECRETS[0]}", f"LAB\\{PERSON}", PC):
        for form in spellings(text):
            yield f"2026-11-30 10:00:00,123 ERROR sent by {form} failed"
            yield json.dumps(
                {
                    "level": "ERROR",
                    "message": form,
                    "reason": form,
                    form: 1,
                    "exception": f'File "{form}", line 1',
                }
            )


def plant_everywhere(place):
    scope, state = place / PROJECT, place / "state"
    lines = list(planted_lines(scope))
    (state / "agent.log").write_text("\n".join(lines), "utf-8")
    (state / "agent.log.1").write_bytes("\n".join(lines).encode("utf-16"))
    trouble = {
        "path": f"{scope}/{SAMPLE}.dm3",
        "outcome": "failed",
        "reason": f"{SAMPLE}.dm3 held by {PERSON} on {PC}",
    }
    (state / "status.json").write_text(
        json.dumps({"troubles": [trouble], "page": "http://127.0.0.1:8747/"}), "utf-8"
    )
    (state / "heartbeat.json").write_text(
        json.dumps({"state": "working", "last_file": str(scope / SAMPLE)}), "utf-8"
    )
    (state / "models").mkdir()
    (state / "models" / "store.json").write_text(
        json.dumps({"using": f"{PERSON}-gold-1", "key": SECRETS[1]}), "utf-8"
    )
    (state / f"{SAMPLE}.json").write_text(json.dumps({"user": PERSON}), "utf-8")
    with sqlite3.connect(state / "journal.sqlite") as journal:
        journal.execute("CREATE TABLE files (folder INTEGER, name BLOB)")
        journal.execute("INSERT INTO files VALUES (1, ?)", (os.fsencode(f"{SAMPLE}.dm3"),))
    journal.close()


def assert_clean(members):
    for name, text in members.items():
        plain = canonical(text)
        for secret in PLANTED:
            assert canonical(secret) not in plain, (name, secret)
        assert canonical(f"{SAMPLE}") not in canonical(name)


def test_nothing_that_was_planted_is_in_it(place):
    plant_everywhere(place)
    members = written(place)

    assert set(members) >= {
        "README.txt", "versions.txt", "system.json", "configuration.json", "state-folder.json",
        "state/status.json", "state/heartbeat.json", "state/models/store.json", "logs/agent.log",
        "logs/agent.log.1",
    }  # fmt: skip
    assert_clean(members)


def test_what_happened_to_one_file_can_be_followed_through_all_of_it(place):
    plant_everywhere(place)
    members = written(place)

    path = json.loads(members["state/status.json"])["troubles"][0]["path"]
    token = path.rpartition("/")[2]
    assert token.startswith("<file-") and token.endswith(">.dm3")
    lines = members["logs/agent.log"].splitlines()
    assert sum(token in line for line in lines) > len(lines) // 4
    assert members["logs/agent.log"].count("cannot be read: Permission denied") > 5


def test_it_says_what_is_in_it_and_what_is_not(place):
    plant_everywhere(place)
    readme = written(place)["README.txt"]

    assert "look through these files before you send them" in readme
    assert "micrographs, heatmaps and sidecars: none is in here" in readme
    for name in ("versions.txt", "state/status.json", "logs/agent.log"):
        assert f"- {name}: " in readme


def test_versions_name_every_package(place):
    versions = written(place)["versions.txt"]

    assert "onnxruntime   " in versions
    assert "numpy==" in versions and "pydantic==" in versions


def test_equal_states_give_equal_archives(place):
    plant_everywhere(place)
    first = written(place)
    (place / "out.zip").unlink()
    assert written(place) == first


@pytest.mark.parametrize(
    ("name", "content", "member", "told"),
    [
        pytest.param("status.json", b'{"half": "', "state/status.json", "", id="half a status"),
        pytest.param("heartbeat.json", b"\0" * 100, "state/heartbeat.json", "", id="zeros"),
        pytest.param("store.json", b"[" * 100_000, "state/store.json", "", id="brackets without end"),
        pytest.param("agent.log", b"\xff\xfe\0{\x80", "logs/agent.log", None, id="a log of bytes"),
        pytest.param("agent.log", b"", "logs/agent.log", "", id="an empty log"),
        pytest.param("journal.sqlite", b"no data base", "README.txt", None, id="a damaged journal"),
    ],
)
def test_damaged_files_are_told_and_left_out(place, name, content, member, told):
    (place / "state" / name).write_bytes(content)
    members = written(place)

    assert member in members
    assert told is None or members[member] == told
    if told == "" and content:
        assert f"{member} holds {len(content)} bytes" in members["README.txt"]


@pytest.mark.parametrize(
    ("text", "member", "told"),
    [
        pytest.param("folders = [\nqwendolin", "configuration.txt", "1: folders = ...", id="broken TOML"),
        pytest.param('foldrs = ["Vorzimmer"]', "configuration.json", "<folder", id="unknown key"),
    ],
)
def test_a_faulty_configuration_comes_along_without_its_texts(place, text, member, told):
    (place / "agent.toml").write_text(text, "utf-8")
    members = written(place)

    assert member in members
    assert_clean(members)
    if member.endswith(".txt"):
        assert told in members[member]


def test_no_state_folder_is_no_obstacle(place):
    (place / "state").rmdir()
    assert set(written(place)) == {
        "README.txt",
        "versions.txt",
        "system.json",
        "configuration.json",
        "state-folder.json",
    }


def test_of_many_megabytes_of_logs_the_newest_lines_come_along(place):
    state = place / "state"
    for number in range(6):
        name = "agent.log" if number == 0 else f"agent.log.{number}"
        line = f"2026-11-30 10:00:00,123 INFO number {number}\n"
        (state / name).write_text(line * (10_000_000 // len(line)))
    members = written(place, log_mib=1)

    logs = {name: text for name, text in members.items() if name.startswith("logs/")}
    assert list(logs) == ["logs/agent.log"]
    assert 900_000 < len(logs["logs/agent.log"]) <= 1024 * 1024
    assert set(logs["logs/agent.log"].splitlines()) == {"2026-11-30 10:00:00,123 INFO number 0"}


def test_an_archive_is_never_overwritten_and_a_place_has_to_be_writable(place):
    written(place)
    with pytest.raises(SupportFailed, match="exists already; name another file with --output"):
        write_support(Wanted(place / "out.zip", doctor=False))
    with pytest.raises(SupportFailed, match="cannot be written"):
        write_support(Wanted(place / "nowhere" / "x.zip", doctor=False))


def test_the_command_names_the_archive_and_warns(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "edge_agent", "support", "--output", str(tmp_path / "a.zip")],
        capture_output=True, text=True, cwd=tmp_path, timeout=100,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "SCOPEWATCH_STATE": str(tmp_path / "state")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{tmp_path / 'a.zip'}: ") and first.endswith(" KiB")
    assert "look through it before you send it" in second
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        checks = {line["check"] for line in json.loads(archive.read("doctor.json"))}
    assert checks >= {"python", "packages", "model", "clock"}
