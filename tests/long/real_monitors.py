"""A real Prometheus and a real MQTT broker beside the running agent: `python tests/long/real_monitors.py`.

Debian's packages `prometheus` (with promtool), `mosquitto` and `mosquitto-clients`; none has to run as a service.
The agent watches while files are saved; Prometheus scrapes it every second, evaluates every query of the board and
every alert rule; the broker gets the events, and the last will when the agent is killed. Prints what it saw, ends
with 1 when something is missing. Takes two minutes. Grafana itself is not run: its board is checked by its queries.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]
for folder in (str(REPOSITORY / "tests" / "faults"), str(REPOSITORY / "tests")):
    sys.path.insert(0, folder)

from harness import small_dm3, tiny_model_folder  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NEEDED = ("prometheus", "promtool", "mosquitto", "mosquitto_sub")
TOPIC = "scope/findings"
FILES = 25
SCRAPED = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: scopewatch
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Board:
    """The queries of the Grafana board, with its variables filled in."""

    def __init__(self) -> None:
        text = files("edge_agent.live_page").joinpath("grafana_board.json").read_text("utf-8")
        self.queries = [
            (panel["title"], _filled(target["expr"]))
            for panel in json.loads(text)["panels"]
            for target in panel["targets"]
        ]


def _filled(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")


def main() -> int:
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        print(f"needs {', '.join(lacking)}: apt-get install prometheus mosquitto mosquitto-clients")
        return 2
    with tempfile.TemporaryDirectory(prefix="scopewatch-monitors-") as place, ExitStack() as stack:
        return _run(Path(place), stack)


def _run(place: Path, stack: ExitStack) -> int:
    checks = Checks()
    posted: list[dict[str, Any]] = []
    hook = stack.enter_context(webhook(posted))
    broker = stack.enter_context(mosquitto(place))
    events = {
        "webhook_url": f"http://127.0.0.1:{hook}/scope",
        "mqtt_url": f"mqtt://127.0.0.1:{broker}/{TOPIC}",
    }
    heard = stack.enter_context(subscribed(broker, place))
    agent, page = stack.enter_context(monitored(place, events))
    port = int(page.rsplit(":", 1)[1].strip("/"))
    api = stack.enter_context(prometheus(place, port))
    for number in range(FILES):
        (place / "scope" / f"{number:03}.dm3").write_bytes(small_dm3(number))
        time.sleep(1.0)
    until(lambda: sum(event["event"] == "finding" for event in posted) == FILES, "all findings posted")

    metrics = get(f"{page}metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, check=False
    )
    checks.that(
        checked.returncode == 0, f"promtool check metrics: {checked.stderr.decode().strip() or 'clean'}"
    )
    rules = subprocess.run(
        ["promtool", "check", "rules", str(place / "rules.yml")], capture_output=True, check=False
    )
    checks.that(rules.returncode == 0, f"promtool check rules: {rules.stdout.decode().split()[-3:]}")
    for title, query in Board().queries:
        checks.query(api, title, query)
    groups = asked(api, "rules")["groups"]
    states = {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}
    checks.that(
        len(states) >= 13 and all(health == "ok" for health, _ in states.values()),
        f"{len(states)} alert rules evaluated, firing: {[n for n, (_, s) in states.items() if s == 'firing']}",
    )

    kinds = [event["event"] for event in posted]
    checks.that(
        kinds[0] == "started" and kinds.count("finding") == FILES,
        f"webhook: {len(kinds)} events, {kinds[:2]} ...",
    )
    until(lambda: len(messages(heard, TOPIC)) == len(posted), "the broker has the same events")
    by_broker = [json.loads(text)["id"] for text in messages(heard, TOPIC)]
    checks.that(
        by_broker == [event["id"] for event in posted], f"MQTT: the same {len(by_broker)} events in order"
    )
    checks.that(messages(heard, f"{TOPIC}/state") == ["online"], "MQTT: the state is online")
    agent.kill()
    agent.wait()
    until(lambda: messages(heard, f"{TOPIC}/state")[-1] == "offline", "the last will after kill -9", 90)
    checks.that(True, "MQTT: offline by its last will after kill -9")
    until(lambda: value_of(api, 'up{job="scopewatch"}') == 0, "Prometheus misses the agent")
    until(
        lambda: value_of(api, 'ALERTS{alertname="ScopewatchGone"}') == 1,
        "the alert that it is gone is pending",
    )
    checks.that(True, "Prometheus: ScopewatchGone is pending after kill -9")
    return checks.verdict()


class Checks:
    """What was seen, a line each."""

    def __init__(self) -> None:
        self.failed = 0

    def that(self, holds: bool, what: str) -> None:
        self.failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {what}", flush=True)

    def query(self, api: str, title: str, query: str) -> None:
        try:
            found = asked(api, "query", query=query)["result"]
        except (OSError, ValueError) as error:
            self.that(False, f"{title}: {query}: {error}")
            return
        self.that(bool(found), f"{title}: {len(found)} series: {_short(found)}")

    def verdict(self) -> int:
        print(f"{self.failed} failed")
        return 1 if self.failed else 0


def _short(found: list[dict[str, Any]]) -> str:
    return ", ".join(str(series["value"][1]) for series in found[:4])


@contextmanager
def monitored(place: Path, events: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    scope = place / "scope"
    scope.mkdir()
    command = [sys.executable, str(REPOSITORY / "tests" / "faults" / "monitored_agent.py"), str(scope)]
    command += [str(place / "state"), str(tiny_model_folder()), "0", "0", json.dumps(events)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(place)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent:
        try:
            yield agent, agent.stdout.readline().strip()
        finally:
            agent.kill()


@contextmanager
def prometheus(place: Path, port: int) -> Iterator[str]:
    rules = place / "rules.yml"
    rules.write_text(files("edge_agent.live_page").joinpath("prometheus_rules.yml").read_text("utf-8"))
    (place / "prometheus.yml").write_text(SCRAPED.format(rules=rules, port=port))
    own = free_port()
    command = [
        "prometheus",
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'tsdb'}",
    ]
    with program([*command, f"--web.listen-address=127.0.0.1:{own}"], place / "prometheus.log"):
        api = f"http://127.0.0.1:{own}/api/v1/"
        until(lambda: reachable(f"http://127.0.0.1:{own}/-/ready"), "Prometheus is ready")
        yield api


@contextmanager
def mosquitto(place: Path) -> Iterator[int]:
    port = free_port()
    (place / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with program(["mosquitto", "-c", str(place / "mosquitto.conf")], place / "mosquitto.log"):
        time.sleep(1.0)
        yield port


@contextmanager
def subscribed(port: int, place: Path) -> Iterator[Path]:
    heard = place / "heard"
    with program(
        ["mosquitto_sub", "-p", str(port), "-t", f"{TOPIC}/#", "-t", TOPIC, "-q", "1", "-F", "%t %p"], heard
    ):
        time.sleep(0.5)
        yield heard


@contextmanager
def program(command: list[str], output: Path) -> Iterator[None]:
    with (
        output.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        try:
            yield
        finally:
            process.kill()


@contextmanager
def webhook(posted: list[dict[str, Any]]) -> Iterator[int]:
    class Lims(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lims) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def messages(heard: Path, topic: str) -> list[str]:
    lines = heard.read_text().splitlines()
    # Both subscriptions match the topic itself: a message comes once or twice, as the broker likes.
    return list(dict.fromkeys(line.partition(" ")[2] for line in lines if line.partition(" ")[0] == topic))


def asked(api: str, what: str, **parameters: str) -> Any:
    answer = json.loads(get(f"{api}{what}?{urllib.parse.urlencode(parameters)}"))
    if answer["status"] != "success":
        raise ValueError(answer)
    return answer["data"]


def value_of(api: str, query: str) -> float | None:
    result = asked(api, "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else None


def get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return answer.read()


def reachable(url: str) -> bool:
    try:
        return bool(get(url))
    except OSError:
        return False


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
