"""Torch weight files without torch: tensors come out as they went in, and no code of a file is run."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections import OrderedDict
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trainer.fitting.backbones import _lite0_file
from trainer.fitting.torch_weights import WeightsRefused, read_torch_weights

if TYPE_CHECKING:
    from pathlib import Path


class Attack:
    """What a poisoned weights file holds: a call that runs on loading."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self._call


def torch_file(path: Path, entries: object) -> Path:
    """The start of a legacy torch file with these objects in it."""
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, entries, ["0"]):
        pickle.dump(part, buffer, protocol=2)
    path.write_bytes(buffer.getvalue())
    return path


def test_code_in_a_weights_file_is_not_run(tmp_path: Path) -> None:
    traces = tmp_path / "ran"
    file = torch_file(tmp_path / "evil.pth", OrderedDict(weight=Attack(os.system, f"touch {traces}")))
    with pytest.raises(WeightsRefused, match=r"evil.pth: .* must not name (posix|nt).system"):
        read_torch_weights(file)
    assert not traces.exists()
    pickle.loads(pickle.dumps(Attack(os.system, f"touch {traces}")))
    assert traces.exists(), "the attack is a real one"


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param(OrderedDict(weight=Attack(eval, "1/0")), id="eval"),
        pytest.param(OrderedDict(weight=Attack(getattr, OrderedDict, "fromkeys")), id="getattr"),
        pytest.param(OrderedDict(weight=Attack(np.load, "x")), id="a numpy function"),
        pytest.param(OrderedDict(weight=(1, 2)), id="no tensor"),
        pytest.param([1, 2, 3], id="no dictionary"),
        pytest.param(7, id="a number"),
    ],
)
def test_nothing_else_than_tensors_is_taken(tmp_path: Path, entries: object) -> None:
    with pytest.raises(WeightsRefused, match="not a legacy torch weights file"):
        read_torch_weights(torch_file(tmp_path / "odd.pth", entries))


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.002, 0.3, 0.9999999])
def test_a_cut_off_file_is_refused(tmp_path: Path, share: float) -> None:
    whole = _lite0_file().read_bytes()
    file = tmp_path / "cut.pth"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsRefused, match=r"cut.pth: not a legacy torch weights file, or cut off"):
        read_torch_weights(file)


def test_a_missing_file_and_other_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("these are no weights\n" * 100)
    for name in ("lost.pth", "text.pth"):
        with pytest.raises(WeightsRefused, match=f"{name}: not a legacy torch weights file"):
            read_torch_weights(tmp_path / name)


class Tensor:
    """Pickles as torch's tensors do: a rebuild call on a storage that lies behind the objects."""

    def __init__(self, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.view = (offset, size, stride)


class TorchPickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", STORAGE_TYPE, "0", "cpu", 6, None) if obj is STORAGE else None

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, Tensor):
            return REBUILD, (STORAGE, *obj.view, False, OrderedDict())
        return NotImplemented


STORAGE = object()
STORAGE_TYPE = type("FloatStorage", (), {"__module__": "torch"})


def REBUILD() -> None:
    """Stands for torch._utils._rebuild_tensor_v2."""


REBUILD.__module__, REBUILD.__qualname__, REBUILD.__name__ = (
    "torch._utils",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v2",
)


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that pickle looks up while it writes."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    torch.FloatStorage, torch._utils, utils._rebuild_tensor_v2 = STORAGE_TYPE, utils, REBUILD  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def tensor_file(path: Path, tensor: Tensor) -> Path:
    buffer = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}, OrderedDict(weight=tensor), ["0"]):
        TorchPickler(buffer, protocol=2).dump(part)
    path.write_bytes(buffer.getvalue() + (6).to_bytes(8, "little") + np.arange(6, dtype="<f4").tobytes())
    return path


@pytest.mark.parametrize(
    ("tensor", "values"),
    [
        pytest.param(Tensor(0, (2, 3), (3, 1)), [[0, 1, 2], [3, 4, 5]], id="plain"),
        pytest.param(Tensor(0, (3, 2), (1, 3)), [[0, 3], [1, 4], [2, 5]], id="transposed"),
        pytest.param(Tensor(4, (2,), (1,)), [4, 5], id="a part"),
        pytest.param(Tensor(2, (), ()), 2, id="a number"),
    ],
)
def test_tensors_are_views_of_their_storage(
    tmp_path: Path, torch_names: None, tensor: Tensor, values: object
) -> None:
    read = read_torch_weights(tensor_file(tmp_path / "w.pth", tensor))
    np.testing.assert_array_equal(read["weight"], np.array(values, dtype=np.float32))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(Tensor(0, (2, 4), (3, 1)), id="beyond the end"),
        pytest.param(Tensor(-1, (2,), (1,)), id="before the start"),
        pytest.param(Tensor(0, (3,), (-1,)), id="backwards"),
        pytest.param(Tensor(0, (2, 3), (3,)), id="a stride is missing"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, torch_names: None, tensor: Tensor) -> None:
    with pytest.raises(WeightsRefused, match=r"w.pth: not a legacy torch weights file"):
        read_torch_weights(tensor_file(tmp_path / "w.pth", tensor))
