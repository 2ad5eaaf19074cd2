"""Which form of the graph is taken: the fastest of those that keep answers and maps, and none for mere noise."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bundles import Form, tiny_bundle, tiny_manifest, tiny_model
from limits_by_hand import with_limits
from pydantic import ValidationError
from toys import LABELS

from edge_agent.classifier import Classifier
from edge_agent.model_bundle import Bundle, open_bundle, tensor_names
from edge_agent.onnx_gate import OnnxRefused, gate_model
from trainer.exporting import form_scores
from trainer.exporting.bundle_writer import add_file, onnx_session
from trainer.exporting.form_scores import OptimiseError, agreement
from trainer.exporting.front_matter import without_front_matter
from trainer.exporting.onnx_metadata import read
from trainer.exporting.optimising import OptimiseOrder, optimisation_text, optimise
from trainer.exporting.quantisation import FormError, Rounding, quantised, rounding_apart, tidied
from trainer.scoring.evaluation import evaluate
from trainer.trusting.trust_record import read_trust

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainer.preparing.crops import DataSet

INPUTS = [np.random.default_rng(seed).uniform(-1, 1, (1, 1, 64, 72)).astype(np.float32) for seed in range(3)]
ANY = OptimiseOrder(least_agreement=-1.0, most_loss=1.0)
"""Takes whatever is fastest."""


@pytest.fixture(autouse=True)
def no_temporary_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def taking(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let every inference of a form take so many milliseconds."""

    def set_times(**milliseconds: float) -> None:
        def timed(asked: dict[str, Classifier], *_: object) -> list[tuple[str, float]]:
            return [(name, milliseconds[name.replace(" ", "_")]) for name in asked]

        monkeypatch.setattr(form_scores, "_timed", timed)

    return set_times


def operators(model: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model_from_string(model).graph.node)


# --- the forms --------------------------------------------------------------------------------------


def test_the_tidied_graph_is_plain_smaller_and_answers_the_same(shared_bundle: Path) -> None:
    bundle = open_bundle(shared_bundle)
    names = tensor_names(bundle.manifest.tensors)
    form = tidied(bundle.model_bytes, names)
    gate_model(form, names)
    onnx.checker.check_model(onnx.load_model_from_string(form), full_check=True)
    assert operators(form).total() < operators(bundle.model_bytes).total()
    for before, after in zip(
        *(onnx_session(model).run(None, {"micrograph": INPUTS[0]}) for model in (bundle.model_bytes, form)),
        strict=True,
    ):
        np.testing.assert_allclose(before, after, atol=1e-4)
    assert max(rounding_apart(form, bundle.manifest.tensors, INPUTS)) < 1e-3


def test_further_levels_are_not_portable(shared_bundle: Path, tmp_path: Path) -> None:
    bundle, options = open_bundle(shared_bundle), onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "extended.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(bundle.model_bytes, options, providers=["CPUExecutionProvider"])
    with pytest.raises(OnnxRefused, match="operator domain"):
        gate_model((tmp_path / "extended.onnx").read_bytes(), tensor_names(bundle.manifest.tensors))


@pytest.mark.parametrize(
    ("lower_in_float", "in_8_bits"), [(0.0, ["backbone/0", "backbone/1"]), (0.5, ["backbone/1"])]
)
def test_8_bits_are_the_backbones_and_not_the_heads(
    shared_bundle: Path, lower_in_float: float, in_8_bits: list[str]
) -> None:
    bundle = open_bundle(shared_bundle)
    tensors = bundle.manifest.tensors
    plain = tidied(bundle.model_bytes, tensor_names(tensors))
    form = quantised(plain, tensors, len(LABELS), INPUTS, lower_in_float)
    gate_model(form, tensor_names(tensors))
    graph = onnx.load_model_from_string(form)
    onnx.checker.check_model(graph, full_check=True)
    assert len(graph.metadata_props) == 0
    maker = {name: node.op_type for node in graph.graph.node for name in node.output}
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3
    fed = {node.name: {maker.get(name) for name in node.input[:2]} for node in convolutions}
    assert [name for name, made in fed.items() if made == {"DequantizeLinear"}] == in_8_bits
    assert len(form) < len(plain)
    close = [
        [
            session.run([name], {"micrograph": INPUTS[1]})[0]
            for session in (onnx_session(plain), onnx_session(form))
        ]
        for name in ("probabilities", "cam")
    ]
    assert agreement(close[1][0][0, 0], close[1][1][0, 0]) > 0.9
    assert 0 < np.abs(close[0][0] - close[0][1]).max() < 0.2, "8 bits are not the same, but near"


