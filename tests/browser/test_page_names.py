"""Names that mean harm: file names, texts of tags and class labels stand there as text, and do nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from page_rig import QuietPage, accessible, until, visiting
from playwright_or_skip import expect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAMES = (
    b"<img src=x onerror=alert(1)>.dm3",
    b'"><script>alert(1)</script>.dm3',
    b"'-alert(1)-'.dm3",
    b"javascript:alert(1).dm3",
    b"{{7*7}}${7*7}#{7*7}.dm3",
    b"<svg onload=alert(1)>.dm3",
    b"<!--.dm3",
    b"</title><h1>.dm3",
    b"&lt;b&gt;&amp;.dm3",
    b"=cmd|' calc'!A0.dm3",
    b"..\\..\\windows\\system.ini.dm3",
    b"%2e%2e%2fetc%2fpasswd.dm3",
    b"a?b=1#token=x&label=y.dm3",
    b"C:CON.dm3",
    b"trailing space .dm3",
    b" leading.dm3",
    b"two\nlines.dm3",
    b"tab\tand\x1b[31mred.dm3",
    b"\x7f\x01.dm3",
    "emoji \U0001f52c\U0001f9ea.dm3".encode(),
    "\u202eexe.3md gnp.dm3".encode(),
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629.dm3".encode(),
    "e\u0301 decomposed.dm3".encode(),
    "\u00e9 composed.dm3".encode(),
    "zero\u200bwidth\ufeff.dm3".encode(),
    "line\u2028separator\u2029.dm3".encode(),
    b"not utf-8 \xff\xfe\xc3\x28.dm3",
    b"lone \xed\xa0\x80 surrogate.dm3",
    b"__proto__.dm3",
    b"x" * 230 + b".dm3",
)
LABELS = (
    "<img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A0",
    "__proto__",
    "\u202edor",
    "a label that is much too long " * 6,
)
TAG = '"><script>alert(document.domain)</script><img src=x onerror=alert(2)>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuietPage]:
    with QuietPage(tmp_path_factory.mktemp("names"), labels=LABELS) as quiet:
        for name in file_names_of_this_disk(quiet.folder, NAMES):
            quiet.comes(quiet.a_finding(os.fsdecode(name)))
        quiet.comes(quiet.a_finding("tagged.dm3", outcome="not_an_image", reason=TAG, label=None, probability=None,
                                    decision=None, reasons=()))  # fmt: skip
        quiet.comes(quiet.a_finding("doubted.dm3", decision="abstain", reasons=(TAG,)))
        yield quiet


def file_names_of_this_disk(folder: Path, names: Sequence[bytes]) -> list[bytes]:
    """Those of the names that this disk takes."""
    taken = []
    for name in names:
        file = folder / os.fsdecode(name)
        try:
            file.touch(exist_ok=False)
        except OSError:
            if not file.exists():
                continue
        else:
            file.unlink()
        taken.append(name)
    return taken


def readable(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def test_every_name_is_text_in_history_strip_and_detail(chromium: Any, page: QuietPage) -> None:
    with visiting(chromium, page) as visit:
        visit.expected.append("/api/entries/")  # no sidecar lies there
        tab = visit.tab()
        listbox = tab.locator("#history [role=listbox]")
        tab.locator("#history [role=option]").nth(5).wait_for()
        listbox.focus()
        tab.keyboard.press("Home")
        seen = set()
        for _ in range(page.made):
            chosen = tab.locator("#history [role=option][aria-selected=true]")
            seen.add(chosen.locator(".name").evaluate("one => one.textContent"))
            tab.keyboard.press("ArrowDown")
            tab.wait_for_timeout(30)
        wanted = {readable(name) for name in file_names_of_this_disk(page.folder, NAMES)}
        assert wanted - seen == set()
        assert tab.locator("#latest img, #latest script, #history script, #strip script").count() == 0
        assert accessible(tab) == []


def test_every_label_is_text_and_can_be_given(chromium: Any, page: QuietPage) -> None:
    with visiting(chromium, page) as visit:
        visit.expected.append("/api/entries/")
        tab = visit.tab()
        tab.locator("#history [role=option]").nth(5).wait_for()
        tab.locator("#person").fill("<b>ada</b>")
        tab.locator("#history [role=listbox]").focus()
        tab.keyboard.press("Home")
        for key in "12345":
            tab.keyboard.press(key)
        given = tab.locator("#history .given")
        for label in LABELS[:4]:
            until(lambda: any(label in text for text in given.all_text_contents()), label)  # noqa: B023
        for place in ("session", "learning"):
            tab.locator(f"#tab-{place}").click()
            expect(tab.locator(f"#{place}")).to_contain_text(LABELS[0])


def test_what_a_session_leaves_to_print_and_to_count_is_text_too(chromium: Any, page: QuietPage) -> None:
    with visiting(chromium, page) as visit:
        tab = visit.tab()
        link = tab.request.get(f"{page.address}api/sessions/latest").json()["id"]
        printed = visit.context.new_page()
        visit.watch(printed)
        printed.goto(f"{page.address}api/sessions/{link}/summary.html")
        expect(printed.locator("body")).to_contain_text(LABELS[0])
        assert printed.locator("script, img[src=x]").count() == 0
        assert accessible(printed) == []
        table = tab.request.get(f"{page.address}api/sessions/{link}/entries.csv").text()
        assert not any(
            cell.strip('"').startswith(("=", "+", "-", "@"))
            for row in table.splitlines()
            for cell in row.split(",")
        )
