"""What an ONNX file says about itself, so that it can be used without this project: labels, input, outputs.

Only this module knows the entries in the file's `metadata_props`: a plain `labels`, and keys that begin with
`scopewatch.`; each value is JSON. They are appended to the file's encoding, without reading the weights.
Field numbers are those of onnx.proto3 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from edge_agent import __version__
from edge_agent.onnx_file import encoded_number, fields, text_field

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edge_agent.model_bundle import Manifest, Tensor

PREFIX: Final = "scopewatch."
LABELS: Final = "labels"
SCHEMA: Final = "scopewatch.onnx/1"

_METADATA, _KEY, _VALUE = 14, 1, 2
_BYTES: Final = 2
_LAYOUT: Final = "[n, 1, rows, columns], float32: one grey channel, rows from the top"
_SIZES: Final = {
    "specimen": (
        "a rectangle with the proportions of the micrograph (of the specimen, where its pixels are not square) and "
        "the area of input_px x input_px, no side longer than longest_px; shrunk by area average, enlarged by "
        "linear interpolation between pixel centres"
    ),
    "square": (
        "exactly input_px x input_px, stretched, whatever the proportions of the micrograph; shrunk by area "
        "average, enlarged by linear interpolation between pixel centres"
    ),
}
_CONTRAST: Final = (
    "grey = clip((count - low) / (high - low), 0, 1) before the size is changed; low and high are the counts of "
    "the whole micrograph below and above which clipped_fraction of all pixels lie; isolated hot pixels are first "
    "replaced by the median of their eight neighbours; a constant micrograph is 0.5 everywhere"
)
_VALUES: Final = "input = grey * (value_range[1] - value_range[0]) + value_range[0]"
_BOXES: Final = (
    "divisions x divisions equal boxes of the micrograph (1: the whole), or squares of field_of_view_nm where that "
    "is given; each is shown in each view, and the probabilities are averaged"
)
_PROBABILITIES: Final = "probability of each label, in the order of labels; the softmax is in the graph"
_MAP: Final = (
    "evidence in logits on a grid of cells laid evenly over the input, cell (0, 0) upper left; the mean over its "
    "cells is the logit of the class, to first order; the positive part speaks for the class"
)
_NOVELTY: Final = (
    "how unlike the training micrographs the input is, from its feature map; 1 is exceeded by about one in twenty "
    "good micrographs"
)
_DECISION: Final = (
    "an answer counts when it uses up no more than one limit in all: (log novelty - log novelty_usual) / (log "
    "novelty - log novelty_usual of the thresholds), at least 0, plus the same of the log odds of the probability; "
    "and when pixel size, voltage, detector and look of the field are as in training"
)
_OF_WINNER: Final = "of the label with the largest probability of each input"
_OF_EVERY: Final = "of every label, in the order of labels"


def stamped(model: bytes, manifest: Manifest) -> bytes:
    """The same ONNX file with the manifest's facts in its metadata; earlier ones of ours are replaced.

    What others wrote into the metadata stays. Raises OnnxRefused where `model` is not the encoding of a model.
    """
    kept: list[bytes | memoryview] = [model]
    if _written(model):
        kept = _without_ours(model)
    new = (_entry(key, json.dumps(value, ensure_ascii=False)) for key, value in _facts(manifest).items())
    return b"".join([*kept, *new])


def read(model: bytes) -> dict[str, Any]:
    """What `stamped` wrote, by key; empty for a file that it has not seen.

    Raises:
        OnnxRefused: not the encoding of a model.
        ValueError: a value under one of our keys is not JSON.

    """
    return {key: json.loads(value) for key, value in _written(model).items()}


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Everything that is stated, by key, in the order in which it is written."""
    return {
        LABELS: list(manifest.labels),
        f"{PREFIX}schema": SCHEMA,
        f"{PREFIX}name": manifest.name,
        f"{PREFIX}version": manifest.version,
        f"{PREFIX}licence": manifest.licence,
        f"{PREFIX}intended_use": manifest.intended_use,
        f"{PREFIX}input": _input(manifest),
        f"{PREFIX}outputs": dict(_outputs(manifest)),
        f"{PREFIX}decision": _decision(manifest),
        f"{PREFIX}cam": manifest.cam.model_dump(mode="json"),
        f"{PREFIX}made_with": {"scopewatch": __version__},
    }


def _input(manifest: Manifest) -> dict[str, Any]:
    rule = manifest.preprocessing
    return {
        **_tensor(manifest.tensors.input),
        "layout": _LAYOUT,
        "input_px": rule.input_px,
        "proportions": rule.proportions,
        "longest_px": rule.longest_px,
        "clipped_fraction": rule.clipped_fraction,
        "value_range": list(rule.value_range),
        "divisions": rule.tiles.divisions,
        "field_of_view_nm": rule.tiles.field_of_view_nm,
        "views": list(rule.views),
        "in_words": {
            "contrast": _CONTRAST,
            "size": _SIZES[rule.proportions],
            "values": _VALUES,
            "boxes": _BOXES,
        },
    }


def _outputs(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    tensors = manifest.tensors
    yield "probabilities", {**_tensor(tensors.probabilities), "meaning": _PROBABILITIES}
    if tensors.cam is not None:
        whose = _OF_WINNER if tensors.cam_every_class is not None else _OF_EVERY
        yield "cam", {**_tensor(tensors.cam), "meaning": f"{_MAP}; {whose}"}
    if tensors.novelty is not None:
        yield "novelty", {**_tensor(tensors.novelty), "meaning": _NOVELTY}
    if tensors.cam_every_class is not None:
        yield "cam_every_class", {**_tensor(tensors.cam_every_class), "meaning": f"{_MAP}; {_OF_EVERY}"}


def _decision(manifest: Manifest) -> dict[str, Any]:
    """All that a decision hangs on: another operating point is another file, with a hash of its own."""
    limits = manifest.thresholds
    return {
        "in_words": _DECISION if limits is not None else "no thresholds: every answer stands, however unsure",
        "thresholds": None if limits is None else limits.model_dump(mode="json"),
        "saturated_fraction": manifest.saturated_fraction,
        "guards": manifest.guards.model_dump(mode="json"),
        "training_ranges": manifest.training_ranges.model_dump(mode="json"),
        "temperature": manifest.temperature,
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape)}


def _written(model: bytes) -> dict[str, str]:
    return {
        text_field(value, _KEY): text_field(value, _VALUE)
        for field, value in fields(memoryview(model))
        if field == _METADATA and isinstance(value, memoryview) and _is_ours(value)
    }


def _is_ours(entry: memoryview) -> bool:
    key = text_field(entry, _KEY)
    return key == LABELS or key.startswith(PREFIX)


def _without_ours(model: bytes) -> list[bytes | memoryview]:
    """The file in pieces, our entries left out. A model's own fields are all numbers or bytes."""
    pieces: list[bytes | memoryview] = []
    for field, value in fields(memoryview(model)):
        if isinstance(value, int):
            pieces.append(encoded_number(field << 3) + encoded_number(value))
        elif field != _METADATA or not _is_ours(value):
            pieces += [_head(field, len(value)), value]
    return pieces


def _entry(key: str, value: str) -> bytes:
    parts = [(_KEY, key.encode()), (_VALUE, value.encode())]
    content = b"".join(_head(field, len(text)) + text for field, text in parts)
    return _head(_METADATA, len(content)) + content


def _head(field: int, length: int) -> bytes:
    return encoded_number(field << 3 | _BYTES) + encoded_number(length)
