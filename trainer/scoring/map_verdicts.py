"""What the figures of maps say in plain words, and what they do not: the same sentences on a terminal and a page.

Only this module turns figures into sentences; each of them can come out against the map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainer.scoring.map_methods import CENTRE, RANDOM

if TYPE_CHECKING:
    from trainer.scoring.deletion import Curve, Difference
    from trainer.scoring.faithfulness_record import Cost, Faithfulness, MethodFigures
    from trainer.scoring.pointing import PointingFigures
    from trainer.scoring.randomisation import Randomised


def titled(names: tuple[str, ...]) -> str:
    """The name of a row: all methods that gave this map."""
    known = {CENTRE: "bump in the middle", RANDOM: "noise"}
    return ", ".join(known.get(name, name) for name in names)


def sentences(result: Faithfulness) -> tuple[str, ...]:
    """What was found about the map that the agent draws, or the first one measured."""
    main = main_method(result)
    said = [*_same(result), _deletion(main), _insertion(main)]
    if main.randomised is not None:
        said.append(_randomised(main.randomised))
    if main.pointing is not None:
        said.append(_pointing(main.pointing, result))
    said += [_cost(name, cost) for name, cost in main.costs.items() if name == result.own]
    return tuple(said)


def limits(result: Faithfulness) -> tuple[str, ...]:
    """What the figures do not show."""
    said = [
        "Deletion and insertion say that this network's answer hangs on the marked cells, not that a person's "
        "reasons lie there. Blurred pictures are unlike any that the network was trained on, and how it answers "
        f"them is part of the figure: all blurred, it still gives {result.blank:.2f} to the same class on average.",
        "Random weights show that a map is made of what was learnt. They do not show that it is complete or right.",
        "Areas, likenesses and times are means over these micrographs; a single map may be better or worse.",
    ]
    if main_method(result).pointing is not None:
        said.append(
            "Masks show particles, and the class may hang on a part of a particle or on its neighbourhood: a map "
            "off the masks need not be wrong, one on them need not be right."
        )
    else:
        said.append("Whether the map points at particles is not known: no masks were given.")
    return tuple(said)


def main_method(result: Faithfulness) -> MethodFigures:
    """The figures of the map that the agent draws; where it was not measured, the first ones."""
    return next((one for one in result.methods if result.own in one.names), result.methods[0])


def _same(result: Faithfulness) -> list[str]:
    return [
        f"{_listed(one.names)} give the same map here, up to a factor and an offset, and are counted once."
        for one in result.methods
        if len(one.names) > 1
    ]


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _deletion(main: MethodFigures) -> str:
    start = "When the cells that the map ranks highest are blurred first, the probability of the answer falls"
    return _beside_others(main.deletion, start, lower_is_better=True)


def _insertion(main: MethodFigures) -> str:
    start = "When they are given back first to a blurred field, it rises"
    return _beside_others(main.insertion, start, lower_is_better=False)


_ORDERS: Final = {RANDOM: "in random order", CENTRE: "from the middle outwards"}


def _beside_others(curve: Curve, start: str, *, lower_is_better: bool) -> str:
    told = [
        f"{_how(apart, lower_is_better)} {_ORDERS[name]} (area {curve.area - apart.mean:.3f}; difference "
        f"{apart.mean:+.3f}{_interval(apart.interval, '+.3f')})"
        for name, apart in curve.beyond.items()
        if name in _ORDERS
    ]
    return f"{start} (area {curve.area:.3f}) {', and '.join(told)}."


def _how(apart: Difference, lower_is_better: bool) -> str:
    """In words what the difference says, as far as its interval lets one say anything."""
    if apart.interval is None or apart.interval[0] <= 0 <= apart.interval[1]:
        return "no sooner, as far as these micrographs can tell, than with cells"
    better = (apart.mean < 0) is lower_is_better
    return "sooner than with cells" if better else "later, so that the map misleads, than with cells"


def _interval(pair: tuple[float, float] | None, digits: str = ".2f") -> str:
    return "" if pair is None else f", 95 % interval {pair[0]:{digits}} to {pair[1]:{digits}}"


def _randomised(seen: Randomised) -> str:
    end = seen.stages[-1]
    figures = (
        f"With random weights in all {seen.layers} layers its likeness to the trained network's map (rank "
        f"correlation) is {end.absolute:.2f} for the absolute values and {end.positive:.2f} for the positive part, "
        f"where maps of different micrographs have {seen.unrelated_absolute:.2f} and {seen.unrelated_positive:.2f}"
    )
    verdicts = {
        "falls": "so the map is made of what the network has learnt",
        "falls in part": (
            "so a part of it does not come from what was learnt, but from what any network of this form does to "
            "the picture"
        ),
        "stays": (
            "so it hardly depends on what was learnt, and must not be taken for the network's reasons: the check "
            "is failed"
        ),
    }
    return f"{figures}: {verdicts[seen.verdict]}."


def _pointing(seen: PointingFigures, result: Faithfulness) -> str:
    peak = f"The peak lies on a particle in {100 * seen.peak_on_particle:.0f} % of {seen.micrographs} right answers"
    chance = f"(a random cell: {100 * seen.chance:.0f} %)"
    energy = (
        f"{100 * seen.energy_on_particles:.0f} % of the evidence falls on the {100 * seen.particle_share:.0f} % "
        f"of the area that they cover, {seen.energy_over_share:.2f} times what an even map has"
        f"{_interval(seen.energy_over_share_interval)}"
    )
    bound = (
        f"more than {seen.highest:.2f} no map can have, and a map that drew the masks themselves in cells of this "
        f"size would have {seen.finest:.2f}"
    )
    return f"{peak} {chance}; {energy}. {bound[0].upper()}{bound[1:]}."


def _cost(name: str, cost: Cost) -> str:
    return (
        f"With its map ({name}) the network takes {cost.ratio:.2f} times as long as without: "
        f"{cost.with_map_ms:.1f} ms against {cost.bare_ms:.1f} ms (medians of {cost.runs} runs, one thread)."
    )


# --- terminal -------------------------------------------------------------------------------------


def faithfulness_text(result: Faithfulness) -> str:
    """A table of the methods and the sentences, for a terminal."""
    lines = [
        f"{result.bundle}: maps of {result.micrographs} of {result.of} micrographs in {result.groups} groups, "
        f"part {result.part}",
        _row("map", ("deletion", "insertion", "forgets", "peak", "energy", "time x")),
    ]
    lines += [_row(titled(one.names), _cells(one)) for one in result.methods]
    lines += [f"- {sentence}" for sentence in sentences(result)]
    lines += [f"{name}: not measured: {reason}" for name, reason in result.absent.items()]
    lines += [f"not read: {file}: {reason}" for file, reason in result.unreadable.items()]
    return "\n".join(lines)


def _row(name: str, cells: tuple[str, ...]) -> str:
    return name.ljust(26) + "".join(cell.ljust(12) for cell in cells).rstrip()


def _cells(one: MethodFigures) -> tuple[str, ...]:
    pointed, forgotten = one.pointing, one.randomised
    return (
        f"{one.deletion.area:.3f}",
        f"{one.insertion.area:.3f}",
        f"{forgotten.stages[-1].absolute:.2f}" if forgotten else "-",
        f"{pointed.peak_on_particle:.2f}" if pointed else "-",
        f"{pointed.energy_over_share:.2f}" if pointed else "-",
        ", ".join(f"{cost.ratio:.2f}" for cost in one.costs.values()) or "-",
    )
