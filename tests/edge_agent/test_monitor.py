"""The monitor beside a real agent: what it hears, and that nothing about it reaches the watching."""

from __future__ import annotations

import json
import logging
import queue
import socket
import threading
import urllib.request

import pytest
from agent_numbers import finding, numbers

from edge_agent.config import AgentConfig, EventsConfig, PageConfig
from edge_agent.live_page import monitor as monitor_module
from edge_agent.live_page.monitor import Monitor
from edge_agent.live_page.page_server import PageServer
from edge_agent.service import Service

WAIT_SECONDS = 30
OFF = PageConfig(enabled=False)


@pytest.fixture
def config(tmp_path, tiny):
    (tmp_path / "scope").mkdir()
    return AgentConfig(
        folders=(tmp_path / "scope",), state=tmp_path / "state", model=str(tiny), quiet_seconds=0.1,
        scan_seconds=0.5, free_space_floor_mib=0, low_priority=False,
    )  # fmt: skip


class Watched:
    """A service and its monitor; leaves nothing behind."""

    def __init__(self, config, monitor):
        self.findings = queue.SimpleQueue()
        self.monitor = monitor
        self.service = Service(
            config, on_finding=self._hear, on_status=monitor.note_status, surroundings=self._around
        )
        self.thread = threading.Thread(target=self.service.run)

    def _hear(self, found):
        self.monitor.note_finding(found)
        self.findings.put(found)

    def _around(self):
        from edge_agent.status import Surroundings

        return Surroundings(page=self.monitor.word)

    def __enter__(self):
        self.monitor.start()
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.service.stop()
        self.thread.join(WAIT_SECONDS)
        self.monitor.close()

    def ask(self, path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.monitor.word + path, timeout=WAIT_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def until(self, path, condition):
        for _ in range(WAIT_SECONDS * 10):
            status, text = self.ask(path)
            if condition(status, text):
                return text
            threading.Event().wait(0.1)
        raise AssertionError(f"never came: {status} {text}")


def test_a_running_agent_tells_of_itself(config, micrograph_bytes):
    folder = config.folders[0]
    with Watched(config, Monitor(PageConfig(port=0), EventsConfig())) as agent:
        agent.until("readyz", lambda status, text: status == 200)
        (folder / "a.dm3").write_bytes(micrograph_bytes)
        found = agent.findings.get(timeout=WAIT_SECONDS)
        text = agent.until("metrics", lambda status, text: "scopewatch_seen_files 1.0" in text)
        assert agent.ask("healthz") == (200, '{"alive":true,"reasons":[]}')

        assert 'scopewatch_files_total{outcome="classified"} 1.0' in text
        assert (
            f'scopewatch_predictions_total{{decision="{found.decision}",label="{found.label}"}} 1.0' in text
        )
        assert 'scopewatch_stage_duration_seconds_count{stage="infer"} 1.0' in text
        assert "scopewatch_latency_seconds_count 1.0" in text
        assert 'scopewatch_model_info{name="tiny"' in text
        assert str(folder) not in text

        folder.rename(folder.with_name("unmounted"))
        text = agent.until("readyz", lambda status, text: status == 503)
        assert json.loads(text) == {"ready": False, "reasons": ["folder 1 is missing"]}
        assert agent.ask("healthz")[0] == 200
    assert found.stages.infer > 0
    assert found.settled < found.finished


def test_with_a_taken_port_the_watching_goes_on(config, micrograph_bytes):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monitor = Monitor(PageConfig(port=other.getsockname()[1]), EventsConfig())
        with Watched(config, monitor) as agent:
            (config.folders[0] / "a.dm3").write_bytes(micrograph_bytes)
            assert agent.findings.get(timeout=WAIT_SECONDS).outcome == "classified"
            assert monitor.word.startswith("none: port ")


def test_with_page_and_events_off_there_is_nothing(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", None)
    monitor = Monitor(OFF, EventsConfig())

    monitor.start()
    monitor.note_status(numbers())
    monitor.note_finding(finding())
    monitor.close()

    assert monitor.word is None
    assert monitor.state.tallies.counted().outcomes["classified"] == 1


def test_no_failure_of_the_monitor_reaches_the_agent(monkeypatch, caplog):
    monitor = Monitor(PageConfig(port=0), EventsConfig())
    for name in ("note_status", "note_finding"):
        monkeypatch.setattr(monitor.state, name, lambda said: 1 / 0)
    monkeypatch.setattr(PageServer, "start", lambda self: 1 / 0)

    with caplog.at_level(logging.WARNING):
        monitor.start()
        monitor.note_status(numbers())
        monitor.note_finding(finding())
        monitor.close()

    assert (
        caplog.messages
        == ["the monitor failed, the watching goes on: ZeroDivisionError: division by zero"] * 3
    )


def test_a_secret_that_cannot_be_read_is_a_warning(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("SCOPEWATCH_WEBHOOK_TOKEN_FILE", str(tmp_path / "none"))
    monitor = Monitor(OFF, EventsConfig(webhook_url="https://lims.example.org/"))
    with caplog.at_level(logging.WARNING):
        monitor.start()
        monitor.note_status(numbers())
        for _ in range(WAIT_SECONDS * 10):
            if caplog.messages:
                break
            threading.Event().wait(0.1)
        monitor.close()

    (text,) = caplog.messages
    assert text.startswith(
        "events to https://lims.example.org:443 do not arrive (SCOPEWATCH_WEBHOOK_TOKEN_FILE: "
    )
    assert "none: cannot be read: No such file" in text


def test_the_page_moves_and_what_waits_to_be_sent_goes_on_waiting():
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/"
        monitor = Monitor(PageConfig(port=0), EventsConfig(webhook_url=url))
        monitor.start()
        first = monitor.word
        monitor.note_finding(finding())
        monitor.move(OFF)
        assert monitor.word is None
        monitor.move(PageConfig(port=0))
        assert monitor.word.startswith("http://127.0.0.1:")
        waiting = monitor.state.channels()[0].waiting
        monitor.close()

    assert first is not None
    assert waiting == 1


def test_what_is_sent_is_counted_for_the_metrics(monkeypatch):
    class Sent:
        def __init__(self, events):
            self.heard = []

        def start(self):
            self.heard.append("start")

        def note_status(self, status):
            self.heard.append("status")

        def note_finding(self, found):
            self.heard.append("finding")

        def numbers(self):
            return tuple(self.heard)

        def close(self):
            self.heard.append("close")

    monkeypatch.setattr(monitor_module, "_announcer", Sent)
    monitor = Monitor(OFF, EventsConfig())

    monitor.start()
    monitor.note_status(numbers())
    monitor.note_finding(finding())
    monitor.close()

    assert monitor.state.channels() == ("start", "status", "finding", "close")
