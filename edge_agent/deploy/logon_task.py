"""The agent without an administrator on Windows: a task that starts at log-on. Not verified on Windows.

Task Scheduler is told in its own XML (namespace of version 1.2), because the options of `schtasks` cannot say
"no time limit", "on battery too" or "start again when it failed". Only this module knows that form.
"""

from __future__ import annotations

import subprocess
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from edge_agent.deploy.service_plan import DESCRIPTION, SERVICE_NAME, ServiceFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TASK_NAME: Final = SERVICE_NAME
NAMESPACE: Final = "http://schemas.microsoft.com/windows/2004/02/mit/task"
RESTART_EVERY: Final = "PT1M"
RESTARTS: Final = 255
"""The most that the schema allows (restartType, an unsigned byte)."""
PRIORITY: Final = 7
"""Below normal, for the processor and for the disk."""
_NO_LIMIT: Final = "PT0S"
_ANSWER_SECONDS: Final = 60.0


def task_xml(user: str, command: Sequence[str]) -> bytes:
    r"""Return the task of `user` (`DOMAIN\name`), as `schtasks /Create /XML` wants it: UTF-16 with a mark."""
    ElementTree.register_namespace("", NAMESPACE)
    task = ElementTree.Element(_tag("Task"), version="1.2")
    _add(task, "RegistrationInfo", {"Description": DESCRIPTION, "URI": f"\\{TASK_NAME}"})
    trigger = ElementTree.SubElement(ElementTree.SubElement(task, _tag("Triggers")), _tag("LogonTrigger"))
    _fill(trigger, {"Enabled": "true", "UserId": user, "Delay": "PT30S"})
    principal = ElementTree.SubElement(
        ElementTree.SubElement(task, _tag("Principals")), _tag("Principal"), id="Author"
    )
    _fill(principal, {"UserId": user, "LogonType": "InteractiveToken", "RunLevel": "LeastPrivilege"})
    settings = _add(
        task,
        "Settings",
        {
            "MultipleInstancesPolicy": "IgnoreNew",
            "DisallowStartIfOnBatteries": "false",
            "StopIfGoingOnBatteries": "false",
            "AllowHardTerminate": "true",
            "StartWhenAvailable": "true",
            "RunOnlyIfNetworkAvailable": "false",
            "AllowStartOnDemand": "true",
            "Enabled": "true",
            "Hidden": "true",
            "RunOnlyIfIdle": "false",
            "WakeToRun": "false",
            "ExecutionTimeLimit": _NO_LIMIT,
            "Priority": str(PRIORITY),
        },
    )
    _add(settings, "RestartOnFailure", {"Interval": RESTART_EVERY, "Count": str(RESTARTS)})
    actions = ElementTree.SubElement(task, _tag("Actions"), Context="Author")
    program, *arguments = command
    # list2cmdline quotes as CommandLineToArgvW reads.
    _add(actions, "Exec", {"Command": program, "Arguments": subprocess.list2cmdline(arguments)})
    return bytes(ElementTree.tostring(task, encoding="utf-16", xml_declaration=True))


def windowless(python: Path) -> str:
    """Return the interpreter without a console window that belongs to `python`."""
    windows = PureWindowsPath(python)
    return str(windows.with_name(windows.name.lower().replace("python", "pythonw", 1)))


class LogonTask:
    """The task in Task Scheduler. `run` runs a command and returns its exit code and what it said."""

    def __init__(self, run: Callable[[Sequence[str], float], tuple[int, str]]) -> None:
        self._run = run

    def put(self, xml: bytes, folder: Path) -> None:
        """Create the task, or replace it; the XML passes through a file in `folder`. Raises ServiceFailed."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{TASK_NAME}-task.xml"
        file.write_bytes(xml)
        try:
            self._must("/Create", "/TN", TASK_NAME, "/XML", str(file), "/F")
        finally:
            file.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether there is such a task."""
        return self._run(("schtasks", "/Query", "/TN", TASK_NAME), _ANSWER_SECONDS)[0] == 0

    def start(self) -> None:
        """Start it now, or start it anew. Raises ServiceFailed."""
        # Of a task that runs another start is ignored; whether it does is of no matter.
        self._run(("schtasks", "/End", "/TN", TASK_NAME), _ANSWER_SECONDS)
        self._must("/Run", "/TN", TASK_NAME)

    def stop(self) -> None:
        """End it; the agent is killed, which it survives: files in its hand are taken up again."""
        self._must("/End", "/TN", TASK_NAME)

    def delete(self) -> None:
        """Take it away. Raises ServiceFailed."""
        self._must("/Delete", "/TN", TASK_NAME, "/F")

    def _must(self, *words: str) -> None:
        code, said = self._run(("schtasks", *words), _ANSWER_SECONDS)
        if code != 0:
            lines = said.strip().splitlines() or [f"exit code {code}"]
            raise ServiceFailed(f"schtasks {words[0]}: {lines[-1]}")


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _add(parent: ElementTree.Element, name: str, values: dict[str, str]) -> ElementTree.Element:
    return _fill(ElementTree.SubElement(parent, _tag(name)), values)


def _fill(element: ElementTree.Element, values: dict[str, str]) -> ElementTree.Element:
    for name, text in values.items():
        ElementTree.SubElement(element, _tag(name)).text = text
    return element
