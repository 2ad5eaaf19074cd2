"""What do the guards by look refuse (good micrographs, other pictures, simulated strangers), and what do they cost?

    python tests/benchmarks/guard_rates.py ../shared/data [--each 100] [--seed 7]

The limits come from labelled published micrographs (EMPS) by `trainer.trusting.guard_limits`. False alarms are
counted out of sample: limits from one half of the articles, alarms on the other, both ways, five divisions. All
other rows are judged by limits from all of them. Pictures that are already refused as blank or saturated
are counted in their own column. Prints tables, asserts nothing. Two minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.field_look import Look, look_at
from edge_agent.micrograph import read_micrograph
from edge_agent.preprocessing import Preprocessing, cut_tiles
from edge_agent.simulated_field import DRAWN, draw_field
from edge_agent.simulated_strangers import STRANGERS, draw_stranger
from trainer.trusting.guard_limits import guard_limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edge_agent.model_bundle import Guards

RULE = Preprocessing()
SATURATED = 0.25
LATTICES = (
    "SciFiDatasets/DMReader_Image_SI-Survey.dm3",
    "SciFiDatasets/DMReader_SI-HAADF.dm3",
    "ingrained/HAADF149.dm3",
    "ingrained/HAADF85.dm3",
    "rosettasciio/2D/multi_signal.dm3",
    "temul-toolkit/example_Se_implanted_MoS2.dm3",
)
DIVISIONS = 5


@dataclass(frozen=True, slots=True)
class Seen:
    kind: str
    article: str
    look: Look
    unjudgeable: bool
    """Blank or saturated."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=100, help="simulated pictures of each kind")
    parser.add_argument("--seed", type=int, default=7)
    wanted = parser.parse_args()

    emps = list(published(wanted.data / "labelled" / "emps"))
    limits = guard_limits([seen.look for seen in emps])
    print(f"limits from all {len(emps)}: {limits}\n")
    print_false_alarms(emps)
    print(f"\n{'':24}{'n':>5}{'any':>7}{'unjudg.':>9}{'blurred':>9}{'drifted':>9}{'diffr.':>9}")
    others = [*unlabelled(wanted.data), *simulated(wanted.each, wanted.seed)]
    for kind in dict.fromkeys(seen.kind for seen in others):
        print_rates(kind, [seen for seen in others if seen.kind == kind], limits)
    print_cost()


def published(folder: Path) -> Iterator[Seen]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            if not row["file"].startswith("unlabelled"):
                yield from look_of(folder / row["file"], "emps", row["paper_doi"])


def unlabelled(data: Path) -> Iterator[Seen]:
    labelled = data / "labelled"
    for path in sorted((labelled / "emps" / "unlabelled").glob("*.jpg")):
        yield from look_of(path, "emps unlabelled")
    for folder in sorted((labelled / "nasa_ood").iterdir()):
        for path in sorted(folder.rglob("*.jpg")):
            yield from look_of(path, f"nasa {folder.name}")
    for path in sorted((labelled / "supported_catalysts").rglob("*.jp*g")):
        yield from look_of(path, "supported_catalysts")
    for name in LATTICES:
        yield from look_of(data / "dm3" / name, "lattice dm3")


def look_of(path: Path, kind: str, article: str = "") -> Iterator[Seen]:
    micrograph = read_micrograph(path)
    yield from seen_in(micrograph.pixels, kind, article, micrograph.pixel_size_nm)


def simulated(each: int, seed: int) -> Iterator[Seen]:
    for kind in STRANGERS:
        for index in range(each):
            yield from seen_in(draw_stranger(kind, np.random.default_rng([seed, index])), f"stranger {kind}")
    for drawn in DRAWN:
        for index in range(each // 2):
            field = draw_field(drawn, np.random.default_rng([seed, index]), 1024)
            yield from seen_in(field.pixels, f"field {drawn}{' (clear)' if field.clear else ''}")


def seen_in(pixels, kind: str, article: str = "", pixel_size_nm=None) -> Iterator[Seen]:
    tiles = cut_tiles(pixels, pixel_size_nm, RULE)
    look = look_at(tiles, RULE.value_range)
    if look is not None:
        yield Seen(kind, article, look, tiles.field.blank or tiles.field.saturated_fraction > SATURATED)


def fired(look: Look, limits: Guards) -> tuple[bool, bool, bool]:
    return (
        look.sharpness < limits.least_sharpness,
        look.streaks > limits.most_streaks,
        look.diffraction > limits.most_diffraction,
    )


def print_false_alarms(emps: list[Seen]) -> None:
    by_article = defaultdict(list)
    for seen in emps:
        by_article[seen.article].append(seen)
    found = []
    for division in range(DIVISIONS):
        articles = np.random.default_rng(division).permutation(sorted(by_article))
        halves = [[seen for name in articles[side::2] for seen in by_article[name]] for side in (0, 1)]
        for half, other in (halves, halves[::-1]):
            limits = guard_limits([seen.look for seen in half])
            found += [fired(seen.look, limits) for seen in other]
    alarms = np.array(found)
    shares = ", ".join(
        f"{name} {share:.1%}"
        for name, share in zip(("blurred", "drifted", "diffraction"), alarms.mean(axis=0), strict=True)
    )
    any_share = alarms.any(axis=1).mean()
    print(f"false alarms on the other half: {any_share:.1%} of {len(alarms)} ({shares})")


def print_rates(kind: str, seen: Iterable[Seen], limits: Guards) -> None:
    rows = list(seen)
    guards = np.array([fired(one.look, limits) for one in rows])
    unjudgeable = np.array([one.unjudgeable for one in rows])
    shares = (guards.any(axis=1).mean(), unjudgeable.mean(), *guards.mean(axis=0))
    print(f"{kind:24}{len(rows):5d}" + "".join(f"{share:>8.0%} " for share in shares))


def print_cost() -> None:
    tiles = cut_tiles(draw_field("round", np.random.default_rng(0), 1024).pixels, None, RULE)
    times = []
    for _ in range(60):
        started = time.perf_counter()
        look_at(tiles, RULE.value_range)
        times.append(1000 * (time.perf_counter() - started))
    print(
        f"\nlook_at, one input of {RULE.input_px} px: median {np.median(times):.1f} ms, least {min(times):.1f} ms"
    )


if __name__ == "__main__":
    main()
