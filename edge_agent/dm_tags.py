"""The tag tree of a DigitalMicrograph 3 or 4 file, parsed by ncempy and never believed.

Only this module knows ncempy and the bytes of the tree. ncempy has no error contract and takes what it reads
for true; here every count and length is compared with the file and with fixed limits before anything is
allocated or skipped, so that a file costs at most what its tags may cost. Arrays are skipped: a file of tens
of gigabytes costs as much as its tags. Numbers come as Python's: numpy's scalars cost ncempy most of its time.
"""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from edge_agent.unusable_file import DamagedFile, IncompleteFile, UnusableFile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

MAGIC: Final = (b"\x00\x00\x00\x03", b"\x00\x00\x00\x04")

# Far above what instruments write (1,353 tags, 13 levels, paths of 117 characters, 36 KiB of names and 38 KiB
# of values at most in 122 real files), and so that a file at every limit costs less than 100 ms and 64 MiB.
_MOST_TAGS: Final = 4000
"""Tags, fields of structs and levels of nested arrays together: each costs about the same."""
_DEEPEST_GROUP: Final = 64
_DEEPEST_ARRAY: Final = 16
_LONGEST_VALUE_BYTES: Final = 1024 * 1024
_MOST_TAG_BYTES: Final = 16 * 1024 * 1024
_LONGEST_PATH: Final = 4096
_MOST_NAME_CHARACTERS: Final = 4 * 1024 * 1024
_LONGEST_TEXT_BYTES: Final = 1000  # as in ncempy: longer arrays are data and stay unread

# Measured on 122 files: the header's length field leaves out at least this much, and the tree is followed
# by eight zero bytes whoever wrote the file.
_HEADER_BYTES: Final = {3: 12, 4: 16}
_UNCOUNTED_BYTES: Final = {3: 16, 4: 20}
_BYTES_AFTER_TREE: Final = 8
_TOLERATED_BYTES: Final = 24

_GROUP, _TAG = 20, 21
_STRUCT, _STRING, _ARRAY = 15, 18, 20
_NUMBER_BYTES: Final = {2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}

# What ncempy asks for while it reads a tree, and its layout in the file.
_TEXT, _MARK = "<u1", "<i1"
_WORD: Final[dict[int, np.dtype[Any]]] = {3: np.dtype(">u4"), 4: np.dtype(">u8")}
_LAYOUTS: Final[dict[Any, struct.Struct]] = {
    dtype: struct.Struct(layout)
    for dtype, layout in {
        np.dtype(">u1"): "B", ">u2": ">H", ">u4": ">I", _WORD[3]: ">I", _WORD[4]: ">Q",
        np.int16: "<h", np.int32: "<i", np.uint16: "<H", np.uint32: "<I", np.float32: "<f",
        np.float64: "<d", np.uint8: "B", np.int8: "b", np.uint64: "<Q",
    }.items()
}  # fmt: skip
_SOUND_MARK: Final = np.frombuffer(b"%%%%", np.int8)


def read_tags(handle: BinaryIO, size_bytes: int) -> dict[str, object]:
    """Return every tag of an open DM3 or DM4 file of `size_bytes`, by its path (".ImageList.1.Name").

    Of a skipped array there are two entries, `<path>.arrayOffset` and `<path>.arraySize` in bytes; both lie
    inside the file. Raises IncompleteFile when the file is shorter than its header promises or holds zeros
    where the tree should go on, DamagedFile for anything else that cannot be, OSError when the disk fails.
    """
    version = _require_header(handle, size_bytes)
    handle.seek(0)
    parser = _BoundedDM(handle, size_bytes, version)
    try:
        parser.parse()
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # ncempy's own complaints carry none
            raise
        raise _broken_tree(handle, size_bytes, parser.tag_offset, error) from error
    _require_end(handle, size_bytes)
    return parser.tags


class _BadTag(Exception):
    """What is wrong with a tag, in words."""


def _require_header(handle: BinaryIO, size_bytes: int) -> int:
    handle.seek(0)
    head = handle.read(16)
    version = int.from_bytes(head[:4], "big")
    header_bytes = _HEADER_BYTES.get(version)
    if header_bytes is None:
        raise DamagedFile(f"is not a DigitalMicrograph 3 or 4 file: it begins with {head[:8]!r}")
    if size_bytes < header_bytes or len(head) < header_bytes:
        raise IncompleteFile(f"is only {size_bytes} bytes long, less than a DM{version} header")
    promised = int.from_bytes(head[4 : header_bytes - 4], "big") + _UNCOUNTED_BYTES[version]
    if size_bytes < promised:
        raise IncompleteFile(
            f"is {size_bytes} bytes long, its header promises {promised}; still being written, or cut off"
        )
    if promised == _UNCOUNTED_BYTES[version]:
        raise IncompleteFile("has a header that promises nothing yet; still being written")
    if head[header_bytes - 4 : header_bytes] != b"\x00\x00\x00\x01":
        order = int.from_bytes(head[header_bytes - 4 : header_bytes], "big")
        raise DamagedFile(f"has byte order mark {order}; only little-endian files (mark 1) can be read")
    return version


