"""Row 22 of the security catalogue: nothing is reported to anybody (ONNX Runtime would, ten seconds on)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import small_dm3, tiny_model_folder

REPOSITORY = Path(__file__).resolve().parents[2]
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