def test_a_graph_whose_only_convolution_is_its_head_has_no_such_form() -> None:
    model = onnx.load_model_from_string(tiny_model())
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    first.op_type = "MaxPool"
    del first.input[1:]
    with pytest.raises(FormError, match="no convolution below its head"):
        quantised(model.SerializeToString(), tiny_manifest().tensors, 3, INPUTS)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param([0, 1, 2], [0, 1, 2], 1.0, id="the same"),
        pytest.param([0, 1, 2], [5, 7, 9], 1.0, id="another scale"),
        pytest.param([0, 1, 2], [2, 1, 0], -1.0, id="inverted"),
        pytest.param([1, 1, 1], [1, 1, 1], 1.0, id="both flat"),
        pytest.param([0, 1, 2], [1, 1, 1], 0.0, id="one flat"),
        pytest.param([3], [4], 1.0, id="one cell"),
    ],
)
def test_maps_agree(before: list[float], after: list[float], expected: float) -> None:
    maps = (np.array([values], dtype=np.float32) for values in (before, after))
    assert agreement(*maps) == pytest.approx(expected)


# --- the choice -------------------------------------------------------------------------------------

FASTER = {"float": 10.0, "tidied": 9.9, "int8": 5.0, "int8_upper": 6.0}


@pytest.mark.parametrize(
    ("milliseconds", "order", "chosen", "reason"),
    [
        pytest.param(
            FASTER, ANY, "int8", r"^int8 takes 5\.0 ms, the float graph 10\.0 ms \(2\.00 times", id="fastest"
        ),
        pytest.param(
            {**FASTER, "int8": 7.0}, ANY, "int8 upper", r"\(1\.67 times as fast\)", id="another is faster"
        ),
        pytest.param(
            {**FASTER, "tidied": 8.0},
            OptimiseOrder(least_agreement=0.99999, most_loss=1.0),
            "tidied",
            r"int8 failed: its maps agree by 0\.9\d+, less than 0\.99999; int8 upper failed: its maps",
            id="8 bits lose the map",
        ),
        pytest.param(
            dict.fromkeys(FASTER, 9.6) | {"float": 10.0}, ANY, "float",
            r"^no form that passed is faster than the float graph \(10\.0 ms\) by 5 % or more: the fastest is \w+ "
            r"with 9\.6 ms, within noise$",
            id="noise",
        ),
    ],
)  # fmt: skip
def test_the_fastest_that_holds_is_taken(
    shared_bundle: Path,
    dataset: DataSet,
    tmp_path: Path,
    taking: Any,
    milliseconds: dict[str, float],
    order: OptimiseOrder,
    chosen: str,
    reason: str,
) -> None:
    taking(**milliseconds)
    found = optimise(shared_bundle, dataset, tmp_path / "out", order)
    facts = found.bundle.manifest.optimisation
    assert facts is not None
    assert facts.chosen == chosen
    assert re.search(reason, facts.reason)
    assert [one.name for one in facts.candidates] == ["float", "tidied", "int8", "int8 upper"]
    assert (facts.pictures, facts.threads) == (8, 1)
    assert facts.candidates[0].cam_agreement == 1.0
    eight_bits = operators(found.bundle.model_bytes)["QuantizeLinear"] > 0
    assert eight_bits == chosen.startswith("int8")
    text = optimisation_text(found)
    assert text.splitlines()[-1] == facts.reason
    assert len(text.splitlines()) == 1 + 4 + 2


