"""Playwright's `expect`, or a skip of the module that says what is missing."""

from __future__ import annotations

import pytest

expect = pytest.importorskip(
    "playwright.sync_api", reason="needs the package playwright (pip install playwright)"
).expect
