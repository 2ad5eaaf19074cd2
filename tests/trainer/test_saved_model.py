"""SavedModels: the serving function comes out as TensorFlow has it, and nothing else of the folder runs."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from foreign_models import PX, pictures, small_network

from trainer.importing.foreign_file import ForeignModelError
from trainer.importing.plain_onnx import INPUT, GraphUnusable, answers, converted, loosened
from trainer.importing.saved_model import read_saved_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def network() -> Any:
    return small_network()


@pytest.fixture(scope="module")
def exported(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `model.export` of Keras 3 writes it."""
    folder = tmp_path_factory.mktemp("exported") / "net"
    network.export(folder, verbose=False)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(exported, tmp_path / "net")


def change(folder: Path, edit: Callable[[Any], None]) -> Path:
    """Change the graph in a SavedModel's message."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    message.ParseFromString((folder / "saved_model.pb").read_bytes())
    edit(message.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


def saved(folder: Path, answer: Callable[[Any], Any], **variables: Any) -> Path:
    """A module that serves any function of pictures."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in variables.items():
        setattr(module, name, value)
    spec = tf.TensorSpec((None, PX, PX, 3), tf.float32, name="photo")
    module.serve = tf.function(answer, input_signature=[spec])
    tf.saved_model.save(module, str(folder), {"serving_default": module.serve})
    return folder


def test_the_serving_function_answers_as_the_network_and_so_does_its_onnx_form(
    network: Any, exported: Path
) -> None:
    import onnxruntime

    serving = read_saved_model(exported)
    assert serving.shape == (None, PX, PX, 3)
    assert serving.classes == 3
    assert serving.written_with.startswith("TensorFlow 2.")
    graph = loosened(serving.graph)
    shown = pictures(PX)
    expected = np.asarray(network(shown, training=False))
    np.testing.assert_allclose(answers(graph, [shown])[0], expected, atol=1e-6)
    session = onnxruntime.InferenceSession(converted(graph).SerializeToString())
    np.testing.assert_allclose(session.run(None, {INPUT: shown})[0], expected, atol=1e-5)


def read_file(x: Any) -> Any:
    import tensorflow as tf

    return {
        "answer": tf.reduce_mean(x, (1, 2))
        + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)
    }


def write_file(x: Any) -> Any:
    import tensorflow as tf

    with tf.control_dependencies([tf.io.write_file("/tmp/evil", "x")]):
        return {"answer": tf.reduce_mean(x, (1, 2))}


def python(x: Any) -> Any:
    import tensorflow as tf

    return {"answer": tf.numpy_function(lambda y: y, [tf.reduce_mean(x, (1, 2))], tf.float32)}


def prints(x: Any) -> Any:
    import tensorflow as tf

    tf.print("hello", output_stream="file:///tmp/evil")
    return {"answer": tf.reduce_mean(x, (1, 2))}


def nested(x: Any) -> Any:
    import tensorflow as tf

    return tf.function(read_file)(x)


TRAPS = {
    read_file: "runs the operation ReadFile",
    write_file: "runs the operation WriteFile",
    python: "runs the operation (Eager)?PyFunc",
    prints: "runs the operation (PrintV2|StringFormat)",
    nested: "runs the operation ReadFile",
}


@pytest.mark.parametrize(("trap", "message"), TRAPS.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_an_operation_that_is_none_of_a_classifier_is_refused_by_name(
    tmp_path: Path, trap: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message + r" .* which is none of a classifier of pictures"):
        read_saved_model(saved(tmp_path / "net", trap))


def test_what_is_in_the_folder_and_does_not_serve_is_left_alone(folder: Path) -> None:
    def add_evil(graph: Any) -> None:
        evil = graph.graph_def.library.function.add()
        evil.signature.name = "evil"
        evil.node_def.add(name="read", op="ReadFile")
        graph.graph_def.node.add(name="evil", op="WriteFile")

    assert read_saved_model(change(folder, add_evil)).shape == (None, PX, PX, 3)


def two_answers(x: Any) -> Any:
    import tensorflow as tf

    mean = tf.reduce_mean(x, (1, 2))
    return {"answer": mean, "again": mean}


def test_several_outputs_are_counted_and_named(tmp_path: Path) -> None:
    with pytest.raises(
        ForeignModelError, match=r"has 2 outputs \(again, answer\); a classifier of one picture has one"
    ):
        read_saved_model(saved(tmp_path / "net", two_answers))


def drop_signature(graph: Any) -> None:
    del graph.signature_def["serving_default"]


def drop_objects(graph: Any) -> None:
    graph.ClearField("object_graph_def")


def drop_functions(graph: Any) -> None:
    del graph.graph_def.library.function[:]


def drop_children(graph: Any) -> None:
    del graph.object_graph_def.nodes[0].children[:]


def bytes_in(graph: Any) -> None:
    next(iter(graph.signature_def["serving_default"].inputs.values())).dtype = 7


def other_shape(graph: Any) -> None:
    for node in graph.object_graph_def.nodes:
        if node.HasField("variable") and len(node.variable.shape.dim) == 4:
            node.variable.shape.dim[0].size = 99


CHANGED = {
    drop_signature: r"has no function 'serving_default' .* save it with model.export\(FOLDER\)",
    drop_objects: "holds 1 graphs for serving as TensorFlow 2 writes them, not one",
    drop_functions: "its serving function is not where it says it is",
    drop_children: "its serving function is not where it says it is",
    bytes_in: "its input is no batch of pictures in 32-bit floating point",
    other_shape: r"the weight .* is \[3, 3, [38], [18]\], \[99, 3, [38], [18]\] expected",
}


@pytest.mark.parametrize(("edit", "message"), CHANGED.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_message_that_contradicts_itself_is_refused(
    folder: Path, edit: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(ForeignModelError, match=message):
        read_saved_model(change(folder, edit))


def test_a_message_or_weights_that_were_cut_are_refused(folder: Path) -> None:
    data = folder / "variables" / "variables.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ForeignModelError, match=r"cannot be read .* copy the folder again"):
        read_saved_model(folder)
    data.write_bytes(whole)
    message = folder / "saved_model.pb"
    message.write_bytes(message.read_bytes()[:-500])
    with pytest.raises(ForeignModelError, match=r"its saved_model.pb is damaged or cut off"):
        read_saved_model(folder)


def test_a_constant_that_is_captured_is_part_of_the_network(tmp_path: Path) -> None:
    import tensorflow as tf

    weights = tf.constant(np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32))
    serving = read_saved_model(
        saved(tmp_path / "net", lambda x: {"y": tf.nn.softmax(tf.reduce_mean(x, (1, 2)) @ weights)})
    )
    shown = pictures(PX)
    logits = shown.mean((1, 2)) @ weights.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(answers(loosened(serving.graph), [shown])[0], expected, atol=1e-6)


def test_an_answer_that_does_not_depend_on_the_picture_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    fixed = tf.Variable(tf.ones((1, 3)))
    serving = read_saved_model(saved(tmp_path / "net", lambda _: {"y": fixed * 2.0}, fixed=fixed))
    with pytest.raises(GraphUnusable, match="does not depend on the picture"):
        loosened(serving.graph)
