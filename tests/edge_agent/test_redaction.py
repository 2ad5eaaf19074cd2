"""No name survives in a text that is to be sent, however it is written; what the agent said stays readable."""

from __future__ import annotations

import json
import unicodedata
from urllib.parse import quote

import pytest

from edge_agent.diagnosing.redaction import Redactor
from edge_agent.diagnosing.vocabulary import canonical, our_words

FOLDER = "Müßiggang 7, gold (round)"
FILE = "Zwölf Boxkämpfer, round 5 nm"
PERSON, PC = "qwendolin", "TEM-KELLER-07"
PLANTED = (FOLDER, FILE, PERSON, PC, "Müßiggang", "Boxkämpfer", "Zwölf")


@pytest.fixture(scope="module")
def words():
    return our_words()


@pytest.fixture
def redactor(words):
    return Redactor(words, [PERSON], [PC], [f"/data/{FOLDER}"], ["particle-shape-1.2"])


def spellings(name):
    """Every way in which a name may come along."""
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    forms |= {form.upper() for form in forms} | {form.lower() for form in forms}
    forms |= {quote(form) for form in forms} | {json.dumps(form)[1:-1] for form in forms}
    return sorted(forms | {form.encode("unicode_escape").decode() for form in forms})


def assert_nothing_left(told):
    plain = canonical(told)
    for name in PLANTED:
        assert canonical(name) not in plain, told
    for part in ("boxk", "gang 7", "zwölf", "keller"):
        assert part not in plain, told


LINES = [
    pytest.param("watches /data/{folder}", id="folder at the end"),
    pytest.param("/data/{folder}/{file}.dm3: cannot be read: Permission denied", id="path, then why"),
    pytest.param("/data/{folder}/{file}.dm3.json, /data/{folder}/{file}.dm3.heatmap.png", id="two paths"),
    pytest.param("'/data/{folder}/{file}.dm3' vanished", id="in quotes"),
    pytest.param(
        "[Errno 13] Permission denied: '/data/{folder}/{file}.dm3' -> \"/data/{folder}/x.dm3\"", id="errno"
    ),
    pytest.param("C:\\Users\\{person}\\{folder}\\{file}.dm3: WinError 32", id="Windows"),
    pytest.param("C:\\\\Users\\\\{person}\\\\{folder}\\\\{file}.dm3: WinError 32", id="Windows, doubled"),
    pytest.param("c:/Users/{person}/{folder}/{file}.DM3 failed", id="Windows, other slashes"),
    pytest.param("\\\\{pc}\\{folder}\\{file}.dm3: locked", id="share"),
    pytest.param("\\\\?\\UNC\\{pc}\\{folder}\\{file}.dm3: locked", id="share, long form"),
    pytest.param("//{pc}/{folder}/{file}.dm3", id="share, other slashes"),
    pytest.param("file:///data/{folder}/{file}.dm3", id="file URL"),
    pytest.param("smb://{person}:pass@{pc}/{folder}/{file}.dm3 failed", id="URL with a person"),
    pytest.param("{file}.dm3: novel, low confidence", id="a file's name alone"),
    pytest.param("2026-11-30 10:00:00,123 WARNING {file}.dm3 is damaged", id="a file's name in a line"),
    pytest.param("the worker died over {file}.dm3", id="a file's name in a sentence"),
    pytest.param("{person}@{pc}.example.org and {person}@example.org", id="e-mail"),
    pytest.param("LAB\\{person} on {pc}", id="domain and host"),
    pytest.param("user={person} host={pc}", id="assignments"),
    pytest.param("/home/{person}/.local/state/scopewatch/agent.log", id="home"),
]


@pytest.mark.parametrize("line", LINES)
def test_no_spelling_of_a_name_survives(redactor, line):
    redactor.learn_file(f"{FILE}.dm3")
    for folder, file in zip(spellings(FOLDER), reversed(spellings(FILE)), strict=False):
        for person, pc in ((PERSON, PC), (PERSON.upper(), PC.lower())):
            text = line.format(folder=folder, file=file, person=person, pc=pc)
            assert_nothing_left(redactor.text(text))


