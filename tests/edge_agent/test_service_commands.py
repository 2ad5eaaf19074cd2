"""What the commands of `service` print and return, as typed; the platform is a stand-in."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from test_status import NUMBERS

from edge_agent import cli
from edge_agent.commands import service
from edge_agent.deploy.service_plan import ServiceFailed, ServiceRefused, ServiceReport


class Platform:
    """Remembers what it was asked; `error` is raised instead of an answer."""

    def __init__(self) -> None:
        self.asked, self.error = [], None
        self.answer = ServiceReport(("service       active (running)",), NUMBERS, True)

    def _say(self, *what):
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        yield f"{what[0]} done"

    def install(self, request):
        return self._say("install", request)

    def uninstall(self, *, own, everything):
        return self._say("uninstall", own, everything)

    def start(self, *, own):
        return self._say("start", own)

    def stop(self, *, own):
        return self._say("stop", own)

    def report(self, *, own):
        self.asked.append(("report", own))
        return self.answer


@pytest.fixture
def platform(monkeypatch):
    stand_in = Platform()
    monkeypatch.setattr(service, "_platform", lambda: stand_in)
    return stand_in


def typed(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edge-agent", "service", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        pytest.param(("uninstall",), ("uninstall", None, False), id="uninstall"),
        pytest.param(
            ("uninstall", "--purge", "--user"), ("uninstall", True, True), id="uninstall all of one's own"
        ),
        pytest.param(("start",), ("start", None), id="start"),
        pytest.param(("stop", "--user"), ("stop", True), id="stop one's own"),
    ],
)
def test_what_is_asked_of_the_platform(platform, monkeypatch, capsys, words, asked):
    assert typed(monkeypatch, *words) == 0
    assert platform.asked == [asked]
    assert capsys.readouterr().out == f"{words[0]} done\n"


def test_installing(platform, monkeypatch, tmp_path):
    words = ("install", str(tmp_path), "--config", "a.toml", "--account", "em", "--no-start")
    assert typed(monkeypatch, *words) == 0
    ((_, request),) = platform.asked
    assert (request.folders, str(request.config_file)) == ((tmp_path,), "a.toml")
    assert (request.own, request.account, request.start) == (False, "em", False)


@pytest.mark.parametrize(
    ("active", "numbers", "code"),
    [
        pytest.param(True, NUMBERS, 0, id="well"),
        pytest.param(True, None, 1, id="the agent is silent"),
        pytest.param(False, NUMBERS, 1, id="another agent, no service"),
    ],
)
def test_status_is_well_only_when_both_say_so(platform, monkeypatch, capsys, active, numbers, code):
    platform.answer = ServiceReport(("service       words",), numbers, active)
    assert typed(monkeypatch, "status") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "service       words"
    assert any(line.startswith("seen ") for line in lines) is (numbers is not None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(ServiceRefused("/data: em may not write there\n/srv: nor there"), 2, id="refused"),
        pytest.param(ServiceFailed("it did not start"), 1, id="failed"),
    ],
)
def test_errors_are_a_line_each(platform, monkeypatch, capsys, error, code):
    platform.error = error
    assert typed(monkeypatch, "start") == code
    assert capsys.readouterr().err.splitlines() == [f"edge-agent: {line}" for line in str(error).splitlines()]


def test_an_account_for_oneself_is_a_contradiction(platform, monkeypatch, capsys):
    assert typed(monkeypatch, "install", "/data", "--user", "--account", "em") == 2
    assert "leave one of the two out" in capsys.readouterr().err
    assert platform.asked == []


def test_help_says_what_was_not_verified(monkeypatch, capsys):
    assert typed(monkeypatch, "--help") == 0
    assert "not verified on Windows" in " ".join(capsys.readouterr().out.split())


def test_the_two_platforms_have_the_same_functions():
    from edge_agent.deploy import windows_setup

    modules = [windows_setup]
    if sys.platform != "win32":
        from edge_agent.deploy import linux_service

        modules.append(linux_service)
    for module in modules:
        named = SimpleNamespace(**{name: getattr(module, name) for name in vars(Platform) if name[0] != "_"})
        assert all(callable(function) for function in vars(named).values())
