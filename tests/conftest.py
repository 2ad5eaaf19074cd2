"""What every test may rely on: the real data's place, and that nothing is left open or running."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
_LAST_WORK_SECONDS = 5.0


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> object:
    """A report goes from process to process as UTF-8; names that are none stand in what some tests log."""
    return _as_utf8((yield))


def _as_utf8(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_as_utf8(key): _as_utf8(item) for key, item in value.items()}
    return type(value)(map(_as_utf8, value)) if isinstance(value, list | tuple) else value


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real micrographs beside the repository (`../shared/data`), or a skip that says so."""
    folder = Path(os.environ.get("SCOPEWATCH_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "dm3" / "index.json").is_file():
        pytest.skip(f"real data not found at {folder} (set SCOPEWATCH_SHARED_DATA to its place)")
    return folder


@pytest.fixture(autouse=True)
def no_thread_left_running() -> object:
    """Fail a test that leaves a thread of ours behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:  # a pool that was told to end finishes what it has in hand
        thread.join(_LAST_WORK_SECONDS)
    left = [thread for thread in left if thread.is_alive()]
    assert not left, f"left running: {left}"
