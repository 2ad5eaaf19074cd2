"""Maps written into any CNN's graph: against automatic differentiation, head by head, and refused where none is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_agent.model_bundle import open_bundle
from edge_agent.onnx_gate import gate_model
from trainer.exporting.bundle_writer import onnx_session
from trainer.exporting.cam_graph import GraphError, NoClosedForm, append_maps, by_method
from trainer.exporting.map_proof import PROOF_TOLERANCE, map_gap
from trainer.importing.foreign_graph import agent_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIDE = 32
RELATIVE = 1e-4


def keras_heads() -> dict[str, Callable[[Any], Any]]:
    """Heads by name: feature map -> logits, as people build them."""
    from keras import layers

    def dense(units: int, activation: str | None = None) -> Any:
        return layers.Dense(units, activation=activation, bias_initializer="random_normal")

    def stack(*parts: Any) -> Callable[[Any], Any]:
        def head(x: Any) -> Any:
            for part in parts:
                x = part(x)
            return x

        return head

    def both_pools(x: Any) -> Any:
        pooled = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])
        return dense(3)(layers.BatchNormalization()(dense(16, "elu")(pooled)))

    return {
        "average, linear": stack(layers.GlobalAveragePooling2D(), dense(3)),
        "average, 1x1 convolution": stack(
            layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(3, 1), layers.Reshape((3,))
        ),
        "average, dense": stack(
            layers.GlobalAveragePooling2D(), dense(20, "relu"), layers.Dropout(0.5), dense(3)
        ),
        "average, 1x1 convolution, dense": stack(
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Conv2D(20, 1, activation="hard_silu"),
            layers.Flatten(),
            dense(3),
        ),
        "flat, linear": stack(layers.Flatten(), dense(3)),
        "flat, two dense (the origin's)": stack(
            layers.Flatten(), dense(32, "relu"), layers.Dropout(0.3), dense(16, "relu"), dense(8)
        ),
        "largest of windows, flat": stack(layers.MaxPool2D(), layers.Flatten(), dense(16, "tanh"), dense(3)),
        "mean of windows, flat": stack(
            layers.AveragePooling2D(2), layers.Flatten(), dense(16, "swish"), dense(3)
        ),
        "leaky, six-limited": stack(
            layers.Flatten(), dense(16, "relu6"), layers.LeakyReLU(), dense(16, "selu"), dense(3)
        ),
        "average and largest": both_pools,
        "average, layer normalisation": stack(
            layers.GlobalAveragePooling2D(), layers.LayerNormalization(), dense(16, "relu"), dense(3)
        ),
        "softplus, sigmoid": stack(layers.Flatten(), dense(16, "softplus"), dense(9, "sigmoid"), dense(3)),
    }


HEADS = (
    "average, linear",
    "average, 1x1 convolution",
    "average, dense",
    "average, 1x1 convolution, dense",
    "flat, linear",
    "flat, two dense (the origin's)",
    "largest of windows, flat",
    "mean of windows, flat",
    "leaky, six-limited",
    "average and largest",
    "average, layer normalisation",
    "softplus, sigmoid",
)


def keras_network(head: str) -> tuple[Any, Any]:
    """Backbone and head as two models, with parameters that no layer has to begin with."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(1)
    picture = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(picture)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu")(x)
    backbone = keras.Model(picture, x)
    features = keras.Input(x.shape[1:])
    network = backbone, keras.Model(features, keras_heads()[head](features))
    random = np.random.default_rng(0)
    for model in network:
        for weight in model.weights:
            if weight.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
                weight.assign(random.uniform(0.2, 0.8, weight.shape))
    return network


def as_onnx(backbone: Any, head: Any, ending: str = "softmax") -> Any:
    """The network as anybody's converter writes it: channels last, three of them."""
    import keras
    import tensorflow as tf
    import tf2onnx

    last = keras.activations.get(ending)
    function = tf.function(lambda picture: last(head(backbone(picture, training=False), training=False)))
    spec = (tf.TensorSpec((None, SIDE, SIDE, 3), tf.float32, name="x"),)
    return tf2onnx.convert.from_function(function, input_signature=spec, opset=17)[0]


