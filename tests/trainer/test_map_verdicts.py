"""The sentences: each figure can be told for or against the map."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from trainer.scoring.deletion import STEPS, Curve, Difference
from trainer.scoring.faithfulness_record import Cost, Faithfulness, MethodFigures
from trainer.scoring.map_verdicts import faithfulness_text, limits, main_method, sentences
from trainer.scoring.pointing import Pointing, pointing_figures
from trainer.scoring.randomisation import Alike, randomised

GROUPS = [f"g{at}" for at in range(6)]


def curve(area: float, apart: float, interval: tuple[float, float] | None) -> Curve:
    beyond = {
        "random": Difference(mean=apart, interval=interval),
        "centre": Difference(mean=0.0, interval=None),
    }
    return Curve(mean=(area,) * (STEPS + 1), area=area, interval=None, beyond=beyond)


HIT_AND_MISS = (Pointing(True, 0.5, 0.6, 0.4, 0.7), Pointing(False, 0.5, 0.6, 0.4, 0.7))
GOOD_DELETION, GOOD_INSERTION = curve(0.4, -0.1, (-0.2, -0.05)), curve(0.7, 0.2, (0.1, 0.3))


def forgetting(end: float) -> Any:
    low, high = Alike(np.full(6, 0.2), np.full(6, 0.2)), Alike(np.full(6, end), np.full(6, end))
    return randomised([(50, [high])], low, GROUPS, 0)


def record(**changes: Any) -> Faithfulness:
    own = {"deletion": GOOD_DELETION, "insertion": GOOD_INSERTION, **changes}
    names = own.pop("names", ("cam",))
    absent = own.pop("absent", {})
    even = {"cells": 196, "deletion": curve(0.5, 0, None), "insertion": curve(0.5, 0, None)}
    good = {"cells": 4, "deletion": GOOD_DELETION, "insertion": GOOD_INSERTION}
    methods = (
        MethodFigures(names=("occlusion",), baseline=False, **good),
        MethodFigures(names=names, baseline=False, cells=196, **own),
        MethodFigures(names=("random",), baseline=True, **even),
    )
    return Faithfulness(
        bundle="tiny-1",
        model_sha256="0",
        dataset="/data",
        dataset_fingerprint="f",
        part="test",
        made=datetime(2026, 1, 1, tzinfo=UTC),
        seed=0,
        own="cam",
        micrographs=6,
        of=9,
        groups=6,
        right=5,
        substitute="a blurred one",
        whole=0.95,
        blank=0.31,
        methods=methods,
        absent=absent,
        examples=(),
        unreadable={"b.dm3": "is damaged"},
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {},
            "are blurred first, the probability of the answer falls (area 0.400) sooner than with cells in random "
            "order (area 0.500; difference -0.100, 95 % interval -0.200 to -0.050), and no sooner, as far as these "
            "micrographs can tell, than with cells from the middle outwards (area 0.400; difference +0.000).",
            id="deletion for the map",
        ),
        pytest.param(
            {"deletion": curve(0.6, 0.1, (0.05, 0.2))},
            "falls (area 0.600) later, so that the map misleads, than with cells in random order (area 0.500",
            id="deletion against the map",
        ),
        pytest.param(
            {"deletion": curve(0.48, -0.02, (-0.1, 0.1))},
            "falls (area 0.480) no sooner, as far as these micrographs can tell, than with cells in random order",
            id="deletion undecided",
        ),
        pytest.param(
            {},
            "given back first to a blurred field, it rises (area 0.700) sooner than with cells in random order",
            id="insertion for the map",
        ),
        pytest.param(
            {"insertion": curve(0.4, -0.1, (-0.2, -0.05))},
            "it rises (area 0.400) later, so that the map misleads, than with cells in random order (area 0.500",
            id="insertion against the map",
        ),
        pytest.param(
            {"randomised": forgetting(0.1)},
            "With random weights in all 50 layers its likeness to the trained network's map (rank correlation) is "
            "0.10 for the absolute values and 0.10 for the positive part, where maps of different micrographs have "
            "0.20 and 0.20: so the map is made of what the network has learnt.",
            id="it forgets",
        ),
        pytest.param(
            {"randomised": forgetting(0.5)},
            "so a part of it does not come from what was learnt",
            id="a part of it stays",
        ),
        pytest.param(
            {"randomised": forgetting(0.9)},
            "so it hardly depends on what was learnt, and must not be taken for the network's reasons: the check "
            "is failed.",
            id="it stays",
        ),
        pytest.param(
            {"names": ("cam", "gradcam", "hirescam")},
            "cam, gradcam and hirescam give the same map here, up to a factor and an offset, and are counted once.",
            id="three names of one map",
        ),
        pytest.param(
            {"costs": {"cam": Cost(bare_ms=40, with_map_ms=44, ratio=1.1, runs=48)}},
            "With its map (cam) the network takes 1.10 times as long as without: 44.0 ms against 40.0 ms (medians "
            "of 48 runs, one thread).",
            id="its cost",
        ),
        pytest.param(
            {"pointing": pointing_figures(HIT_AND_MISS, ["a", "b"], 0)},
            "The peak lies on a particle in 50 % of 2 right answers (a random cell: 50 %); 60 % of the evidence "
            "falls on the 40 % of the area that they cover, 1.50 times what an even map has, 95 % interval 1.50 "
            "to 1.50. More than 2.50 no map can have, and a map that drew the masks themselves in cells of this "
            "size would have 1.75.",
            id="against masks",
        ),
    ],
)
def test_what_is_said_of_the_map_that_the_agent_draws(changes: dict[str, Any], words: str) -> None:
    said = sentences(record(**changes))
    assert any(words in sentence for sentence in said), "\n".join(said)


def test_the_agents_map_is_the_one_spoken_of() -> None:
    assert main_method(record()).names == ("cam",)
    assert main_method(record(names=("gradcam",))).names == ("occlusion",), "the agent's was not measured"


def test_what_the_figures_do_not_show_is_said_too() -> None:
    said = " ".join(limits(record()))
    assert "all blurred, it still gives 0.31 to the same class on average" in said
    assert "They do not show that it is complete or right." in said
    assert "no masks were given" in said
    seen = pointing_figures([Pointing(True, 0.5, 0.6, 0.4, 0.7)], ["a"], 0)
    assert "a map off the masks need not be wrong" in " ".join(limits(record(pointing=seen)))


def test_the_terminal_gets_a_table_the_sentences_and_what_is_missing() -> None:
    result = record(absent={"gradcam": "the way back holds a Loop"}, randomised=forgetting(0.1))
    lines = faithfulness_text(result).splitlines()
    assert lines[0] == "tiny-1: maps of 6 of 9 micrographs in 6 groups, part test"
    assert lines[1].split() == ["map", "deletion", "insertion", "forgets", "peak", "energy", "time", "x"]
    assert lines[3].split() == ["cam", "0.400", "0.700", "0.10", "-", "-", "-"]
    assert lines[4].split() == ["noise", "0.500", "0.500", "-", "-", "-", "-"]
    assert [line[2:] for line in lines if line.startswith("- ")] == list(sentences(result))
    assert lines[-2:] == ["gradcam: not measured: the way back holds a Loop", "not read: b.dm3: is damaged"]
