"""The tag tree of a DigitalMicrograph 3 or 4 file, parsed by ncempy and never believed.

Only this module knows ncempy and the bytes of the tree. Every count and length is compared with the file
and with fixed limits before anything is allocated or skipped, because ncempy has no error contract and
takes what it reads for true. Arrays are skipped: a file of tens of gigabytes costs as much as its tags.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from edge_agent.unusable_file import DamagedFile, IncompleteFile, UnusableFile

if TYPE_CHECKING:
    from types import ModuleType

MAGIC: Final = (b"\x00\x00\x00\x03", b"\x00\x00\x00\x04")

# Far above what instruments write (1,353 tags and 13 levels at most in 122 real files), far below what hurts.
_MOST_TAGS: Final = 100_000
_DEEPEST_GROUP: Final = 64
_DEEPEST_ARRAY: Final = 16
_LONGEST_VALUE_BYTES: Final = 1024 * 1024
_MOST_TAG_BYTES: Final = 64 * 1024 * 1024
_MOST_NAME_CHARACTERS: Final = 64 * 1024 * 1024
_LONGEST_TEXT_BYTES: Final = 1000  # as in ncempy: longer arrays are data and stay unread

# Measured on 122 files: the header's length field leaves out at least this much, and the tree is followed
# by eight zero bytes whoever wrote the file.
_HEADER_BYTES: Final = {3: 12, 4: 16}
_UNCOUNTED_BYTES: Final = {3: 16, 4: 20}
_BYTES_AFTER_TREE: Final = 8
_TOLERATED_BYTES: Final = 24

_GROUP, _TAG = 20, 21
_NATIVE_TYPES: Final = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
_STRUCT, _STRING, _ARRAY = 15, 18, 20


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
    except UnusableFile:
        raise
    except OSError as error:
        if error.errno is not None:  # ncempy's own complaints carry none
            raise
        raise _broken_tree(handle, size_bytes, parser, error) from error
    except Exception as error:
        raise _broken_tree(handle, size_bytes, parser, error) from error
    _require_end(handle, size_bytes)
    tags: dict[str, object] = parser.allTags
    return tags


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


def _broken_tree(handle: BinaryIO, size_bytes: int, parser: _BoundedDM, error: Exception) -> UnusableFile:
    where: int = parser.tag_offset
    handle.seek(where)
    here = handle.read(32)
    handle.seek(max(0, size_bytes - 64))
    if not any(here) or not any(handle.read(64)):
        return IncompleteFile(f"holds zeros where tags should follow (byte {where}); still being written")
    # What ncempy raises is at times a failed assertion or a bare key, which says nothing to a person.
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
        self.size_bytes = size_bytes
        self.tag_offset = _HEADER_BYTES[version]
        self.tags_seen = self.bytes_read = self.name_characters = self.array_depth = 0
        self.may_parse = False
        super().__init__(handle, on_memory=False)

    def __del__(self) -> None:
        """Leave the handle to its owner (ncempy would close it)."""

    def parse(self) -> None:
        self.may_parse = True
        self.parseHeader()

    def parseHeader(self) -> None:  # noqa: N802 - ncempy's name
        if not self.may_parse:  # ncempy calls this while it is constructed
            return
        # ncempy counts unlabelled tags in int8 and overflows at the 128th.
        self._maxDepth = _DEEPEST_GROUP
        self._curGroupAtLevelX = np.zeros(_DEEPEST_GROUP + 1, np.int64)
        self._curTagAtLevelX = np.zeros(_DEEPEST_GROUP + 1, np.int64)
        super().parseHeader()

    def fromfile(self, fid: BinaryIO, dtype: Any, count: int) -> np.ndarray:  # noqa: ANN401
        kind = np.dtype(dtype)
        wanted = int(count) * kind.itemsize
        self.bytes_read += wanted
        if wanted > _LONGEST_VALUE_BYTES or self.bytes_read > _MOST_TAG_BYTES:
            raise _BadTag(f"a value of {wanted} bytes is beyond the limits for tags")
        data = fid.read(wanted)
        if len(data) != wanted:
            raise _BadTag("the tree goes on behind the end of the file")
        return np.frombuffer(data, kind) if wanted else np.empty(0, kind)

    def _readTagGroup(self) -> None:  # noqa: N802
        start = self.fid.tell()
        head = self.fid.read(2 + self._specialType.itemsize)
        entries = int.from_bytes(head[2:], "big")
        if entries > min(_MOST_TAGS, self.size_bytes - start):
            raise _BadTag(f"a group claims {entries} entries")
        self.fid.seek(start)
        super()._readTagGroup()

    def _readTagEntry(self) -> None:  # noqa: N802
        self.tag_offset = self.fid.tell()
        self.tags_seen += 1
        if self.tags_seen > _MOST_TAGS:
            raise _BadTag(f"more than {_MOST_TAGS} tags")
        kind = self.fid.read(1)
        if kind not in (b"\x14", b"\x15"):
            raise _BadTag(f"an entry of kind {kind!r} instead of {_GROUP} or {_TAG}")
        self.fid.seek(self.tag_offset)
        super()._readTagEntry()

    def _encodedTypeSize(self, encodedType: Any) -> int:  # noqa: N802, N803, ANN401
        known = int(encodedType)
        if known not in _NATIVE_TYPES and known not in (_STRUCT, _STRING, _ARRAY):
            raise _BadTag(f"a value of unknown type {known}")
        size: int = super()._encodedTypeSize(known)
        return size

    def _readStructTypes(self) -> np.ndarray:  # noqa: N802
        fields: np.ndarray = super()._readStructTypes()
        if any(int(field) not in _NATIVE_TYPES for field in fields):
            raise _BadTag("a struct of something else than numbers")
        return fields

    def _readArrayTypes(self) -> Any:  # noqa: N802, ANN401
        self.array_depth += 1
        if self.array_depth > _DEEPEST_ARRAY:
            raise _BadTag("arrays of arrays without end")
        types = super()._readArrayTypes()
        self.array_depth = 0
        return types

    def _readArrayData(self, arrayTypes: Any) -> str:  # noqa: N802, N803, ANN401
        count = int.from_bytes(self.fid.read(self._specialType.itemsize), "big")
        types = [int(encoded) for encoded in arrayTypes]
        if any(encoded not in _NATIVE_TYPES for encoded in types):
            raise _BadTag(f"an array of unknown types {types}")
        size_bytes = count * sum(self._encodedTypeSize(encoded) for encoded in types)
        start = self.fid.tell()
        if start + size_bytes > self.size_bytes:
            missing = start + size_bytes - self.size_bytes
            raise _BadTag(f"an array of {size_bytes} bytes ends {missing} bytes behind the end of the file")
        if self._curTagName == "Data" or size_bytes >= _LONGEST_TEXT_BYTES or len(types) != 1:
            self._storeTag(f"{self._curTagName}.arraySize", size_bytes)
            self._storeTag(f"{self._curTagName}.arrayOffset", start)
            self.fid.seek(start + size_bytes)
            return ""
        character = np.dtype(np.uint16 if size_bytes == 2 * count else np.uint8)
        return self._bin2str(self.fromfile(self.fid, character, size_bytes // character.itemsize))

    @staticmethod
    def _bin2str(bin0: np.ndarray) -> str:
        data = bin0.tobytes()
        if bin0.dtype.itemsize == 2:
            return data.decode("utf-16-le", "replace")
        return data.decode("latin-1")

    def _storeTag(self, curTagName: str, curTagValue: object) -> None:  # noqa: N802, N803
        name = f"{self._curGroupNameAtLevelX}.{curTagName}"
        self.name_characters += len(name)
        if self.name_characters > _MOST_NAME_CHARACTERS:
            raise _BadTag("names of tags of more than 32 MiB together")
        self.allTags[name] = curTagValue