def taped_maps(backbone: Any, head: Any, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Grad-CAM and HiResCAM of every class by automatic differentiation, times the number of cells."""
    import tensorflow as tf

    features = backbone(np.repeat(pictures[..., None], 3, axis=-1), training=False)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        logits = tf.unstack(tf.reduce_sum(head(features, training=False), axis=0))
    cells = features.shape[1] * features.shape[2]
    found: dict[str, list[np.ndarray]] = {"gradcam": [], "hirescam": []}
    for logit in logits:
        slope = tape.gradient(logit, features)
        mean = tf.reduce_mean(slope, axis=(1, 2), keepdims=True)
        found["gradcam"].append(tf.reduce_sum(mean * features, axis=-1).numpy() * cells)
        found["hirescam"].append(tf.reduce_sum(slope * features, axis=-1).numpy() * cells)
    return {method: np.stack(maps, axis=1) for method, maps in found.items()}


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(7).random((count, SIDE, SIDE)).astype(np.float32)


def answers(mapped: Any, shown: np.ndarray) -> dict[str, np.ndarray]:
    session = onnx_session(mapped.model.SerializeToString())
    names = [put.name for put in session.get_outputs()]
    return dict(zip(names, session.run(names, {"micrograph": shown[:, None]}), strict=True))


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_the_maps_of_automatic_differentiation(name: str) -> None:
    backbone, head = keras_network(name)
    labels = [f"class {index}" for index in range(head.output_shape[-1])]
    plain = agent_graph(as_onnx(backbone, head), labels, input_px=None).model.SerializeToString()
    shown = pictures()
    expected = taped_maps(backbone, head, shown)
    logits = head(backbone(np.repeat(shown[..., None], 3, axis=-1), training=False), training=False).numpy()
    for method, maps in expected.items():
        mapped = append_maps(onnx.load_model_from_string(plain), method, input_px=SIDE)  # type: ignore[arg-type]
        assert mapped.shape == (1, 12, 8, 8), "the last feature map, before any pooling"
        seen = answers(mapped, shown)
        every = seen["cam_every_class"] if mapped.winner_only else seen["cam"]
        assert np.abs(every - maps).max() <= RELATIVE * np.abs(maps).max()
        assert (seen["probabilities"].argmax(axis=1) == logits.argmax(axis=1)).all()
        if mapped.winner_only:
            winning = maps[np.arange(len(shown)), logits.argmax(axis=1)]
            assert seen["cam"].shape[1] == 1
            assert np.abs(seen["cam"][:, 0] - winning).max() <= RELATIVE * np.abs(maps).max()
        assert map_gap(mapped, [one[None, None] for one in shown]) <= PROOF_TOLERANCE
        outputs = ("probabilities", "cam", *(["cam_every_class"] if mapped.winner_only else []))
        gate_model(mapped.model.SerializeToString(), (("micrograph",), outputs))


@pytest.mark.parametrize(
    ("name", "method", "winner_only", "fixed"),
    [
        ("average, linear", "cam", False, False),
        ("average, 1x1 convolution", "cam", False, False),
        ("average, dense", "gradcam", False, False),
        ("flat, linear", "hirescam", False, True),
        ("flat, two dense (the origin's)", "hirescam", False, True),
        ("average and largest", "hirescam", True, True),
    ],
)
def test_left_to_itself_it_takes_the_exact_map_where_there_is_one(
    name: str, method: str, winner_only: bool, fixed: bool
) -> None:
    backbone, head = keras_network(name)
    plain = agent_graph(
        as_onnx(backbone, head), [str(index) for index in range(head.output_shape[-1])], input_px=None
    )
    mapped = append_maps(plain.model, input_px=SIDE)
    assert (mapped.method, mapped.winner_only, mapped.fixed_size) == (method, winner_only, fixed)


@pytest.mark.parametrize("name", ["average, linear", "average, 1x1 convolution"])
def test_the_mean_of_the_exact_map_is_the_logit_and_the_layer_stands_there_once(name: str) -> None:
    backbone, head = keras_network(name)
    shown = pictures()
    logits = head(backbone(np.repeat(shown[..., None], 3, axis=-1), training=False), training=False).numpy()
    graph = agent_graph(as_onnx(backbone, head), ["a", "b", "c"], input_px=None)
    mapped = append_maps(graph.model, input_px=SIDE)
    seen = answers(mapped, shown)
    np.testing.assert_allclose(seen["cam"].mean(axis=(2, 3)), logits, atol=1e-5)
    sizes = [int(np.prod(one.dims)) for one in mapped.model.graph.initializer]
    assert sizes.count(12 * 3) == 1


def test_no_weight_stands_in_the_graph_twice() -> None:
    backbone, head = keras_network("flat, two dense (the origin's)")
    graph = agent_graph(as_onnx(backbone, head), [str(index) for index in range(8)], input_px=None)
    before = len(graph.model.SerializeToString())
    mapped = append_maps(graph.model, input_px=SIDE)
    large = [one.raw_data for one in mapped.model.graph.initializer if len(one.raw_data) > 400]
    assert len(set(large)) == len(large)
    assert len(mapped.model.SerializeToString()) - before < 20_000, "nodes and a few numbers"


def test_a_sure_answer_has_a_map_from_the_logit_and_none_from_the_probability() -> None:
    import tensorflow as tf

    backbone, head = keras_network("flat, two dense (the origin's)")
    last = head.layers[-1]
    last.set_weights([weight * 400 for weight in last.get_weights()])
    plain = agent_graph(as_onnx(backbone, head), [str(index) for index in range(8)], input_px=None)
    shown, raw = pictures(1), plain.model.SerializeToString()
    by_logit = answers(append_maps(onnx.load_model_from_string(raw), "gradcam", input_px=SIDE), shown)
    assert by_logit["probabilities"].max() > 0.999999
    assert np.ptp(by_logit["cam"]) > 1
    model = append_maps(onnx.load_model_from_string(raw), "gradcam", input_px=SIDE, start="probability")
    by_probability = answers(model, shown)
    assert np.abs(by_probability["cam"]).max() < 1e-3 * np.abs(by_logit["cam"]).max()
    with tf.GradientTape() as tape:  # the origin's function
        features = backbone(np.repeat(shown[..., None], 3, axis=-1), training=False)
        tape.watch(features)
        likely = tf.reduce_max(tf.nn.softmax(head(features, training=False)))
    slope = tape.gradient(likely, features)
    origin = tf.reduce_sum(tf.reduce_mean(slope, axis=(1, 2), keepdims=True) * features, axis=-1).numpy() * 64
    winner = by_probability["probabilities"].argmax()
    assert np.abs(by_probability["cam"][0, winner] - origin[0]).max() <= RELATIVE * max(
        1e-6, np.abs(origin).max()
    )


def onnx_network(
    *nodes: Any, constants: dict[str, np.ndarray] | None = None, convolution: bool = True
) -> Any:
    """A graph of our own: `feat` [n, 4, 8, 8] from a convolution, then the given nodes to `logits`."""
    kernel = np.random.default_rng(0).normal(0, 1, (4, 1, 4, 4)).astype(np.float32)
    first = [helper.make_node("Conv", ["micrograph", "kernel"], ["feat"], strides=[4, 4])]
    weights = {"kernel": kernel} if convolution else {}
    last = helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)
    graph = helper.make_graph(
        [*(first if convolution else []), *nodes, last],
        "own",
        [helper.make_tensor_value_info("micrograph", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(values, name) for name, values in {**weights, **(constants or {})}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)


REFUSED = {
    "attention over the places": (
        (
            helper.make_node("Reshape", ["feat", "places"], ["rows"]),
            helper.make_node("Softmax", ["rows"], ["soft"], "attention", axis=2),
            helper.make_node("ReduceMean", ["soft"], ["mean"], axes=[2], keepdims=0),
            helper.make_node("MatMul", ["mean", "w"], ["logits"]),
        ),
        {"places": np.array([-1, 4, 64]), "w": weight(4, 3)},
        r"the node 'attention' \(Softmax\) has no closed form here",
    ),
    "two feature maps": (
        (
            helper.make_node("Relu", ["feat"], ["other"]),
            helper.make_node("GlobalAveragePool", ["feat"], ["one"]),
            helper.make_node("GlobalAveragePool", ["other"], ["two"]),
            helper.make_node("Concat", ["one", "two"], ["both"], axis=1),
            helper.make_node("Flatten", ["both"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ),
        {"w": weight(8, 3)},
        r"the answer reads 2 feature maps \(.*\), not one",
    ),
    "activations multiplied with each other": (
        (
            helper.make_node("Flatten", ["feat"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["three"]),
            helper.make_node("Transpose", ["three"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["three", "turned"], ["one"]),
            helper.make_node("MatMul", ["one", "v"], ["logits"]),
        ),
        {"w": weight(256, 3), "v": weight(1, 3)},
        "multiplies activations with each other, not with weights",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_closed_form_is_refused_with_the_node(case: str) -> None:
    nodes, constants, reason = REFUSED[case]
    with pytest.raises(NoClosedForm, match=reason):
        append_maps(onnx_network(*nodes, constants=constants), input_px=SIDE)


def test_a_network_without_convolution_is_refused() -> None:
    nodes = (
        helper.make_node("Flatten", ["micrograph"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"]),
    )
    model = onnx_network(*nodes, constants={"w": weight(SIDE * SIDE, 3)}, convolution=False)
    with pytest.raises(GraphError, match="no convolution before the answer: a map would not show places"):
        append_maps(model, input_px=SIDE)


def test_an_exact_map_is_refused_where_the_head_has_more() -> None:
    nodes = (
        helper.make_node("Flatten", ["feat"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"]),
    )
    with pytest.raises(
        NoClosedForm, match=r"needs average pooling and a linear layer .* use gradcam or hirescam"
    ):
        append_maps(onnx_network(*nodes, constants={"w": weight(256, 3)}), "cam", input_px=SIDE)


def test_an_earlier_tensor_can_be_named() -> None:
    nodes = (
        helper.make_node("Relu", ["feat"], ["bright"]),
        helper.make_node("GlobalAveragePool", ["bright"], ["one"]),
        helper.make_node("Flatten", ["one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    )
    model = onnx_network(*nodes, constants={"w": weight(4, 3)})
    mapped = append_maps(model, "hirescam", input_px=SIDE, tensor="feat")
    assert mapped.tensor == "feat"
    assert map_gap(mapped, [one[None, None] for one in pictures()]) <= PROOF_TOLERANCE


def test_a_tensor_before_a_convolution_of_one_cell_has_its_map() -> None:
    nodes = (
        helper.make_node("Conv", ["feat", "k"], ["wide"], kernel_shape=[1, 1]),
        helper.make_node("Clip", ["wide", "low", "high"], ["held"]),
        helper.make_node("GlobalAveragePool", ["held"], ["one"]),
        helper.make_node("Flatten", ["one"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    )
    constants = {"k": weight(7, 4, 1, 1), "low": np.float32(0), "high": np.float32(6), "w": weight(7, 3)}
    mapped = append_maps(onnx_network(*nodes, constants=constants), "hirescam", input_px=SIDE, tensor="feat")
    assert answers(mapped, pictures())["cam_every_class"].shape == (3, 3, 8, 8)
    assert map_gap(mapped, [one[None, None] for one in pictures()]) <= PROOF_TOLERANCE


def test_a_wrong_map_cannot_pass_the_proof() -> None:
    nodes = (
        helper.make_node("Flatten", ["feat"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["bright"]),
        helper.make_node("Gemm", ["bright", "v"], ["logits"]),
    )
    model = onnx_network(*nodes, constants={"w": weight(256, 256), "v": weight(256, 3)})
    mapped = append_maps(model, "hirescam", input_px=SIDE)
    shown = [one[None, None] for one in pictures()]
    assert map_gap(mapped, shown) <= PROOF_TOLERANCE
    for node in mapped.model.graph.node:
        if node.op_type == "Greater" and node.output[0].startswith("cam"):
            node.op_type = "Less"  # the rectifier's mask, the wrong way round
    assert map_gap(mapped, shown) > 5 * PROOF_TOLERANCE


def test_a_bundle_by_another_method_shows_the_same_up_to_its_bias(shared_bundle: Path) -> None:
    bundle = open_bundle(shared_bundle)
    shown = np.random.default_rng(0).random((1, 1, 64, 64)).astype(np.float32) * 2 - 1
    own = onnx_session(bundle.model_bytes).run(["cam"], {"micrograph": shown})[0]
    for method in ("gradcam", "hirescam"):
        other = by_method(bundle, method)  # type: ignore[arg-type]
        assert other.manifest.cam.method == method
        seen = onnx_session(other.model_bytes).run(["cam"], {"micrograph": shown})[0]
        apart = own - seen
        np.testing.assert_allclose(apart, apart.mean(axis=(2, 3), keepdims=True) + 0 * apart, atol=1e-4)
    again = by_method(by_method(bundle, "gradcam"), "cam")
    np.testing.assert_allclose(
        onnx_session(again.model_bytes).run(["cam"], {"micrograph": shown})[0], own, atol=1e-4
    )


OPERATORS = {
    "layer normalisation": (
        (
            helper.make_node("LayerNormalization", ["flat", "scale", "shift"], ["normal"], axis=-1),
            helper.make_node("MatMul", ["normal", "w"], ["logits"]),
        ),
        {"scale": weight(4), "shift": weight(4), "w": weight(4, 3)},
    ),
    "gelu written out": (
        (
            helper.make_node("Div", ["flat", "root"], ["part"]),
            helper.make_node("Erf", ["part"], ["erf"]),
            helper.make_node("Add", ["erf", "one"], ["more"]),
            helper.make_node("Mul", ["flat", "more"], ["gelu"]),
            helper.make_node("MatMul", ["gelu", "w"], ["logits"]),
        ),
        {"root": np.float32(2**0.5), "one": np.float32(1), "w": weight(4, 3)},
    ),
    "a value added to itself and squared": (
        (
            helper.make_node("Add", ["flat", "flat"], ["twice"]),
            helper.make_node("Mul", ["twice", "twice"], ["square"]),
            helper.make_node("MatMul", ["square", "w"], ["logits"]),
        ),
        {"w": weight(4, 3)},
    ),
    "divided by its own length": (
        (
            helper.make_node("Mul", ["flat", "flat"], ["square"]),
            helper.make_node("ReduceSum", ["square", "last"], ["sum"], keepdims=1),
            helper.make_node("Sqrt", ["sum"], ["length"]),
            helper.make_node("Div", ["flat", "length"], ["unit"]),
            helper.make_node("MatMul", ["unit", "w"], ["logits"]),
        ),
        {"last": np.array([1]), "w": weight(4, 3)},
    ),
    "a rectifier with a slope of its own": (
        (
            helper.make_node("PRelu", ["flat", "slope"], ["bent"]),
            helper.make_node("Sub", ["one", "bent"], ["other"]),
            helper.make_node("Clip", ["other", "low", "high"], ["held"]),
            helper.make_node("MatMul", ["held", "w"], ["logits"]),
        ),
        {
            "slope": weight(4),
            "one": np.float32(1),
            "low": np.float32(-5),
            "high": np.float32(5),
            "w": weight(4, 3),
        },
    ),
}


@pytest.mark.parametrize("case", OPERATORS)
@pytest.mark.parametrize("opset", [13, 17, 18, 21])
def test_operators_that_keras_does_not_write_have_the_measured_derivative(case: str, opset: int) -> None:
    nodes, constants = OPERATORS[case]
    if opset < 17 and case == "layer normalisation":
        pytest.skip("the operator is younger")
    pooled = (
        helper.make_node("GlobalAveragePool", ["feat"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
    )
    model = onnx_network(*pooled, *nodes, constants=constants)
    model.opset_import[0].version = opset
    mapped = append_maps(model, "gradcam", input_px=SIDE)
    assert map_gap(mapped, [one[None, None] for one in pictures()]) <= PROOF_TOLERANCE


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_a_dense_layer_as_pytorch_writes_it_is_laid_out_by_places(method: str) -> None:
    """Channels first, the weight [out, in], factors and a bias of its own."""
    nodes = (
        helper.make_node("Flatten", ["feat"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "c"], ["hidden"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Relu", ["hidden"], ["bright"]),
        helper.make_node("Gemm", ["bright", "v"], ["logits"]),
    )
    constants = {"w": weight(16, 256), "c": weight(16), "v": weight(16, 3)}
    shown = pictures()
    plain = onnx_session(onnx_network(*nodes, constants=constants).SerializeToString())
    expected = plain.run(None, {"micrograph": shown[:, None]})[0]
    mapped = append_maps(onnx_network(*nodes, constants=constants), method, input_px=SIDE)  # type: ignore[arg-type]
    seen = answers(mapped, shown)
    np.testing.assert_allclose(seen["probabilities"], expected, atol=1e-5)
    assert seen["cam"].shape == (3, 3, 8, 8), "every class, for next to nothing"
    assert map_gap(mapped, [one[None, None] for one in shown]) <= PROOF_TOLERANCE
    assert ("sum_of_places" in str(mapped.model.graph)) == (method == "hirescam")


def test_a_sum_over_places_has_no_exact_map() -> None:
    """Its logit grows with the picture's size; the mean of a map would not."""
    nodes = (
        helper.make_node("ReduceSum", ["feat", "places"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "w"], ["logits"]),
    )
    mapped = append_maps(
        onnx_network(*nodes, constants={"places": np.array([2, 3]), "w": weight(4, 3)}), input_px=SIDE
    )
    assert mapped.method == "gradcam"
    assert map_gap(mapped, [one[None, None] for one in pictures()]) <= PROOF_TOLERANCE
