"""The summary of a session: one printed page (A4), a document for itself without scripts or pictures.

Everything in it that is not written here came from files and people, and is escaped. What could grow without end
is cut, so that it stays one page.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

from edge_agent import __version__
from edge_agent.page.entry_row import local_minute

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from edge_agent.page.session_facts import Origin, SessionFacts
    from edge_agent.page.sessions import Bins, ClassCounts, SessionNumbers

MOST_CLASSES: Final = 12
MOST_REASONS: Final = 10
_LONGEST_TEXT: Final = 60
_MOST_BARS: Final = 144
"""On paper; where there are more, neighbours are added up."""
_WIDTH: Final = 720
_HEIGHT: Final = 170
_COLOURS: Final = ("#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#e69f00")
"""Okabe-Ito in the page's own order (`static/colours.js`); each class has a letter as well."""
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WIDEST_BAR: Final = 40
_LEGENDS_IN_A_LINE: Final = 6
_STYLE: Final = """
@page { size: A4; margin: 14mm }
* { box-sizing: border-box }
body { font: 10pt/1.35 sans-serif; color: #000; background: #fff; max-width: 182mm; margin: 0 auto }
h1 { font-size: 16pt; margin: 0 0 1mm } h2 { font-size: 11pt; margin: 4mm 0 1mm }
p { margin: 0 0 1mm; overflow: hidden; text-overflow: ellipsis }
.origin { white-space: nowrap } .dim { color: #444 }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
th, td { text-align: right; padding: .4mm 2mm; border-bottom: 1px solid #bbb; white-space: nowrap }
th:first-child, td:first-child { text-align: left; overflow: hidden; text-overflow: ellipsis; padding-left: 0 }
.classes th:first-child { width: 45% } section td:first-child { width: 75% }
.columns { display: flex; gap: 8mm } .columns > * { flex: 1; min-width: 0 }
.figures { display: flex; gap: 6mm; margin: 2mm 0 } .figures b { font-size: 15pt; display: block }
svg { width: 100%; height: auto; display: block } svg text { font: 12px sans-serif }
.foot { margin-top: 4mm }
@media screen { body { padding: 14mm } }
@media print { html, body { height: 268mm; overflow: hidden } }
"""
_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""What the document may do: be styled by its own sheet."""


@dataclass(frozen=True, slots=True)
class _Key:
    """How a class is drawn."""

    letter: str
    colour: str


def summary_html(numbers: SessionNumbers, facts: SessionFacts, origin: Origin) -> str:
    """Return the document."""
    title = f"Session of {_span_text(numbers)}"
    keys = _keys(numbers.bins.labels)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>scopewatch: {escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n{_origin(origin)}{_figures(numbers)}"
        f"<h2>Classes</h2>\n{_class_table(numbers.classes, keys)}"
        f"<h2>Files over time, {_shown_bins(numbers.bins).minutes} minutes a bar</h2>\n{_bars(numbers.bins, keys)}"
        f'<div class="columns">\n<section><h2>Why it abstained</h2>\n{_reasons(facts)}</section>\n'
        f"<section><h2>What people said</h2>\n{_people(facts)}</section>\n</div>\n"
        f"<p class=\"dim foot\">scopewatch {__version__}. Labels are the network's; times are this PC's.</p>\n"
        "</main>\n</body>\n</html>\n"
    )


def _span_text(numbers: SessionNumbers) -> str:
    first, last = local_minute(numbers.span.start_us), local_minute(numbers.span.end_us - 1)
    day, time = first.split(" ")
    end = last.removeprefix(f"{day} ")
    return f"{day}, {time} to {end}" + (" (still open)" if numbers.is_open else "")


def _origin(origin: Origin) -> str:
    instruments = "; ".join(map(_cut, origin.instruments[:3])) or "instrument not named"
    models = "; ".join(f"{_cut(name)} ({_files(count)})" for name, count in origin.models) or "no answers"
    return "".join(f'<p class="origin">{escape(line)}</p>\n' for line in (instruments, models))


def _figures(numbers: SessionNumbers) -> str:
    pace = numbers.files_per_hour
    figures = [
        (f"{numbers.files}", "files"),
        ("-" if pace is None else f"{pace:.0f}", "files an hour"),
        (_percent(numbers.abstain_rate), "abstained"),
        (_percent(numbers.corrected_rate), "corrected"),
    ]
    shown = "".join(f"<div><b>{escape(value)}</b>{escape(what)}</div>" for value, what in figures)
    others = ", ".join(f"{count} {_words(outcome)}" for outcome, count in numbers.outcomes)
    return f'<div class="figures">{shown}</div>\n<p class="dim">{escape(others)}</p>\n'


def _class_table(classes: Sequence[ClassCounts], keys: dict[str, _Key]) -> str:
    shown = list(classes[:MOST_CLASSES])
    rows = [
        (
            f"{keys[counts.label].letter} {_cut(counts.label)}",
            counts.accept,
            counts.abstain,
            counts.ungated,
            counts.corrected,
        )
        for counts in shown
    ]
    if rest := classes[MOST_CLASSES:]:
        sums = (sum(getattr(c, name) for c in rest) for name in ("accept", "abstain", "ungated", "corrected"))
        rows.append((f"{len(rest)} more", *sums))
    head = ("class", "accepted", "abstained", "not gated", "corrected")
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    return f'<table class="classes">\n{"".join(lines)}</table>\n'


def _line(tag: str, cells: Iterable[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>\n"


def _bars(bins: Bins, keys: dict[str, _Key]) -> str:
    bins = _shown_bins(bins)
    most = max((sum(counts) for counts in bins.counts), default=0)
    if not most:
        return "<p>No file has an answer.</p>\n"
    step = _WIDTH / len(bins.counts)
    shapes = "".join(
        _bar(
            number * step,
            min(step * 0.9, _WIDEST_BAR),
            counts,
            most,
            [keys[label].colour for label in bins.labels],
        )
        for number, counts in enumerate(bins.counts)
    )
    start, end = (
        local_minute(bins.start_us + place * bins.minutes * 60_000_000) for place in (0, len(bins.counts))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 54}" role="img" aria-label="Files over time, by class">'
        f'<g stroke="#fff" stroke-width=".4">{shapes}</g><path d="M0 {_HEIGHT}H{_WIDTH}" stroke="#000"/>'
        f'<text x="0" y="{_HEIGHT + 14}">{start}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 14}" text-anchor="end">{end}</text>'
        f'<text x="{_WIDTH / 2}" y="{_HEIGHT + 14}" text-anchor="middle">highest bar: {_files(most)}</text>'
        f"{''.join(_legend(bins.labels, keys))}</svg>\n"
    )


def _bar(x: float, width: float, counts: Sequence[int], most: int, colours: Sequence[str]) -> str:
    drawn, bottom = [], float(_HEIGHT)
    for count, colour in zip(counts, colours, strict=True):
        height = _HEIGHT * count / most
        bottom -= height
        if count:
            size = f'width="{width:.2f}" height="{height:.2f}"'
            drawn.append(f'<rect x="{x:.2f}" y="{bottom:.2f}" {size} fill="{colour}"/>')
    return "".join(drawn)


def _legend(labels: Sequence[str], keys: dict[str, _Key]) -> Iterator[str]:
    step = _WIDTH / min(max(1, len(labels)), _LEGENDS_IN_A_LINE)
    for place, label in enumerate(labels[:MOST_CLASSES]):
        line, column = divmod(place, _LEGENDS_IN_A_LINE)
        x, y = column * step, _HEIGHT + 32 + 16 * line
        text = f"{keys[label].letter} {_cut(label, int(step / 9))}"
        yield f'<rect x="{x:.1f}" y="{y - 9}" width="10" height="10" fill="{keys[label].colour}"/>'
        yield f'<text x="{x + 13:.1f}" y="{y}">{escape(text)}</text>'


def _shown_bins(bins: Bins) -> Bins:
    together = -(-len(bins.counts) // _MOST_BARS)
    if together <= 1:
        return bins
    counts = tuple(
        tuple(map(sum, zip(*bins.counts[place : place + together], strict=True)))
        for place in range(0, len(bins.counts), together)
    )
    return type(bins)(bins.minutes * together, bins.start_us, bins.labels, counts)


def _reasons(facts: SessionFacts) -> str:
    if not facts.abstentions:
        return "<p>It did not.</p>\n"
    rows = [(_cut(_words(reason)), count) for reason, count in facts.abstentions[:MOST_REASONS]]
    if rest := facts.abstentions[MOST_REASONS:]:
        rows.append((f"{len(rest)} other reasons", sum(count for _, count in rest)))
    return f"<table>\n{''.join(_line('td', row) for row in rows)}</table>\n"


def _people(facts: SessionFacts) -> str:
    rows: list[tuple[str, object]] = [
        ("confirmed", facts.confirmed),
        ("corrected", facts.corrected),
        ("not in the list", facts.not_in_list),
    ]
    if facts.blind:
        rows.append(("labelled blind: network right", f"{facts.blind_right} of {facts.blind}"))
    return f"<table>\n{''.join(_line('td', row) for row in rows)}</table>\n"


def _keys(labels: Sequence[str]) -> dict[str, _Key]:
    """As the page does: the first letter of the label that no class before it has."""
    taken: set[str] = set()
    keys = {}
    for place, label in enumerate(labels):
        letters = (sign for sign in f"{label}{_LETTERS}".upper() if sign.isalnum())
        letter = next((sign for sign in letters if sign not in taken), "+")
        taken.add(letter)
        keys[label] = _Key(letter, _COLOURS[place % len(_COLOURS)])
    return keys


def _words(word: str) -> str:
    return word.replace("_", " ")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _cut(text: str, longest: int = _LONGEST_TEXT) -> str:
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"
