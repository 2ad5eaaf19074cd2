"""Temperature: the one that was there is found again, and the graph divides by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from bundles import tiny_model
from foreign_models import small_onnx
from onnx import numpy_helper

from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.head_walk import find_logits
from trainer.exporting.onnx_graph import GraphError, OnnxGraph
from trainer.trusting.temperature import HIGHEST, LOWEST, fit_temperature, set_temperature, tempered

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def answers(
    count: int, temperature: float, seed: int = 0, inputs: int = 1
) -> tuple[list[NDArray[np.float32]], list[int]]:
    """Logits that, divided by this temperature, are those of calibrated answers; and what was true."""
    random = np.random.default_rng(seed)
    logits = [random.normal(0, 2, 3) for _ in range(count)]
    true = [int(random.choice(3, p=tempered(one[None], 1.0)[0])) for one in logits]
    return [np.tile(one * temperature, (inputs, 1)).astype(np.float32) for one in logits], true


def own(count: int) -> list[str]:
    return [f"g{index}" for index in range(count)]


@pytest.mark.parametrize(
    ("there", "inputs"),
    [
        pytest.param(3.0, 1, id="overconfident"),
        pytest.param(0.4, 1, id="underconfident"),
        pytest.param(1.0, 1, id="calibrated"),
        pytest.param(2.0, 4, id="several boxes"),
    ],
)
def test_the_temperature_that_was_there_is_found(there: float, inputs: int) -> None:
    logits, true = answers(4000, there, inputs=inputs)
    assert fit_temperature(logits, true, own(4000)) == pytest.approx(there, rel=0.06)


def test_what_counts_of_several_boxes_is_their_mean() -> None:
    """Two boxes that contradict each other are no sure answer, however sure each is."""
    sure, other = np.array([[8.0, 0, 0]], np.float32), np.array([[0, 8.0, 0]], np.float32)
    together = [np.concatenate([sure, other])] * 30 + [np.concatenate([sure, sure])] * 30
    true = [0, 1] * 15 + [0] * 30
    assert fit_temperature(together, true, own(60)) < 3
    assert fit_temperature([sure] * 30 + [sure] * 30, true, own(60)) > 3


@pytest.mark.parametrize(
    ("count", "scale"), [(20, 1.0), (20, 30.0), (300, 5.0), (2, 4.0)], ids=lambda value: f"{value:g}"
)
def test_answers_that_are_all_right_do_not_ask_for_certainty(count: int, scale: float) -> None:
    """Platt's target: as sure as n right answers of n allow, (n + 1) / (n + 2)."""
    logits = [np.array([[scale, 0, 0]], np.float32)] * count
    found = fit_temperature(logits, [0] * count, own(count))
    assert LOWEST < found < HIGHEST
    assert tempered(logits[0], found)[0, 0] == pytest.approx((count + 1) / (count + 2), abs=0.01)


def test_groups_weigh_the_same_however_many_micrographs_they_have() -> None:
    """One sample with 400 wrong answers, forty with a right one each."""
    sure = np.array([[3.0, 0, 0]], np.float32)
    true, groups = [1] * 400 + [0] * 40, ["one sample"] * 400 + own(40)
    by_group = fit_temperature([sure] * 440, true, groups)
    by_micrograph = fit_temperature([sure] * 440, true, own(440))
    one_each = fit_temperature([sure] * 41, [1] + [0] * 40, own(41))
    assert by_group == one_each
    assert by_micrograph == HIGHEST > 2 * by_group


def test_certain_answers_can_be_softened() -> None:
    """Single precision has made 0 of the other classes' probabilities; the logits still know them."""
    softened = tempered(np.array([[200.0, 0.0, 60.0]], np.float32), 20.0)
    np.testing.assert_allclose(softened, [[0.99904, 0.0000454, 0.000911]], atol=1e-5)


# --- in the graph ---------------------------------------------------------------------------------


def run(model: Any) -> NDArray[np.float32]:
    picture = np.random.default_rng(1).normal(size=(2, 1, 64, 80)).astype(np.float32)
    answer: NDArray[np.float32] = onnx_session(model.SerializeToString()).run(
        ["probabilities"], {"micrograph": picture}
    )[0]
    return answer


def tiny() -> Any:
    return onnx.load_from_string(tiny_model())


def without_division() -> Any:
    model = tiny()
    (division,) = (node for node in model.graph.node if node.op_type == "Div")
    (softmax,) = (node for node in model.graph.node if node.op_type == "Softmax")
    softmax.input[0] = division.input[0]
    model.graph.node.remove(division)
    (unused,) = (one for one in model.graph.initializer if one.name == division.input[1])
    model.graph.initializer.remove(unused)
    return model


@pytest.mark.parametrize("make", [tiny, without_division], ids=["with a division", "without"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_graph_gives_what_numpy_gives(make: Any, temperature: float) -> None:
    model = make()
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    logits = find_logits(OnnxGraph(model))
    probe.graph.output.append(onnx.ValueInfoProto(name=logits))
    picture = np.random.default_rng(1).normal(size=(2, 1, 64, 80)).astype(np.float32)
    (raw,) = onnx_session(probe.SerializeToString()).run([logits], {"micrograph": picture})
    set_temperature(model, temperature)
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model), tempered(raw, temperature), atol=1e-6)


@pytest.mark.parametrize("make", [tiny, without_division], ids=["with a division", "without"])
def test_the_last_temperature_holds_and_leaves_no_trace_of_the_others(make: Any) -> None:
    once, often = make(), make()
    set_temperature(once, 2.5)
    for temperature in (7.0, 0.3, 2.5):
        set_temperature(often, temperature)
    np.testing.assert_array_equal(run(once), run(often))
    for model in (once, often):
        names = [one.name for one in model.graph.initializer]
        assert len(names) == len(set(names))
        assert set(names) <= {name for node in model.graph.node for name in node.input}


def test_a_constant_that_others_read_too_stays() -> None:
    model = tiny()
    (division,) = (node for node in model.graph.node if node.op_type == "Div")
    earlier = division.input[1]
    model.graph.node.append(onnx.helper.make_node("Identity", [earlier], ["told"]))
    model.graph.output.append(onnx.ValueInfoProto(name="told"))
    set_temperature(model, 3.0)
    (told,) = onnx_session(model.SerializeToString()).run(
        ["told"], {"micrograph": np.zeros((1, 1, 64, 64), np.float32)}
    )
    assert float(np.ravel(told)[0]) == 1.0


def test_without_a_softmax_there_is_no_temperature(tmp_path: Path) -> None:
    model = onnx.load(small_onnx(tmp_path / "lab.onnx"))
    with pytest.raises(GraphError, match="the output probabilities is no softmax"):
        set_temperature(model, 2.0)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(tensors) == {"kernel"}