def _require_end(handle: BinaryIO, size_bytes: int) -> None:
    """Compare the tree's end with the file's: a hole can read as an empty group and end the tree early."""
    left = size_bytes - handle.tell()
    if left < _BYTES_AFTER_TREE:
        raise IncompleteFile("ends right behind its tag tree; still being written, or cut off")
    if left > _BYTES_AFTER_TREE + _TOLERATED_BYTES:
        if not any(handle.read(_LONGEST_VALUE_BYTES)):
            raise IncompleteFile(
                f"holds zeros in its last {left} bytes, behind its tags; still being written"
            )
        raise DamagedFile(f"has {left} bytes behind the end of its tag tree, which no complete file has")


def _broken_tree(handle: BinaryIO, size_bytes: int, where: int, error: Exception) -> UnusableFile:
    handle.seek(where)
    here = handle.read(32)
    handle.seek(max(0, size_bytes - 64))
    if not any(here) or not any(handle.read(64)):
        return IncompleteFile(f"holds zeros where tags should follow (byte {where}); still being written")
    # What ncempy raises can be a bare key, which says nothing to a person.
    seen = f": {error}" if " " in str(error) else ", which makes no sense there"
    return DamagedFile(f"has a damaged tag tree at byte {where}{seen}")


def _ncempy_dm() -> ModuleType:
    """Load `ncempy/io/dm.py` alone; the package imports matplotlib, scipy and h5py (1.6 to 4 s)."""
    package = importlib.util.find_spec("ncempy")
    if package is None or not package.submodule_search_locations:
        raise ImportError("ncempy is not installed; install scopewatch again with its dependencies")
    source = Path(package.submodule_search_locations[0]) / "io" / "dm.py"
    spec = importlib.util.spec_from_file_location("edge_agent._ncempy_dm", source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be loaded; install ncempy again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _BoundedDM(_ncempy_dm().fileDM):  # type: ignore[misc]
    """ncempy's parser with every count checked first; it neither maps nor closes, and reads no pixels."""

    def __init__(self, handle: BinaryIO, size_bytes: int, version: int) -> None:
        self.tags: dict[str, object] = {}
        self.tag_offset = _HEADER_BYTES[version]
        self._size_bytes = size_bytes
        self._version = version
        self._word_bytes = _WORD[version].itemsize
        self._tags_seen = self._bytes_read = self._name_characters = self._array_depth = 0
        self._may_parse = False
        super().__init__(handle, on_memory=False)

    def __del__(self) -> None:
        """Leave the handle to its owner (ncempy would close it)."""

    def parse(self) -> None:
        self._may_parse = True
        self.parseHeader()

    def parseHeader(self) -> None:  # noqa: N802 - ncempy's name
        if not self._may_parse:  # ncempy calls this while it is constructed
            return
        # ncempy counts unlabelled tags in int8, and one level too few.
        self._maxDepth = _DEEPEST_GROUP
        self._curGroupAtLevelX = [0] * (_DEEPEST_GROUP + 1)
        self._curTagAtLevelX = [0] * (_DEEPEST_GROUP + 1)
        self._specialType = _WORD[self._version]
        super().parseHeader()

    def fromfile(self, fid: BinaryIO, dtype: Any, count: int) -> Any:  # noqa: ANN401
        """Read what ncempy asks for: bytes for a text, else a tuple of Python's numbers."""
        if isinstance(dtype, list):
            return self._group_head()
        layout = _LAYOUTS.get(dtype)
        if layout is not None:
            data = self._take(count * layout.size)
            return layout.unpack(data) if count == 1 else [n for (n,) in layout.iter_unpack(data)]
        if dtype == _TEXT:
            return self._take(count)
        if dtype == _MARK:
            return self._mark()
        other = np.dtype(dtype)  # the file's header
        return np.frombuffer(self._take(count * other.itemsize), other)

    def _take(self, wanted: int) -> bytes:
        self._bytes_read += wanted
        if wanted > _LONGEST_VALUE_BYTES or self._bytes_read > _MOST_TAG_BYTES:
            raise _BadTag(f"a value of {wanted} bytes is beyond the limits for tags")
        data: bytes = self.fid.read(wanted)
        if len(data) != wanted:
            raise _BadTag("the tree goes on behind the end of the file")
        return data

    def _mark(self) -> np.ndarray:
        if self._take(4) != b"%%%%":  # ncempy only asserts it, which `python -O` leaves out
            raise _BadTag("a value without its mark %%%%")
        return _SOUND_MARK

    def _group_head(self) -> dict[str, tuple[int]]:
        start = self.fid.tell()
        entries = int.from_bytes(self._take(2 + self._word_bytes)[2:], "big")
        if entries > min(_MOST_TAGS, self._size_bytes - start):
            raise _BadTag(f"a group claims {entries} entries")
        return {"nTags": (entries,)}

    def _readTagGroup(self) -> None:  # noqa: N802
        self._require_short(self._curGroupNameAtLevelX)
        super()._readTagGroup()

    def _readTagEntry(self) -> None:  # noqa: N802
        self.tag_offset = self.fid.tell()
        self._count(1)
        kind = self.fid.read(1)
        if kind not in (b"\x14", b"\x15"):
            raise _BadTag(f"an entry of kind {kind!r} instead of {_GROUP} or {_TAG}")
        self.fid.seek(self.tag_offset)
        super()._readTagEntry()

    def _encodedTypeSize(self, encodedType: int) -> int:  # noqa: N802, N803
        size = _NUMBER_BYTES.get(encodedType)
        if size is not None:
            return size
        if encodedType not in (_STRUCT, _STRING, _ARRAY):
            raise _BadTag(f"a value of unknown type {encodedType}")
        return -1  # ncempy's sign for "not a number"

    def _readStructTypes(self) -> list[int]:  # noqa: N802
        types = [int(kind) for kind in super()._readStructTypes()]  # at most 100, or ncempy refuses
        self._count(len(types))
        if any(kind not in _NUMBER_BYTES for kind in types):
            raise _BadTag("a struct of something else than numbers")
        return types

    def _readStructData(self, structTypes: Sequence[int]) -> tuple[float, ...]:  # noqa: N802, N803
        return tuple(self._readNativeData(kind) for kind in structTypes)

    def _readArrayTypes(self) -> Any:  # noqa: N802, ANN401
        self._count(1)
        self._array_depth += 1
        if self._array_depth > _DEEPEST_ARRAY:
            raise _BadTag("arrays of arrays without end")
        types = super()._readArrayTypes()
        self._array_depth = 0
        return types

    def _readArrayData(self, arrayTypes: Sequence[int]) -> str | None:  # noqa: N802, N803
        """Read a short text, or note where an array lies and skip it. ncempy's sizes overflow at 2^64."""
        if any(kind not in _NUMBER_BYTES for kind in arrayTypes):
            raise _BadTag(f"an array of unknown types {arrayTypes}")
        count = int.from_bytes(self._take(self._word_bytes), "big")
        size_bytes = count * sum(_NUMBER_BYTES[kind] for kind in arrayTypes)
        start = self.fid.tell()
        if start + size_bytes > self._size_bytes:
            missing = start + size_bytes - self._size_bytes
            raise _BadTag(f"an array of {size_bytes} bytes ends {missing} bytes behind the end of the file")
        if self._curTagName == "Data" or size_bytes >= _LONGEST_TEXT_BYTES or len(arrayTypes) != 1:
            self._storeTag(f"{self._curTagName}.arraySize", size_bytes)
            self._storeTag(f"{self._curTagName}.arrayOffset", start)
            self.fid.seek(start + size_bytes)
            return None
        data = self._take(size_bytes)
        # Units and names are arrays of UTF-16, which DigitalMicrograph calls arrays of unsigned shorts.
        return data.decode("utf-16-le", "replace") if size_bytes == 2 * count else data.decode("latin-1")

    @staticmethod
    def _bin2str(bin0: bytes) -> str:
        return bin0.decode("latin-1")

    def _storeTag(self, curTagName: str, curTagValue: object) -> None:  # noqa: N802, N803
        if curTagValue is None:  # a skipped array, of which the place is stored
            return
        path = f"{self._curGroupNameAtLevelX}.{curTagName}"
        self._require_short(path)
        self.tags[path] = curTagValue

    def _require_short(self, path: str) -> None:
        self._name_characters += len(path)
        if len(path) > _LONGEST_PATH:
            raise _BadTag(f"a tag with a path of {len(path)} characters")
        if self._name_characters > _MOST_NAME_CHARACTERS:
            raise _BadTag(f"names of tags of more than {_MOST_NAME_CHARACTERS} characters together")

    def _count(self, more: int) -> None:
        self._tags_seen += more
        if self._tags_seen > _MOST_TAGS:
            raise _BadTag(f"more than {_MOST_TAGS} tags")