@pytest.mark.parametrize("line", LINES)
def test_nor_where_neither_file_nor_folder_was_known_before(words, line):
    text = line.format(folder="Quarzgrube 3", file="Wolfsmilch a", person="zacharias", pc="mikroskop-pc")
    plain = canonical(Redactor(words).text(text))
    for part in ("quarz", "grube", "wolfsmilch", "zacharias", "mikroskop"):
        assert part not in plain, plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "2026-11-30 10:49:17,123 INFO model particle-shape 1.2 ready after 0.35 s",
            "2026-11-30 10:49:17,123 INFO model particle-shape 1.2 ready after 0.35 s",
            id="nothing private",
        ),
        pytest.param(
            "/data/a/b.dm3: cannot be read: Permission denied",
            "/<folder-1>/<folder-2>/<file-1>.dm3: cannot be read: Permission denied",
            id="a path",
        ),
        pytest.param(
            "C:\\Users\\somebody\\AppData\\Local\\scopewatch\\agent.log",
            "C:\\Users\\<user-1>\\AppData\\Local\\scopewatch\\agent.log",
            id="known places stay",
        ),
        pytest.param("\\\\server\\sessions\\a.dm3", "\\\\<host-1>\\<folder-1>\\<file-1>.dm3", id="a share"),
        pytest.param("see http://127.0.0.1:8747/?token=x1", "see http://127.0.0.1:8747", id="our page"),
        pytest.param("https://a:b@hooks.example.org/T1?k=2", "https://<address-1>", id="a webhook"),
        pytest.param("mqtt://u:p@10.1.2.3:1883/topic", "mqtt://<address-1>", id="a broker"),
        pytest.param("10.1.2.3 and fe80::1ff:fe23:4567:890a", "<address-1> and <address-2>", id="addresses"),
        pytest.param("00:1a:2b:3c:4d:5e", "<address-1>", id="a network card"),
        pytest.param("password=12345678 then", "password=<secret> then", id="a password of digits"),
        pytest.param("Authorization: Bearer 12345", "Authorization: Bearer <secret>", id="a bearer"),
        pytest.param("somebody@example.org", "<email-1>", id="e-mail"),
        pytest.param("killed by SIGKILL, OSError 28", "killed by SIGKILL, OSError 28", id="the system's words"),
    ],
)  # fmt: skip
def test_what_stays_and_what_does_not(words, text, told):
    assert Redactor(words, models=["particle-shape-1.2"]).text(text) == told


def test_one_name_has_one_token_wherever_and_however_it_stands(redactor):
    redactor.learn_file(f"{FILE}.dm3")
    path = f"/data/{FOLDER}/{FILE}.dm3"
    token = redactor.path(path).rpartition("/")[2]
    for text in (
        path,
        unicodedata.normalize("NFD", path),
        f"{FILE}.dm3",
        f"{FILE.upper()}.DM3",
        f"D:\\x\\{FILE}.dm3: gone",
        f"'/elsewhere/{quote(FILE)}.dm3'",
    ):
        assert token in redactor.text(text), redactor.text(text)
    assert redactor.text(f"/data/{FOLDER}/{FILE}.dm3.json").endswith(f"{token}.json")
    assert redactor.text(f"/data/{FOLDER}/{FILE}.dm3.heatmap.png").endswith(f"{token}.heatmap.png")
    assert redactor.text("/data/another.dm3") != redactor.text("/data/one.dm3")


def test_two_archives_share_no_secret_numbering_and_one_text_gives_one_result(words):
    text = "/data/b.dm3 /data/a.dm3 /data/b.dm3"
    assert Redactor(words).text(text) == Redactor(words).text(text)


def test_json_is_redacted_by_what_its_keys_hold(redactor):
    told = redactor.value(
        {
            "folders": ["My scope, round", "*.dm3"],
            "include": ["*.dm3", "gold*"],
            "instrument": {"name": "round", "pixel_size_nm": {"40000": 0.25}},
            "events": {"webhook_url": "https://a:b@c/d"},
            "trusted_keys": ["ed25519:AAAA"],
            "token": 12345,
            PERSON: 1,
            "state": "working",
            "model": "particle-shape 1.2",
            "done": {"classified": 3},
            "ready": True,
            "nothing": None,
        }
    )
    assert told == {
        "folders": ["<folder-1>", "*.dm3"],
        "include": ["*.dm3", "<pattern-1>"],
        "instrument": {"name": "<text-1>", "pixel_size_nm": {"40000": 0.25}},
        "events": {"webhook_url": "https://<address-1>"},
        "trusted_keys": ["<secret-1>"],
        "token": "<secret-2>",
        "<user>": 1,
        "state": "working",
        "model": "particle-shape 1.2",
        "done": {"classified": 3},
        "ready": True,
        "nothing": None,
    }


@pytest.mark.parametrize("length", [5_000, 20_000])
def test_a_long_line_costs_no_more_than_its_length(redactor, length):
    """A pattern that tries every start with every end would take minutes here, and be ended by the time limit."""
    for unit in ("x.dm", "/a b", "a ", "\\", "'", "%C3", "@", "a.dm3 ", "1:", "password="):
        assert redactor.text(unit * (length // len(unit)))
