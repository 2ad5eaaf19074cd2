"""A real Chromium for the tests here: one a module, a profile a visit; skipped, with the reason, without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from page_rig import CHROMIUM, QuietPage, chromium_running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def no_browser() -> str | None:
    """Why there is no browser here, or None."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs the package playwright (pip install playwright)"
    return None if CHROMIUM else "needs Chromium (apt-get install chromium)"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A running browser. Not one for all modules: Playwright keeps an event loop in this thread as long."""
    why = no_browser()
    if why is not None:
        pytest.skip(why)
    with chromium_running() as browser:
        yield browser


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test's state and locks away from the person's who runs it, and from other tests."""
    places = tmp_path_factory.mktemp("places")
    monkeypatch.setenv("SCOPEWATCH_STATE", str(places / "state"))
    monkeypatch.setenv("SCOPEWATCH_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(places / "config"))
    monkeypatch.delenv("SCOPEWATCH_MODEL", raising=False)


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[QuietPage]:
    """The page of an agent that says what the test lets it say."""
    with QuietPage(tmp_path) as page:
        yield page
