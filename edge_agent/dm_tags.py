"""The tag tree of a DigitalMicrograph 3 or 4 file, parsed and never believed.

Only this module knows the bytes of the tree. Every count and length is compared with the file and with fixed
limits before anything is allocated or skipped, so that a file costs at most what its tags may cost. Arrays
are skipped: a file of tens of gigabytes costs as much as its tags. The layout follows ncempy's `io/dm.py`,
against which the tests compare; ncempy itself has no bounds, and takes 13 us a tag where this takes 3.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from edge_agent.unusable_file import DamagedFile, IncompleteFile, UnusableFile

MAGIC: Final = (b"\x00\x00\x00\x03", b"\x00\x00\x00\x04")

# Far above what instruments write (1,353 tags, 13 levels, paths of 117 characters, 36 KiB of names and 38 KiB
# of values at most in 122 real files), and so that a file at every limit costs about 100 ms and 64 MiB.
_MOST_TAGS: Final = 15_000
"""Tags, fields of structs and levels of nested arrays together: each costs about the same."""
_DEEPEST_GROUP: Final = 64
_DEEPEST_ARRAY: Final = 16
_LONGEST_VALUE_BYTES: Final = 1024 * 1024
_MOST_TAG_BYTES: Final = 16 * 1024 * 1024
_LONGEST_PATH: Final = 4096
_MOST_NAME_CHARACTERS: Final = 4 * 1024 * 1024
_LONGEST_TEXT_BYTES: Final = 1000  # as in ncempy: longer arrays are data and stay unread
_MOST_FIELDS: Final = 100  # as in ncempy

# Measured on 122 files: the header's length field leaves out at least this much, and the tree is followed
# by eight zero bytes whoever wrote the file.
_HEADER_BYTES: Final = {3: 12, 4: 16}
_UNCOUNTED_BYTES: Final = {3: 16, 4: 20}
_BYTES_AFTER_TREE: Final = 8
_TOLERATED_BYTES: Final = 24

_GROUP, _TAG = 20, 21
# Number types and their layout in the file, as ncempy reads them.
_NUMBERS: Final = {
    kind: struct.Struct(f"<{code}")
    for kind, code in {
        2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "B", 9: "b", 10: "b", 11: "Q", 12: "Q",
    }.items()
}  # fmt: skip
_STRUCT, _STRING, _ARRAY = 15, 18, 20


def read_tags(handle: BinaryIO, size_bytes: int) -> dict[str, object]:
    """Return every tag of an open DM3 or DM4 file of `size_bytes`, by its path (".ImageList.1.Name").

    Of a skipped array there are two entries, `<path>.arrayOffset` and `<path>.arraySize` in bytes; both lie
    inside the file. Raises IncompleteFile when the file is shorter than its header promises or holds zeros
    where the tree should go on, DamagedFile for anything else that cannot be, OSError when the disk fails.
    """
    tree = _Tree(handle, size_bytes, _require_header(handle, size_bytes))
    try:
        tree.read()
    except _BadTag as error:
        raise _broken_tree(handle, size_bytes, tree.tag_offset, error) from error
    _require_end(handle, size_bytes)
    return tree.tags


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


def _broken_tree(handle: BinaryIO, size_bytes: int, where: int, error: _BadTag) -> UnusableFile:
    handle.seek(where)
    here = handle.read(32)
    handle.seek(max(0, size_bytes - 64))
    if not any(here) or not any(handle.read(64)):
        return IncompleteFile(f"holds zeros where tags should follow (byte {where}); still being written")
    return DamagedFile(f"has a damaged tag tree at byte {where}: {error}")


class _Tree:
    """The tags from the root on. Nothing is read or kept before its size was compared with the limits."""

    def __init__(self, handle: BinaryIO, size_bytes: int, version: int) -> None:
        self.tags: dict[str, object] = {}
        self.tag_offset = _HEADER_BYTES[version]
        self._handle = handle
        self._size_bytes = size_bytes
        self._word_bytes = 4 if version == 3 else 8
        self._has_tag_lengths = version == 4
        self._tags_seen = self._bytes_read = self._name_characters = 0

    def read(self) -> None:
        self._handle.seek(self.tag_offset)
        self._group("", 1)

    def _group(self, path: str, depth: int) -> None:
        start = self._handle.tell()
        if depth > _DEEPEST_GROUP:
            raise _BadTag(f"groups in groups beyond the depth of {_DEEPEST_GROUP}")
        self._take(2)  # sorted, open: how the tree was shown
        entries = self._word()
        if entries > min(_MOST_TAGS, self._size_bytes - start):
            raise _BadTag(f"a group claims {entries} entries")
        for number in range(1, entries + 1):
            self._entry(path, number, depth)

    def _entry(self, parent: str, number: int, depth: int) -> None:
        self.tag_offset = self._handle.tell()
        self._count(1)
        head = self._take(3)
        if head[0] not in (_GROUP, _TAG):
            raise _BadTag(f"an entry of kind {head[:1]!r} instead of {_GROUP} or {_TAG}")
        label = self._take(int.from_bytes(head[1:], "big")).decode("latin-1") or str(number)
        if self._has_tag_lengths:
            self._take(8)  # nothing here relies on it
        path = self._path(parent, label)
        if head[0] == _GROUP:
            self._group(path, depth + 1)
        else:
            self._value(path, label)

    def _path(self, parent: str, label: str) -> str:
        path = f"{parent}.{label}"
        self._name_characters += len(path)
        if len(path) > _LONGEST_PATH:
            raise _BadTag(f"a tag with a path of {len(path)} characters")
        if self._name_characters > _MOST_NAME_CHARACTERS:
            raise _BadTag(f"names of tags of more than {_MOST_NAME_CHARACTERS} characters together")
        return path

    def _value(self, path: str, label: str) -> None:
        head = self._take(4 + 2 * self._word_bytes)  # the mark, how many words describe the type, the type
        if head[:4] != b"%%%%":
            raise _BadTag("a value without its mark %%%%")
        kind = int.from_bytes(head[-self._word_bytes :], "big")
        if kind in _NUMBERS:
            self.tags[path] = self._number(kind)
        elif kind == _STRING:
            self.tags[path] = self._take(int.from_bytes(self._take(4), "big")).decode("latin-1")
        elif kind == _STRUCT:
            self.tags[path] = tuple(self._number(field) for field in self._struct_types())
        elif kind == _ARRAY:
            self._array(path, label, self._array_types())
        else:
            raise _BadTag(f"a value of unknown type {kind}")

    def _number(self, kind: int) -> float:
        layout = _NUMBERS[kind]
        number: float = layout.unpack(self._take(layout.size))[0]
        return number

    def _struct_types(self) -> list[int]:
        self._word()  # the length of the struct's name, which is 0
        count = self._word()
        if count > _MOST_FIELDS:
            raise _BadTag(f"a struct of {count} fields")
        self._count(count)
        words = [self._word() for _ in range(2 * count)]
        types = words[1::2]  # each after the length of the field's name
        if any(kind not in _NUMBERS for kind in types):
            raise _BadTag("a struct of something else than numbers")
        return types

    def _array_types(self) -> list[int]:
        for _ in range(_DEEPEST_ARRAY):
            self._count(1)
            kind = self._word()
            if kind == _STRUCT:
                return self._struct_types()
            if kind != _ARRAY:
                return [kind]
        raise _BadTag("arrays of arrays without end")

    def _array(self, path: str, label: str, types: list[int]) -> None:
        if any(kind not in _NUMBERS for kind in types):
            raise _BadTag(f"an array of unknown types {types}")
        count = self._word()
        size_bytes = count * sum(_NUMBERS[kind].size for kind in types)
        start = self._handle.tell()
        if start + size_bytes > self._size_bytes:
            missing = start + size_bytes - self._size_bytes
            raise _BadTag(f"an array of {size_bytes} bytes ends {missing} bytes behind the end of the file")
        if label == "Data" or size_bytes >= _LONGEST_TEXT_BYTES or len(types) != 1:
            self.tags[f"{path}.arraySize"] = size_bytes
            self.tags[f"{path}.arrayOffset"] = start
            self._handle.seek(start + size_bytes)
            return
        data = self._take(size_bytes)
        # Units and names are arrays of UTF-16, which DigitalMicrograph calls arrays of unsigned shorts.
        self.tags[path] = (
            data.decode("utf-16-le", "replace") if size_bytes == 2 * count else data.decode("latin-1")
        )

    def _take(self, wanted: int) -> bytes:
        self._bytes_read += wanted
        if wanted > _LONGEST_VALUE_BYTES or self._bytes_read > _MOST_TAG_BYTES:
            raise _BadTag(f"a value of {wanted} bytes is beyond the limits for tags")
        data = self._handle.read(wanted)
        if len(data) != wanted:
            raise _BadTag("the tree goes on behind the end of the file")
        return data

    def _word(self) -> int:
        return int.from_bytes(self._take(self._word_bytes), "big")

    def _count(self, more: int) -> None:
        self._tags_seen += more
        if self._tags_seen > _MOST_TAGS:
            raise _BadTag(f"more than {_MOST_TAGS} tags")
