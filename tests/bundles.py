"""A bundle small enough for any test: a strided convolution with a CAM head, random but fixed weights."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_agent.model_bundle import Cam, Golden, Manifest, Network, Parity, Tensor, Tensors
from edge_agent.preprocessing import Preprocessing
from trainer.exporting.bundle_writer import BundleFiles, write_bundle
from trainer.exporting.cam_head import append_cam_head

if TYPE_CHECKING:
    from pathlib import Path

LABELS = ("faceted", "rod", "round")
Form = Literal["every class", "winner", "winner, one size", "no map", "no map, one size"]
"""What a tiny bundle's graph gives: maps of every class, of the winner and apart from it of all, or none."""


def tiny_backbone(random: np.random.Generator) -> onnx.ModelProto:
    """A strided 8 px convolution with 8 channels, from x to y."""
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
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tiny_model(labels: tuple[str, ...] = LABELS, seed: int = 0) -> bytes:
    """An ONNX model with the shipped bundle's tensor names: `tiny_backbone` with a CAM head."""
    random = np.random.default_rng(seed)
    backbone = tiny_backbone(random)
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


def in_form(model: bytes, form: Form, labels: int = len(LABELS), side_px: int = 64) -> bytes:
    """A tiny model whose graph gives its maps otherwise; "one size": one input of `side_px` at a time."""
    graph = (changed := onnx.load_from_string(model)).graph
    (cam,) = (put for put in graph.output if put.name == "cam")
    if form.startswith("no map"):
        graph.output.remove(cam)
    elif form.startswith("winner"):
        for node in graph.node:
            node.input[:] = ["maps" if name == "cam" else name for name in node.input]
            node.output[:] = ["maps" if name == "cam" else name for name in node.output]
        places = np.arange(labels).reshape(1, labels, 1, 1)
        graph.initializer.extend(
            [numpy_helper.from_array(places, "places"), numpy_helper.from_array(np.array([2, 3]), "behind")]
        )
        graph.node.extend(
            [
                helper.make_node("ArgMax", ["probabilities"], ["place"], axis=1, keepdims=1),
                helper.make_node("Unsqueeze", ["place", "behind"], ["winner"]),
                helper.make_node("Equal", ["places", "winner"], ["is_winner"]),
                helper.make_node("Cast", ["is_winner"], ["share"], to=TensorProto.FLOAT),
                helper.make_node("Mul", ["maps", "share"], ["winners"]),
                helper.make_node("ReduceMax", ["winners"], ["highest"], axes=[1], keepdims=1),
                helper.make_node("ReduceMin", ["winners"], ["lowest"], axes=[1], keepdims=1),
                helper.make_node("Add", ["highest", "lowest"], ["cam"]),
                helper.make_node("Identity", ["maps"], ["cam_every_class"]),
            ]
        )
        cam.type.tensor_type.shape.dim[1].dim_value = 1
        size = ["batch", labels, "down", "across"]
        graph.output.append(helper.make_tensor_value_info("cam_every_class", TensorProto.FLOAT, size))
    if form.endswith("one size"):
        for dim, value in zip(
            graph.input[0].type.tensor_type.shape.dim, (1, 1, side_px, side_px), strict=True
        ):
            dim.dim_value = value
        del graph.value_info[:]
    return bytes(changed.SerializeToString())


def manifest_in_form(manifest: Manifest, form: Form) -> Manifest:
    """The manifest that goes with `in_form`."""
    tensors, cam, rule, labels = manifest.tensors, manifest.cam, manifest.preprocessing, len(manifest.labels)
    if form.startswith("no map"):
        tensors, cam = tensors.model_copy(update={"cam": None}), Cam(method="occlusion")
    elif form.startswith("winner"):
        every = Tensor(name="cam_every_class", shape=(None, labels, None, None))
        one = Tensor(name="cam", shape=(None, 1, None, None))
        tensors = tensors.model_copy(update={"cam": one, "cam_every_class": every})
    if form.endswith("one size"):
        rule = rule.model_copy(update={"proportions": "square"})
        size = Tensor(name="micrograph", shape=(1, 1, rule.input_px, rule.input_px))
        tensors = tensors.model_copy(update={"input": size})
    return manifest.model_copy(update={"tensors": tensors, "cam": cam, "preprocessing": rule})


def tiny_bundle(
    folder: Path,
    *,
    labels: tuple[str, ...] = LABELS,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    form: Form = "every class",
    version: str = "1",
) -> Path:
    """Write a tiny bundle into `folder` (which must not exist) and return its path."""
    manifest = manifest_in_form(tiny_manifest(labels, preprocessing), form)
    manifest = manifest.model_copy(update={"version": version})
    model = in_form(tiny_model(labels, seed), form, len(labels), manifest.preprocessing.input_px)
    return write_bundle(folder, BundleFiles(model), manifest).path
