from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.diagnosing.apart import run_python

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_trying_onnx_runtime_leaves_nothing_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merely imported, 1.32 keeps an identity of the PC and a database below ~/.cache."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path))

    ended = run_python("import onnxruntime", seconds=60)

    assert ended.well, ended.why
    assert list(tmp_path.rglob("*")) == []