def test_a_form_that_loses_accuracy_is_not_taken(
    shared_bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking(**FASTER)
    run = Classifier.run

    def worse(self: Classifier, *given: Any, **named: Any) -> Any:
        outputs = run(self, *given, **named)
        broken = b"QuantizeLinear" in self.bundle.model_bytes
        return outputs._replace(probabilities=outputs.probabilities[:, ::-1]) if broken else outputs

    monkeypatch.setattr(Classifier, "run", worse)
    found = optimise(shared_bundle, dataset, tmp_path / "out", replace(ANY, most_loss=0.01))
    one = {measured.candidate.name: measured.candidate for measured in found.measured}
    assert one["float"].accuracy == 1.0
    assert one["int8"].accuracy == 0.0
    assert not one["int8"].passed
    assert one["int8"].reason == "loses 1.000 of accuracy, more than 0.01"
    assert found.bundle.manifest.optimisation.chosen == "float"


def test_a_form_that_rounds_too_differently_elsewhere_is_not_taken(
    shared_bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.exporting import optimising

    taking(**FASTER)
    monkeypatch.setattr(optimising, "rounding_apart", lambda *_: Rounding(0.02, 0.1))
    found = optimise(shared_bundle, dataset, tmp_path / "out", ANY)
    assert found.bundle.manifest.optimisation.chosen == "float"
    assert (
        "int8 failed: another processor may answer otherwise by 0.020"
        in found.bundle.manifest.optimisation.reason
    )


# --- a bundle with limits ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def limited_bundle(shared_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle with a temperature, a novelty and thresholds; read only."""
    return with_limits(shared_bundle, tmp_path_factory.mktemp("limited") / "toy-1", most_novel=1e6)


LOOSE = replace(ANY, most_novelty_apart=float("inf"), least_decisions_kept=0.0)


def test_the_chosen_form_keeps_the_limits_and_what_they_rest_on(
    limited_bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any
) -> None:
    taking(**FASTER)
    before = open_bundle(limited_bundle)
    found = optimise(limited_bundle, dataset, tmp_path / "out", LOOSE)
    after = open_bundle(found.bundle.path)
    facts = after.manifest.optimisation
    assert facts is not None
    assert facts.chosen == "int8"
    assert operators(after.model_bytes)["QuantizeLinear"] > 0
    same = {"temperature", "thresholds", "novelty", "guards", "training_ranges", "usual", "tensors"}
    assert after.manifest.model_dump(include=same) == before.manifest.model_dump(include=same)
    assert read_trust(after) == read_trust(before) is not None
    replay = Classifier(after).replay_golden()
    assert replay.passed
    with np.load(after.path / "golden.npz") as golden:
        assert "novelty_0" in golden
    apart = {one.name: one.novelty_apart for one in facts.candidates}
    assert apart["float"] == 0.0
    assert 0 <= apart["tidied"] < 1e-3 < apart["int8"]
    assert facts.candidates[0].decisions_kept == 1.0
    assert f"{100 * facts.candidates[2].decisions_kept:.1f} % of the decisions are the same" in facts.reason
    card = (after.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "## When it does not answer" in card
    assert "| novelty off by at most | same decision |" in card


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        pytest.param(
            replace(LOOSE, most_novelty_apart=1e-4),
            r"int8 failed: its novelty is off by up to [0-9.]+ %, more than 0\.01 %",
            id="another novelty",
        ),
        pytest.param(
            replace(LOOSE, least_decisions_kept=0.9),
            r"int8 failed: it keeps 0\.0 % of the decisions, less than 90 %",
            id="other decisions",
        ),
    ],
)
def test_a_form_for_which_the_limits_do_not_hold_is_not_taken(
    limited_bundle: Path,
    dataset: DataSet,
    tmp_path: Path,
    taking: Any,
    monkeypatch: pytest.MonkeyPatch,
    order: OptimiseOrder,
    reason: str,
) -> None:
    taking(**FASTER)
    run = Classifier.run

    def stranger(self: Classifier, *given: Any, **named: Any) -> Any:
        """In 8 bits all is beyond the limit."""
        outputs = run(self, *given, **named)
        strange = b"QuantizeLinear" in self.bundle.model_bytes and order.least_decisions_kept > 0
        return outputs._replace(novelty=outputs.novelty + 2e6) if strange else outputs

    monkeypatch.setattr(Classifier, "run", stranger)
    found = optimise(limited_bundle, dataset, tmp_path / "out", order)
    facts = found.bundle.manifest.optimisation
    assert facts.chosen == "float"
    assert re.search(reason, facts.reason)
    assert [one.passed for one in facts.candidates] == [True, True, False, False]


def test_a_form_whose_novelty_another_processor_rounds_otherwise_is_not_taken(
    limited_bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer.exporting import optimising

    taking(**FASTER)
    monkeypatch.setattr(optimising, "rounding_apart", lambda *_: Rounding(novelty=0.2))
    order = replace(LOOSE, most_novelty_apart=0.15)
    facts = optimise(limited_bundle, dataset, tmp_path / "out", order).bundle.manifest.optimisation
    assert facts.chosen == "float"
    assert "tidied failed: another processor may find another novelty, by 20.0 %" in facts.reason


# --- the new bundle ---------------------------------------------------------------------------------


def test_the_new_bundle_is_another_model_of_the_same_training(
    bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any
) -> None:
    taking(**FASTER)
    evaluate(bundle, dataset, "test")
    add_file(bundle, "faithfulness.json", b"{}")
    before, out = open_bundle(bundle), tmp_path / "out"
    after = optimise(bundle, dataset, out, replace(ANY, version="1.1")).bundle

    assert set(before.manifest.sha256) - set(after.manifest.sha256) == {
        "evaluation.json",
        "faithfulness.json",
    }
    for name in ("labels.csv", "training.json"):
        assert (out / name).read_bytes() == (bundle / name).read_bytes()
    assert after.manifest.version == "1.1"
    assert read(after.model_bytes)["scopewatch.version"] == "1.1"
    same = {"labels", "tensors", "preprocessing", "cam", "network", "dataset_fingerprint", "name", "licence"}
    assert after.manifest.model_dump(include=same) == before.manifest.model_dump(include=same)
    assert after.manifest.parity.probabilities > before.manifest.parity.probabilities
    assert after.manifest.golden.tolerance >= before.manifest.golden.tolerance
    assert Classifier(after).replay_golden().passed
    card = without_front_matter((out / "MODEL_CARD.md").read_text(encoding="utf-8"))
    assert card.startswith("# toy 1.1\n")
    assert "This bundle holds the form `int8`: int8 takes 5.0 ms" in card
    assert "| float | 10.0 | 1.000 | 1.000 | 1.000 |" in card
    assert evaluate(out, dataset, "test").figures.micrographs == 8


def test_where_the_float_graph_stays_so_do_its_answers(
    shared_bundle: Path, dataset: DataSet, tmp_path: Path, taking: Any
) -> None:
    taking(**dict.fromkeys(FASTER, 10.0))
    before, after = open_bundle(shared_bundle), optimise(shared_bundle, dataset, tmp_path / "out", ANY).bundle
    graphs = [onnx.load_model_from_string(one.model_bytes).graph for one in (before, after)]
    assert graphs[0] == graphs[1]
    assert after.manifest.version == "1-optimised"
    assert after.manifest.parity == before.manifest.parity
    assert after.manifest.golden == before.manifest.golden


FORMS: tuple[Form, ...] = ("winner", "winner, one size", "no map", "no map, one size")


@pytest.mark.parametrize("form", FORMS)
def test_graphs_of_every_kind_are_measured(form: Form, dataset: DataSet, tmp_path: Path, taking: Any) -> None:
    taking(**FASTER)
    folder = tiny_bundle(tmp_path / "tiny-1", labels=LABELS, form=form)
    found = optimise(folder, dataset, tmp_path / "out", replace(ANY, pictures=3))
    without = form.startswith("no map")
    for one in found.measured:
        assert (one.candidate.cam_agreement is None) == without
        assert (one.same_peak is None) == without
    assert found.bundle.manifest.optimisation.pictures == 3
    assert Classifier(found.bundle, without_map=without).replay_golden().passed


def test_times_are_measured_and_forms_take_turns(
    shared_bundle: Path, dataset: DataSet, tmp_path: Path
) -> None:
    told: list[str] = []
    found = optimise(
        shared_bundle, dataset, tmp_path / "out", replace(ANY, pictures=2),
        progress=lambda what, done, total: told.append(what) if done <= total else None,
    )  # fmt: skip
    assert all(one.candidate.milliseconds > 0 for one in found.measured)
    assert list(dict.fromkeys(told)) == [
        "calibration", "forms of the graph", "measured", "golden cases and manifest",
    ]  # fmt: skip
    asked = {name: Classifier(open_bundle(shared_bundle)) for name in "abc"}
    order = [name for name, _ in form_scores._timed(asked, INPUTS[0], 3, 1)]
    assert "".join(order) == "bcacababc"


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "labels", "error", "said"),
    [
        pytest.param(
            OptimiseOrder(version="new!"),
            LABELS,
            ValidationError,
            "version",
            id="a version that names no folder",
        ),
        pytest.param(
            OptimiseOrder(),
            ("disc", "rod"),
            OptimiseError,
            "does not know the classes stripes of",
            id="classes",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(
    order: OptimiseOrder,
    labels: tuple[str, ...],
    error: type[Exception],
    said: str,
    dataset: DataSet,
    tmp_path: Path,
) -> None:
    folder = tiny_bundle(tmp_path / "tiny-1", labels=labels)
    with pytest.raises(error, match=said):
        optimise(folder, dataset, tmp_path / "out", order)
    assert not (tmp_path / "out").exists()


def test_an_empty_part_is_refused(shared_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    rest = replace(dataset, crops=tuple(crop for crop in dataset.crops if crop.part == "train"))
    with pytest.raises(
        OptimiseError, match="no micrograph in the part validation; prepare with another split"
    ):
        optimise(shared_bundle, rest, tmp_path / "out", OptimiseOrder())


def test_micrographs_that_are_gone_are_told(shared_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    gone = replace(dataset, raw=tmp_path / "gone")
    with pytest.raises(
        OptimiseError, match="no training micrograph can be read to set the ranges of int8 by"
    ):
        optimise(shared_bundle, gone, tmp_path / "out", OptimiseOrder())
    raw = tmp_path / "raw"
    for crop in dataset.train:
        (raw / crop.source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.raw / crop.source, raw / crop.source)
    with pytest.raises(OptimiseError, match="none of the 8 micrographs can be read any more"):
        optimise(shared_bundle, replace(dataset, raw=raw), tmp_path / "out", OptimiseOrder())


def test_a_folder_that_is_there_is_not_touched(shared_bundle: Path, dataset: DataSet, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="out exists; choose another folder or remove it first"):
        optimise(shared_bundle, dataset, tmp_path / "out", OptimiseOrder())
    assert isinstance(open_bundle(shared_bundle), Bundle)
