"""What a heatmap costs: the origin's GradientTape function beside the same network imported, on one thread.

    python tests/benchmarks/gradcam_cost.py [--runs N] [--small]

Builds the origin's architecture (InceptionV3 to mixed7, Flatten, two dense layers of 1024, 8 classes, 150 px;
random weights, which cost the same), saves it, imports it with `edge-trainer import-checkpoint` as a user would
(time and peak memory of all its processes), and then takes turns: the origin's function, tf-keras-vis where it is
installed, the bare ONNX network, the ONNX network with its map. A second network with average pooling and one
hidden layer shows what Grad-CAM adds where the head is small. `--small` takes small networks, to try the script.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.classifier import Classifier

LABELS = "Al2O3,CeO2,MgO,nanoparticles,POF,SiO2 nano-balls,amorphous SiO2,TiO2"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, build in (("origin", flattened), ("average pooling, one hidden layer", pooled)):
            model, layer = build(small=given.small)
            print(f"\n{name}: {model.count_params() / 1e6:.1f} million parameters")
            compare(model, layer, Path(folder) / name.split()[0].strip(","), given.runs)


def flattened(*, small: bool) -> tuple[Any, str]:
    """The origin's network."""
    from keras import Model, applications, layers

    if small:
        base = applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3), alpha=0.35)
        last = base.layers[-1].name
    else:
        base = applications.InceptionV3(weights=None, include_top=False, input_shape=(150, 150, 3))
        last = "mixed7"
    x = layers.Flatten()(base.get_layer(last).output)
    for _ in range(2):
        x = layers.Dropout(0.2)(layers.Dense(1024, activation="relu")(x))
    return Model(base.input, layers.Dense(8, activation="softmax")(x)), last


def pooled(*, small: bool) -> tuple[Any, str]:
    """InceptionV3 to mixed7 with a head that costs little."""
    from keras import Model, layers

    whole, last = flattened(small=small)
    x = layers.GlobalAveragePooling2D()(whole.get_layer(last).output)
    x = layers.Dense(128, activation="relu")(x)
    return Model(whole.input, layers.Dense(8, activation="softmax")(x)), last


def compare(model: Any, layer: str, place: Path, runs: int) -> None:
    place.mkdir()
    model.save(place / "model.keras")
    for method in ("gradcam", "auto"):
        seconds, gibibytes = imported(place / "model.keras", place / method, method)
        print(f"import-checkpoint --method {method}: {seconds:.1f} s, peak memory {gibibytes:.2f} GiB")
    classifier, by_itself = opened(place / "gradcam"), opened(place / "auto")
    side = classifier.bundle.manifest.preprocessing.input_px
    picture = np.random.default_rng(0).random((side, side)).astype(np.float32)
    coloured = np.repeat(picture[None, :, :, None], 3, axis=-1)
    chains: dict[str, Callable[[], Any]] = {
        "GradientTape, the origin's function": lambda: origin_heatmap(model, layer, coloured),
        "tf-keras-vis Gradcam": keras_vis(model, layer, coloured),
        "ONNX Runtime, network alone": bare(classifier, picture),
        "ONNX Runtime, network and Grad-CAM": lambda: classifier.infer(picture[None, None]),
        f"ONNX Runtime, network and {by_itself.bundle.manifest.cam.method} (auto)": lambda: by_itself.infer(
            picture[None, None]
        ),
    }
    times = in_turns(chains, runs)
    best = times["ONNX Runtime, network and Grad-CAM"]
    for name, milliseconds in times.items():
        print(f"{name:46} {milliseconds:8.1f} ms  {milliseconds / best:6.2f} x")
    probabilities, maps = classifier.infer(picture[None, None])
    seen = maps[0, probabilities[0].argmax() if maps.shape[1] > 1 else 0]
    expected = origin_map(model, layer, coloured)
    agreement = np.corrcoef(seen.ravel(), expected.ravel())[0, 1]
    print(f"correlation of both maps (the origin's starts at the probability): {agreement:.6f}")


def imported(file: Path, bundle: Path, method: str) -> tuple[float, float]:
    """Seconds and peak memory in GiB of all processes of one import."""
    command = [
        str(Path(sys.executable).with_name("edge-trainer")), "import-checkpoint", str(file), str(bundle),
        "--labels", LABELS, "--method", method,
    ]  # fmt: skip
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family))
            except psutil.Error:
                pass
            time.sleep(0.05)
        said = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise SystemExit(said)
    return time.perf_counter() - started, peak / 2**30


def opened(bundle: Path) -> Classifier:
    from edge_agent.classifier import Classifier
    from edge_agent.model_bundle import open_bundle

    return Classifier(open_bundle(bundle))


def bare(classifier: Classifier, picture: np.ndarray) -> Callable[[], Any]:
    """The network without the nodes of the map: what an export without one would run."""
    import onnx
    import onnxruntime

    from trainer.exporting.cam_graph import prune

    model = onnx.load_model_from_string(classifier.bundle.model_bytes)
    for put in [put for put in model.graph.output if put.name != "probabilities"]:
        model.graph.output.remove(put)
    prune(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"micrograph": picture[None, None]})


def origin_map(model: Any, layer: str, coloured: np.ndarray) -> np.ndarray:
    """Grad-CAM as notebooks have it: a second model on each call, the tape from the softmax."""
    import keras
    import tensorflow as tf

    both = keras.Model(model.inputs, [model.get_layer(layer).output, model.output])
    with tf.GradientTape() as tape:
        features, answers = both([coloured])
        likely = tf.reduce_max(answers[0])
    slope = tape.gradient(likely, features)
    return np.asarray(tf.reduce_sum(tf.reduce_mean(slope, axis=(0, 1, 2)) * features[0], axis=-1))


def origin_heatmap(model: Any, layer: str, coloured: np.ndarray) -> np.ndarray:
    model.predict(coloured, verbose=0)
    values = np.maximum(origin_map(model, layer, coloured), 0)
    return values / max(float(values.max()), 1e-12)


def keras_vis(model: Any, layer: str, coloured: np.ndarray) -> Callable[[], Any]:
    try:
        from tf_keras_vis.gradcam import Gradcam
        from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
        from tf_keras_vis.utils.scores import CategoricalScore
    except ImportError:
        print("tf-keras-vis is not installed: left out")
        return lambda: None
    try:
        maker = Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
        maker(CategoricalScore(0), coloured, penultimate_layer=layer)
    except Exception as error:
        print(f"tf-keras-vis cannot take this model ({type(error).__name__}: {str(error)[:80]}): left out")
        return lambda: None
    return lambda: maker(CategoricalScore(0), coloured, penultimate_layer=layer)


def in_turns(chains: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median milliseconds of each, taken in turns so that a noisy machine disturbs all alike."""
    seen: dict[str, list[float]] = {name: [] for name in chains}
    for index in range(runs + 2):
        for name, chain in chains.items():
            started = time.perf_counter()
            chain()
            if index >= 2:
                seen[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(times) for name, times in seen.items()}


if __name__ == "__main__":
    main()
