"""Row 22 of the security catalogue: nothing is reported to anybody (ONNX Runtime would, ten seconds on).

Nothing connects anywhere unless it is configured: a full run in a namespace without any network passes, and a
trace of agent and worker shows no connection, and no socket but the page's own on loopback.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from harness import small_dm3, tiny_model_folder

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORED = Path(__file__).with_name("monitored_agent.py")
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
def test_agent_and_worker_connect_to_nobody_and_listen_on_loopback_only(tmp_path):
    scope, trace = tmp_path / "scope", tmp_path / "trace"
    scope.mkdir()
    command = ["strace", "-f", "-qq", "-e", "trace=%network", "-o", str(trace)]
    command += [sys.executable, str(MONITORED), str(scope), str(tmp_path / "state"), str(tiny_model_folder())]
    with subprocess.Popen(
        [*command, "0", "2"], env=environment(tmp_path / "home"), stdout=subprocess.PIPE, text=True
    ) as agent:
        address = agent.stdout.readline().strip()
        (scope / "a.dm3").write_bytes(small_dm3(1))
        assert agent.stdout.readline() == "classified a.dm3\n"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for route in ("healthz", "readyz", "metrics"):
            try:
                opener.open(address + route, timeout=60).close()
            except urllib.error.HTTPError as error:
                error.close()
        (scope / "b.dm3").write_bytes(small_dm3(2))
        assert agent.wait(60) == 0

    lines = trace.read_text().splitlines()
    beyond = [line for line in lines if "AF_INET" in line or "AF_NETLINK" in line]
    port = address.rstrip("/").rpartition(":")[2]
    assert [line for line in lines if "connect(" in line] == []
    assert {where for line in beyond for pair in ADDRESS.findall(line) for where in pair if where} <= {
        "127.0.0.1",
        "::1",
    }
    assert [line for line in beyond if "bind(" in line and port not in line and "htons(0)" not in line] == []
    assert any("listen(" in line for line in lines)
    assert [line for line in beyond if "SOCK_DGRAM" in line or "SOCK_RAW" in line] == []
    assert list((tmp_path / "home").rglob("*")) == []
