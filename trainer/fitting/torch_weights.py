"""Tensors out of torch's legacy (before zip) weight files, without torch and without running any of their code.

Such a file is a pickle, which may name any function to be called on loading. Only this module knows the format,
and which four names a file of weights may hold.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class WeightsRefused(Exception):
    """A file is not a legacy torch weights file, or is cut off; the message names it."""


# What the unpickler and a dictionary walk raise on bytes that are something else.
_DAMAGED: Final = (
    EOFError,
    pickle.UnpicklingError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class _WeightsUnpickler(pickle.Unpickler):
    """Reads the object part of a legacy torch file: ordered dictionaries of tensors, and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: (
                storage,
                offset,
                size,
                stride,
            ),
            ("torch", "FloatStorage"): np.dtype("<f4"),
            ("torch", "LongStorage"): np.dtype("<i8"),
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"a weights file must not name {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401
        _, dtype, key, _, count, _ = pid
        return dtype, key, int(count)


def read_torch_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Tensors by name from a legacy (before zip) torch file; no torch needed, no code of the file is run.

    Raises:
        WeightsRefused: the file is not of that kind.

    """
    try:
        with path.open("rb") as file:
            for _ in range(3):  # magic number, protocol version, byte order and sizes
                _WeightsUnpickler(file).load()
            entries = _WeightsUnpickler(file).load()
            storages = dict.fromkeys(_WeightsUnpickler(file).load())
            types = {storage[1]: storage for storage, *_ in entries.values()}
            arrays = {key: _read_storage(file, types[key]) for key in storages}
            return {
                name: _strided(arrays[storage[1]], offset, size, stride)
                for name, (storage, offset, size, stride) in entries.items()
            }
    except (*_DAMAGED, OSError) as error:
        raise WeightsRefused(f"{path}: not a legacy torch weights file, or cut off ({error})") from error


def _read_storage(file: IO[bytes], storage: tuple[np.dtype[Any], str, int]) -> NDArray[Any]:
    dtype, key, expected = storage
    count = int.from_bytes(file.read(8), "little")
    data = file.read(count * dtype.itemsize) if count == expected else b""
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"storage {key} holds {len(data)} bytes, {expected * dtype.itemsize} expected")
    return np.frombuffer(data, dtype)


def _strided(flat: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> NDArray[Any]:
    itemsize = flat.dtype.itemsize
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or last >= flat.size:
        raise ValueError(f"a tensor of shape {size} reaches beyond its storage of {flat.size} values")
    return np.lib.stride_tricks.as_strided(flat[offset:], size, [step * itemsize for step in stride]).copy()
