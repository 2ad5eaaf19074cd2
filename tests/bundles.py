"""A bundle small enough for any test: a strided convolution with a CAM head, random but fixed weights."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.model_bundle import Golden, Manifest, Network, Parity, Tensor, Tensors
from edge_agent.preprocessing import Preprocessing
from trainer.exporting.bundle_writer import BundleFiles, write_bundle
from trainer.exporting.cam_graph import append_cam_head

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("faceted", "rod", "round")


def tiny_model(labels: tuple[str, ...] = LABELS, seed: int = 0) -> bytes:
    """An ONNX model with the shipped bundle's tensor names; strided 8 px convolution, 8 channels."""
    random = np.random.default_rng(seed)
    kernel = random.normal(0, 0.2, (8, 1, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["x", "kernel"], ["map"], kernel_shape=[8, 8], strides=[8, 8], auto_pad="SAME_UPPER"
            ),
            helper.make_node("Relu", ["map"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "rows", "columns"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, "down", "across"])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    backbone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    weights = random.normal(0, 3, (8, len(labels))).astype(np.float32)
    bias = np.zeros(len(labels), dtype=np.float32)
    model = append_cam_head(backbone, weights, bias)
    assert isinstance(model, onnx.ModelProto)
    return bytes(model.SerializeToString())


def tiny_manifest(
    labels: tuple[str, ...] = LABELS, preprocessing: Preprocessing | None = None, name: str = "tiny"
) -> Manifest:
    """The manifest that goes with `tiny_model`."""
    return Manifest(
        name=name,
        version="1",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        labels=labels,
        tensors=Tensors(
            input=Tensor(name="micrograph", shape=(None, 1, None, None)),
            probabilities=Tensor(name="probabilities", shape=(None, len(labels))),
            cam=Tensor(name="cam", shape=(None, len(labels), None, None)),
        ),
        preprocessing=preprocessing or Preprocessing(input_px=64),
        network=Network(
            backbone="tiny", weights_origin="random", fine_tuned_from="none", opset=17, parameters=536
        ),
        dataset_fingerprint="none",
        seed=0,
        parity=Parity(crops=0, probabilities=0.0, cam=0.0, tolerance=1e-4),
        golden=Golden(cases=0, tolerance=1e-3),
        sha256={},
        licence="GPL-3.0-or-later",
        intended_use="tests",
    )


def tiny_bundle(
    folder: Path,
    *,
    labels: tuple[str, ...] = LABELS,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
) -> Path:
    """Write a tiny bundle into `folder` (which must not exist) and return its path."""
    files = BundleFiles(tiny_model(labels, seed))
    return write_bundle(folder, files, tiny_manifest(labels, preprocessing)).path
