"""Whose map is shown, and what is computed for it: the winner's, a named class's, every class's, or none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from bundles import LABELS, Form, in_form, tiny_bundle, tiny_model
from onnx import TensorProto, helper, numpy_helper

from edge_agent import classifier as classifier_module
from edge_agent import cli
from edge_agent.classifier import Answer, Classifier, Prediction
from edge_agent.files import FileStamp, SourceFile
from edge_agent.micrograph import Instrument, Micrograph
from edge_agent.model_bundle import Bundle, BundleRefused, open_bundle
from edge_agent.preprocessing import Preprocessing, TilePlan, compose_cam, cut_tiles
from edge_agent.processes import process_limits
from edge_agent.simulation import draw_field

if TYPE_CHECKING:
    from pathlib import Path

FIELD = draw_field("faceted", np.random.default_rng(4), 256).pixels[:200]
PLANS: dict[str, dict[str, Any]] = {
    "whole": {},
    "two views": {"views": ("identity", "rot180")},
    "quadrants": {"tiles": TilePlan(divisions=2)},
    "a fixed field of view": {"tiles": TilePlan(field_of_view_nm=60)},
}


def micrograph(tmp_path: Path, pixels: np.ndarray = FIELD) -> Micrograph:
    source = SourceFile(tmp_path / "a.dm3", FileStamp(1, 2, 3, 4), "ab" * 32, "1-2-3")
    nothing = Instrument(None, None, None, None, None, None)
    return Micrograph(source, pixels, (0.5, 0.5), 0, None, ("image",), None, None, nothing)


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[Form, Path]:
    """The same network with its maps given in each way."""
    folder = tmp_path_factory.mktemp("forms")
    kinds: tuple[Form, ...] = ("every class", "winner", "winner, one size", "no map", "no map, one size")
    return {
        form: tiny_bundle(folder / str(index) / "tiny-1", form=form, seed=5)
        for index, form in enumerate(kinds)
    }


def with_rule(folder: Path, **options: Any) -> Bundle:
    bundle = open_bundle(folder)
    rule = bundle.manifest.preprocessing.model_copy(update=options)
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"preprocessing": rule}))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("map_of", [None, *LABELS])
def test_maps_of_the_winner_apart_are_those_of_every_class(
    forms: dict[Form, Path], plan: dict[str, Any], map_of: str | None, tmp_path: Path
) -> None:
    expected, seen = (
        Classifier(with_rule(forms[form], **plan)).classify(micrograph(tmp_path), map_of=map_of)
        for form in ("every class", "winner")
    )

    assert seen.probabilities == expected.probabilities
    assert seen.cam.label == expected.cam.label == (map_of or expected.label)
    assert seen.cam.box_px == expected.cam.box_px
    np.testing.assert_allclose(seen.cam.values, expected.cam.values, atol=1e-5)


def test_each_tiles_map_is_of_the_class_that_the_micrograph_got(forms: dict[Form, Path], tmp_path: Path):
    # Half the field is dark: its tiles alone are given another class than the whole.
    pixels = np.where(np.arange(256) < 128, FIELD.min(), FIELD).astype(np.float32)
    network = Classifier(with_rule(forms["winner"], tiles=TilePlan(divisions=2)))
    tiles = cut_tiles(pixels, (0.5, 0.5), network.bundle.manifest.preprocessing)
    own = [int(network.infer(tile.values[None])[0].argmax()) for tile in tiles.tiles]

    seen = network.classify(micrograph(tmp_path, pixels))

    winner = LABELS.index(seen.label)
    assert set(own) > {winner}
    maps = [network.infer(tile.values[None], every_class=True)[1][0, winner] for tile in tiles.tiles]
    assert np.array_equal(seen.cam.values, compose_cam(tiles.tiles, maps, (200, 256))[1])


@pytest.mark.parametrize("form", ["every class", "winner"])
def test_every_classs_map_comes_of_one_pass(
    forms: dict[Form, Path], form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    network, passes = Classifier(open_bundle(forms[form])), []
    run = network.run
    monkeypatch.setattr(network, "run", lambda *given: (passes.append(given), run(*given))[1])

    found = network.classify_every_class(micrograph(tmp_path))

    assert len(passes) == 1
    assert [one.cam.label for one in found] == list(LABELS)
    assert len({one.label for one in found}) == 1
    for one in found:
        alone = network.classify(micrograph(tmp_path), map_of=one.cam.label)
        assert np.array_equal(one.cam.values, alone.cam.values)


def test_a_class_that_is_not_known_is_told(forms: dict[Form, Path], tmp_path: Path):
    network = Classifier(open_bundle(forms["winner"]))

    with pytest.raises(ValueError, match=r"tiny-1: knows no class 'cube'; it has faceted, rod, round$"):
        network.classify(micrograph(tmp_path), map_of="cube")


def with_an_unfit_map(folder: Path) -> Bundle:
    """A bundle whose maps of every class cannot be computed: a shape that no map has."""
    bundle = open_bundle(folder)
    model = onnx.load_from_string(bundle.model_bytes)
    (last,) = (node for node in model.graph.node if "cam_every_class" in node.output)
    last.op_type = "Reshape"
    last.input.append("unfit")
    model.graph.initializer.append(numpy_helper.from_array(np.array([7, 7, 7, 7]), "unfit"))
    return replace(bundle, model_bytes=model.SerializeToString())


def test_what_is_not_asked_for_is_not_computed(forms: dict[Form, Path], tmp_path: Path):
    bundle = with_an_unfit_map(forms["winner"])

    network = Classifier(bundle)

    assert network.classify(micrograph(tmp_path)).cam.values.shape == (8, 9)
    with pytest.raises(Exception, match=r"[Rr]eshape"):
        network.infer(np.zeros((1, 1, 64, 64), np.float32), every_class=True)


def test_the_map_that_a_tile_plan_needs_is_tried_at_once(forms: dict[Form, Path]):
    unfit = with_an_unfit_map(forms["winner"])
    rule = Preprocessing(input_px=64, tiles=TilePlan(divisions=2))
    manifest = unfit.manifest.model_copy(update={"preprocessing": rule})

    with pytest.raises(BundleRefused, match="ONNX Runtime cannot use the model"):
        Classifier(replace(unfit, manifest=manifest))


def test_one_session_does_for_the_agent(
    forms: dict[Form, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened = []
    session = classifier_module.onnxruntime.InferenceSession
    monkeypatch.setattr(
        classifier_module.onnxruntime,
        "InferenceSession",
        lambda *given, **more: (opened.append(1), session(*given, **more))[1],
    )
    for plan in PLANS.values():
        network = Classifier(with_rule(forms["winner"], **plan))
        for _ in range(2):
            network.classify(micrograph(tmp_path))
            network.classify(micrograph(tmp_path, FIELD[:60, :60]))

    assert len(opened) == len(PLANS)


def test_a_network_of_one_size_is_given_one_input_at_a_time(forms: dict[Form, Path], tmp_path: Path):
    network, free = (Classifier(open_bundle(forms[form])) for form in ("winner, one size", "winner"))
    inputs = np.random.default_rng(0).uniform(-1, 1, (3, 1, 64, 64)).astype(np.float32)

    for every_class in (False, True):
        for seen, expected in zip(
            network.infer(inputs, every_class), free.infer(inputs, every_class), strict=True
        ):
            np.testing.assert_allclose(seen, expected, atol=1e-5)
    seen = network.classify(micrograph(tmp_path))
    assert (seen.cam.box_px, seen.cam.values.shape) == ((0, 0, 256, 200), (8, 8))


# --- graphs without a map ---


def test_an_answer_needs_no_map(forms: dict[Form, Path], tmp_path: Path):
    field = micrograph(tmp_path)
    expected = Classifier(open_bundle(forms["every class"])).classify(field)

    for form, path in forms.items():
        if "one size" not in form:
            seen = Classifier(open_bundle(path), without_map=True).answer(field)
            assert isinstance(seen, Answer)
            assert not isinstance(seen, Prediction)
            assert seen.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
            assert (seen.label, seen.field) == (expected.label, expected.field)
            assert [tile.box_px for tile in seen.tiles] == [(0, 0, 256, 200)]
            assert seen.infer_ms > 0


@pytest.mark.parametrize("form", ["no map", "every class", "winner"])
def test_without_a_map_none_is_given(forms: dict[Form, Path], form: Form, tmp_path: Path):
    network = Classifier(open_bundle(forms[form]), without_map=True)
    inputs = np.zeros((2, 1, 64, 64), np.float32)

    for every_class in (False, True):
        probabilities, cam = network.infer(inputs, every_class)
        assert (probabilities.shape, cam) == ((2, 3), None)
    assert network.replay_golden().passed
    with pytest.raises(BundleRefused, match="opened without a map"):
        network.classify(micrograph(tmp_path))


WITHOUT = (
    "has no class activation map in its graph (method occlusion): the agent needs one; "
    "look at it with edge-trainer explain"
)


def test_the_agent_refuses_a_graph_without_a_map(forms: dict[Form, Path]):
    with pytest.raises(BundleRefused) as refused:
        Classifier(open_bundle(forms["no map"]))

    assert str(refused.value) == f"{forms['no map']}: {WITHOUT}"


@pytest.mark.parametrize(("command", "code"), [("check", 1), ("classify", 2), ("watch", 2)])
def test_the_commands_refuse_it_in_one_line(
    forms: dict[Form, Path],
    command: str,
    code: int,
    tmp_path: Path,
    micrograph_bytes: bytes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "a.dm3").write_bytes(micrograph_bytes)
    where = [] if command == "check" else [str(tmp_path)]
    monkeypatch.setattr(process_limits, "lower_priority", lambda: None)  # this process runs more tests
    monkeypatch.setattr("sys.argv", ["edge-agent", command, *where, "--model", str(forms["no map"])])

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == code
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"edge-agent: {forms['no map']}: {WITHOUT}"
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("channels", "message"),
    [(2, "a cam (1, 2, 8, 8)"), (3, "a cam (1, 3, 8, 8)")],
    ids=["neither one nor all", "all, though one is stated"],
)
def test_maps_that_are_not_as_stated_are_refused(tmp_path: Path, channels: int, message: str):
    folder = tiny_bundle(tmp_path / "tiny-1", form="winner")
    bundle = open_bundle(folder)
    model = onnx.load_from_string(in_form(tiny_model(), "winner"))
    (last,) = (node for node in model.graph.node if "cam" in node.output)
    last.output[0] = "one"
    model.graph.node.append(helper.make_node("Concat", ["one"] * channels, ["cam"], axis=1))
    (put,) = (put for put in model.graph.output if put.name == "cam")
    put.CopyFrom(helper.make_tensor_value_info("cam", TensorProto.FLOAT, None))
    wrong = replace(bundle, model_bytes=model.SerializeToString())

    with pytest.raises(BundleRefused) as refused:
        Classifier(wrong)

    assert message in str(refused.value)
