"""The task at log-on, as the XML that Task Scheduler reads. Not verified on Windows."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_agent.deploy.logon_task import NAMESPACE, LogonTask, task_xml, windowless
from edge_agent.deploy.service_plan import ServiceFailed

COMMAND = (
    r"C:\Users\Em Lab\venv\pythonw.exe", "-P", "-m", "edge_agent", "watch",
    "--config", r"C:\Users\Em Lab\agent & <co>.toml",
)  # fmt: skip


def value(task: ElementTree.Element, path: str) -> str | None:
    found = task.find("/".join(f"{{{NAMESPACE}}}{part}" for part in path.split("/")))
    assert found is not None, path
    return found.text


@pytest.fixture
def task() -> ElementTree.Element:
    return ElementTree.fromstring(task_xml(r"LAB\em", COMMAND))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("Triggers/LogonTrigger/Enabled", "true"),
        ("Triggers/LogonTrigger/UserId", r"LAB\em"),
        ("Triggers/LogonTrigger/Delay", "PT30S"),
        ("Principals/Principal/UserId", r"LAB\em"),
        ("Principals/Principal/LogonType", "InteractiveToken"),
        ("Principals/Principal/RunLevel", "LeastPrivilege"),
        ("Settings/MultipleInstancesPolicy", "IgnoreNew"),
        ("Settings/DisallowStartIfOnBatteries", "false"),
        ("Settings/StopIfGoingOnBatteries", "false"),
        ("Settings/ExecutionTimeLimit", "PT0S"),
        ("Settings/Hidden", "true"),
        ("Settings/Priority", "7"),
        ("Settings/RestartOnFailure/Interval", "PT1M"),
        ("Settings/RestartOnFailure/Count", "255"),
        ("Actions/Exec/Command", r"C:\Users\Em Lab\venv\pythonw.exe"),
        (
            "Actions/Exec/Arguments",
            r'-P -m edge_agent watch --config "C:\Users\Em Lab\agent & <co>.toml"',
        ),
    ],
)
def test_what_it_says(task, path, text):
    assert value(task, path) == text


def test_its_form(task):
    assert task.tag == f"{{{NAMESPACE}}}Task"
    assert task.get("version") == "1.2"
    # The parts of a trigger come in this order in the schema (a sequence); elsewhere any order will do.
    trigger = task.find(f"{{{NAMESPACE}}}Triggers/{{{NAMESPACE}}}LogonTrigger")
    assert [part.tag.partition("}")[2] for part in trigger] == ["Enabled", "UserId", "Delay"]
    principal = task.find(f"{{{NAMESPACE}}}Principals/{{{NAMESPACE}}}Principal")
    assert principal.get("id") == task.find(f"{{{NAMESPACE}}}Actions").get("Context")


def test_it_is_utf_16_with_a_mark_as_schtasks_wants_it():
    data = task_xml(r"LAB\jürgen", COMMAND)
    assert data[:2] in (b"\xff\xfe", b"\xfe\xff")
    assert data.decode("utf-16").startswith("<?xml version='1.0' encoding='utf-16'?>")
    assert "jürgen" in data.decode("utf-16")


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        (r"C:\venv\Scripts\python.exe", r"C:\venv\Scripts\pythonw.exe"),
        (r"C:\python\Python.EXE", r"C:\python\pythonw.exe"),
    ],
)
def test_the_interpreter_without_a_window(python, expected):
    assert windowless(Path(python)) == expected


class Schtasks:
    """Writes down what it was asked; `code` is what it returns."""

    def __init__(self, code: int = 0, said: str = "") -> None:
        self.asked, self.code, self.said, self.xml = [], code, said, b""

    def __call__(self, words, timeout_seconds):
        self.asked.append(tuple(words))
        if "/XML" in words:
            self.xml = Path(words[words.index("/XML") + 1]).read_bytes()
        return self.code, self.said


def test_every_call(tmp_path):
    run = Schtasks()
    task = LogonTask(run)
    task.put(b"the task", tmp_path / "state")
    assert task.exists()
    task.start()
    task.stop()
    task.delete()

    assert run.xml == b"the task"
    assert run.asked == [
        (
            "schtasks",
            "/Create",
            "/TN",
            "scopewatch",
            "/XML",
            str(tmp_path / "state/scopewatch-task.xml"),
            "/F",
        ),
        ("schtasks", "/Query", "/TN", "scopewatch"),
        ("schtasks", "/End", "/TN", "scopewatch"),
        ("schtasks", "/Run", "/TN", "scopewatch"),
        ("schtasks", "/End", "/TN", "scopewatch"),
        ("schtasks", "/Delete", "/TN", "scopewatch", "/F"),
    ]
    assert list((tmp_path / "state").iterdir()) == []


def test_what_schtasks_refuses_is_one_line_and_leaves_no_file(tmp_path):
    run = Schtasks(1, "\nERROR: The task XML contains a value which is incorrectly formatted\n")
    with pytest.raises(ServiceFailed) as error:
        LogonTask(run).put(b"the task", tmp_path)
    assert str(error.value) == (
        "schtasks /Create: ERROR: The task XML contains a value which is incorrectly formatted"
    )
    assert list(tmp_path.iterdir()) == []
    assert not LogonTask(run).exists()
