"""`edge-agent page` and the page of `watch` and `demo`: what a person at the PC sees."""

from __future__ import annotations

import logging
import re
import sys

import pytest
from agent_numbers import numbers

from edge_agent import cli
from edge_agent.page import opening
from edge_agent.page.page_key import KEY_NAME, key_in
from edge_agent.status import hold_state, publish

HERE = "http://127.0.0.1:8747/"


@pytest.fixture
def run(monkeypatch, capsys):
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["edge-agent", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    yield command
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SCOPEWATCH_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def opened(monkeypatch):
    found = []
    monkeypatch.setattr(opening, "open_page", lambda word, state: found.append((word, state)) or True)
    return found


def test_it_opens_the_page_of_the_running_agent(run, state, opened):
    with hold_state(state):
        publish(state, numbers(page=HERE))
        code, out, _ = run("page")

    assert (code, opened) == (0, [(HERE, state)])
    assert out == f"{HERE} is opened in the browser (--print gives the address with its key)\n"


@pytest.mark.parametrize("arguments", [("--print",), ()], ids=["asked for", "no windows here"])
def test_it_prints_the_address_with_its_key(run, state, arguments):
    with hold_state(state):
        publish(state, numbers(page=f"{HERE}, for other PCs https://scope-pc:8747/"))
        code, out, _ = run("page", *arguments)

    assert (code, out) == (0, f"{HERE}#token={key_in(state).text}\n")


def test_a_new_key_is_made(run, state):
    with hold_state(state):
        publish(state, numbers(page=HERE))
        first = run("page", "--print")[1]
        second = run("page", "--new-key", "--print")[1]

    assert first != second
    assert second == f"{HERE}#token={(state / KEY_NAME).read_text()}"


@pytest.mark.parametrize(
    ("page", "said"),
    [
        pytest.param(None, "the page of the running agent is switched off (page.enabled)", id="off"),
        pytest.param(
            "none: port 8747 of 127.0.0.1 is taken by another program (page.port); tried again every 30 s",
            "the running agent has no page: none: port 8747 of 127.0.0.1 is taken by another program (page.port); "
            "tried again every 30 s",
            id="no port",
        ),
    ],
)
def test_where_there_is_no_page_it_says_why(run, state, opened, page, said):
    with hold_state(state):
        publish(state, numbers(page=page))
        assert run("page") == (1, "", f"edge-agent: {said}\n")
    assert opened == []


def test_without_an_agent_there_is_none(run, state, opened):
    assert run("page") == (1, "", f"edge-agent: no agent is running on the state folder {state}\n")
    assert opened == []
    assert not (state / KEY_NAME).exists()


@pytest.mark.parametrize(
    ("is_asked", "opens", "said"),
    [
        pytest.param(False, True, rf"page: {HERE} \(`edge-agent page` opens it\)", id="watch"),
        pytest.param(True, True, rf"page: {HERE}, opened in the browser", id="watch --open"),
        pytest.param(True, False, rf"page: {HERE}#token=[0-9a-f]{{64}}", id="watch --open without windows"),
    ],
)
def test_watch_says_where_the_page_is(monkeypatch, capsys, tmp_path, is_asked, opens, said):
    from edge_agent.commands.live import _tell_page

    monkeypatch.setattr(opening, "open_page", lambda word, state: opens)

    _tell_page(HERE, tmp_path, opening=is_asked)

    assert re.fullmatch(said, capsys.readouterr().err.strip())


def test_watch_says_why_there_is_no_page(capsys, tmp_path):
    from edge_agent.commands.live import _tell_page

    _tell_page("none: port 1 of 127.0.0.1 cannot be used", tmp_path, opening=True)

    assert capsys.readouterr().err == "page: none: port 1 of 127.0.0.1 cannot be used\n"
