"""What the tests of the agent's runtime share: a tiny model, and small simulated files."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle

from edge_agent.simulation import dm3_bytes, draw_field, spectrum_dm3_bytes

FAKE_WORKER = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers in milliseconds; its weights are random."""
    return tiny_bundle(tmp_path_factory.mktemp("models") / "tiny-1")


@pytest.fixture(scope="session")
def micrograph_bytes() -> bytes:
    """A simulated bright-field micrograph of round particles, 256 px."""
    return dm3_bytes(draw_field("round", np.random.default_rng(1), 256))


@pytest.fixture(scope="session")
def other_micrograph_bytes() -> bytes:
    """Another one, of rods."""
    return dm3_bytes(draw_field("rod", np.random.default_rng(2), 256))


@pytest.fixture(scope="session")
def spectrum_bytes() -> bytes:
    """A simulated spectrum: sound, and no image."""
    return spectrum_dm3_bytes(np.random.default_rng(3))


@pytest.fixture
def fake_worker() -> tuple[str, ...]:
    """The command of a worker that does what a file's name says."""
    return FAKE_WORKER


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's state and locks away from the person's who runs it, and from other tests."""
    places = tmp_path_factory.mktemp("places")
    monkeypatch.setenv("SCOPEWATCH_STATE", str(places / "state"))
    monkeypatch.setenv("SCOPEWATCH_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(places / "config"))
    monkeypatch.setenv("TMPDIR", str(places))
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    monkeypatch.delenv("SCOPEWATCH_MODEL", raising=False)
