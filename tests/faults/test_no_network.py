"""Row 22 of the security catalogue: nothing is reported to anybody (ONNX Runtime would, ten seconds on).

Nothing connects anywhere unless it is configured: a full run in a namespace without any network passes, and a
trace of agent and worker shows no connection, and no socket but the page's own on loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from harness import Agent, small_dm3, tiny_model_folder

REPOSITORY = Path(__file__).resolve().parents[2]
NAMESPACE = ("unshare", "--map-root-user", "--net")
ADDRESS = re.compile(
    r"sin6?_addr=inet_(?:addr|pton)\((?:AF_INET6?, )?\"([^\"]+)\"\)|inet_pton\(AF_INET6, \"([^\"]+)\""
)
CLASSIFY_AND_STAY = (
    "import sys, time; from pathlib import Path\n"
    "from edge_agent.classifier import Classifier; from edge_agent.model_bundle import open_bundle\n"
    "from edge_agent.micrograph import read_micrograph\n"
    "Classifier(open_bundle(sys.argv[1])).classify(read_micrograph(Path(sys.argv[2]))); time.sleep(14)\n"
)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_classifying_opens_no_connection_and_leaves_no_trace_at_home(tmp_path):
    (tmp_path / "a.dm3").write_bytes(small_dm3(1))
    home = tmp_path / "home"
    home.mkdir()
    trace = tmp_path / "trace"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = ["strace", "-f", "-qq", "-e", "trace=socket,connect", "-o", str(trace)]
    command += [
        sys.executable,
        "-P",
        "-c",
        CLASSIFY_AND_STAY,
        str(tiny_model_folder()),
        str(tmp_path / "a.dm3"),
    ]
    subprocess.run(
        command,
        check=True,
        timeout=100,
        env=environment | {"PYTHONPATH": str(REPOSITORY), "HOME": str(home)},
    )

    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []
    assert list(home.iterdir()) == []


def _namespace_refused() -> bool:
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode != 0
    except OSError:
        return True


no_namespace = pytest.mark.skipif(_namespace_refused(), reason="no network namespace is to be had here")
no_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def environment(home: Path) -> dict[str, str]:
    for folder in (home, home.with_name("tmp")):
        folder.mkdir(exist_ok=True)
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(home),
        "TMPDIR": str(home.with_name("tmp")),
    }


@no_namespace
@pytest.mark.parametrize(
    "loopback", [pytest.param(True, id="with loopback"), pytest.param(False, id="without even that")]
)
def test_a_full_run_without_a_network_passes(tmp_path, loopback):
    up = "ip link set lo up && " if loopback else ""
    demo = [sys.executable, "-m", "edge_agent.cli", "demo", "--files", "2", "--rate", "20", "--size", "128"]
    demo += ["--keep", str(tmp_path / "scope"), "--model", str(tiny_model_folder())]
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f'{up}exec "$@"', "sh", *demo],
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "scope").glob("*.dm3.json"))) == 2


@no_strace
@pytest.mark.parametrize(
    ("events", "spoken_to"),
    [
        pytest.param("", set(), id="nothing configured"),
        pytest.param('webhook_url = "http://127.0.0.9:9/"\n', {"127.0.0.9"}, id="a webhook"),
    ],
)
def test_agent_and_worker_connect_to_nobody_unless_it_is_configured(tmp_path, events, spoken_to):
    scope, trace = tmp_path / "scope", tmp_path / "trace"
    traced = ("strace", "-f", "-qq", "-e", "trace=%network", "-o", str(trace))
    home = environment(tmp_path / "home")
    with Agent(scope, place=tmp_path / "agent", prefix=traced, gap_seconds=0.0, environment=home) as agent:
        with agent.config_file.open("a") as config:
            config.write(f"[page]\nport = 0\n[events]\n{events}")
        agent.start().wait_ready()
        (scope / "a.dm3").write_bytes(small_dm3(1))
        agent.wait_for(1, 60)
        page = agent.status()["page"]
        for route in ("healthz", "readyz", "metrics"):
            assert asked(page + route) in (200, 503)
        os.kill(agent.supervisor_pid, signal.SIGTERM)
        agent.wait_for(lambda: agent.exit_code is not None, 30, may_end=True)

    lines = [line for line in trace.read_text().splitlines() if "AF_UNIX" not in line]
    named = {
        call: {
            where for line in lines if f" {call}(" in line for pair in ADDRESS.findall(line) for where in pair
        }
        for call in ("connect", "sendto", "sendmsg", "bind")
    }
    assert {call: found - {""} for call, found in named.items()} == {
        "connect": spoken_to,
        "sendto": set(),
        "sendmsg": set(),
        "bind": {"127.0.0.1", "::1"} if has_ipv6() else {"127.0.0.1"},
    }
    assert [
        line for line in lines if "SOCK_DGRAM" in line or "SOCK_RAW" in line or "AF_NETLINK" in line
    ] == []
    assert list((tmp_path / "home").rglob("*")) == []


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def asked(address: str) -> int:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(address, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
