"""What every test may rely on: the real data's place, and that nothing is left open or running."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


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
    assert not left, f"left running: {left}"
